//! What is no file in the places of objects, and of the directories of packs, seen by a machine that knows nothing of the repository yet.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::support::Place;

type Put = fn(&Path);

/// Puts something else there.
const OTHERS: [(&str, Put); 5] = [
    ("a link that leads nowhere", |path| symlink("nowhere", path).unwrap()),
    ("a link to itself", |path| symlink(path.file_name().unwrap(), path).unwrap()),
    ("a socket", |path| drop(UnixListener::bind(path).unwrap())),
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("a pipe", |path| rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap()),
];

/// One snapshot is damaged. The other one is restored, backups go on, and repair mends what it can.
#[track_caller]
fn assert_contained(place: &Place, what: &str) {
    let listed = place.run(["snapshots"]);
    assert!(matches!(listed.code, Some(0 | 4)), "{what}: {}", listed.stderr);
    for command in [&["check"][..], &["restore", "latest", "--source", "first", "--to", "out-1"]] {
        let run = place.run(command);
        assert_eq!(run.code, Some(4), "{what}: {command:?}: {}", run.stderr);
    }
    place.ok(["restore", "latest", "--source", "second", "--to", "out-2"]);
    place.ok(["backup", "sqlite", "b.db", "--source", "third"]);
    assert_eq!(place.run(["repair"]).code, Some(4), "{what}");
    place.ok(["prune", "--grace", "0"]);
    place.ok(["restore", "latest", "--source", "third", "--to", "out-3"]);
}

/// Two snapshots with a pack each; the pack of the first, and nothing known of them.
fn two() -> (Place, std::path::PathBuf) {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db", "--source", "first"]);
    let [pack] = &place.stored("packs")[..] else { panic!("one pack") };
    let pack = pack.clone();
    place.database("b.db", 300);
    place.ok(["backup", "sqlite", "b.db", "--source", "second"]);
    fs::remove_dir_all(place.path("cache")).unwrap();
    (place, pack)
}

#[test]
fn in_the_place_of_a_pack() {
    for (what, put) in OTHERS {
        let (place, pack) = two();
        fs::remove_file(&pack).unwrap();
        put(&pack);
        assert_contained(&place, what);
    }
}

#[test]
fn in_the_place_of_a_directory_of_packs() {
    for (what, put) in [OTHERS[0], OTHERS[1], OTHERS[4], ("a file", |path| fs::write(path, "no directory").unwrap())] {
        let (place, pack) = two();
        let shard = pack.parent().unwrap();
        if place.stored("packs").iter().all(|pack| pack.parent() == Some(shard)) {
            continue;
        }
        fs::remove_dir_all(shard).unwrap();
        put(shard);
        assert_contained(&place, what);
    }
}

/// A directory that is named by a link, on a disk that is not there: prune would take everything for garbage.
#[test]
fn a_link_of_a_directory_that_leads_nowhere_is_no_empty_directory() {
    let (place, _) = two();
    fs::rename(place.path(".icecore/snapshots"), place.path("elsewhere")).unwrap();
    symlink("../elsewhere", place.path(".icecore/snapshots")).unwrap();
    place.ok(["check"]);
    fs::remove_dir_all(place.path("cache")).unwrap();
    fs::rename(place.path("elsewhere"), place.path("unmounted")).unwrap();
    for command in [&["snapshots"][..], &["check"], &["prune", "--grace", "0"], &["backup", "sqlite", "a.db"]] {
        place.run(command).failed(1, &["snapshots"]);
    }
    assert_eq!(place.stored("packs").len(), 2);
}

/// A directory in the place of a second copy is left, and keeps nothing else from being mended.
#[test]
fn a_directory_in_the_place_of_a_second_copy() {
    let (place, pack) = two();
    fs::remove_file(place.path(".icecore/config.copy")).unwrap();
    fs::create_dir(place.path(".icecore/config.copy")).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[1000] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let run = place.run(["--json", "repair", "--from", "a.db"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let done = run.json();
    assert!(done["left"][0].as_str().unwrap().contains("a directory is in its place"), "{done}");
    assert_eq!((done["left"].as_array().unwrap().len(), done["lost"].as_array().unwrap().len()), (1, 0), "{done}");
    assert!(done["chunks_from_files"].as_u64().unwrap() > 0, "{done}");
    fs::remove_dir(place.path(".icecore/config.copy")).unwrap();
    place.ok(["repair"]);
    place.ok(["check", "--read-data"]);
}

/// Whatever somebody puts among the objects under the name that its bytes have: a repair sets it aside, and prunes go on.
#[test]
fn what_is_something_else_under_the_hash_of_its_bytes() {
    let (place, pack) = two();
    place.ok(["protect", "latest", "--source", "second"]);
    let record = place.record(place.snapshots()[0]["id"].as_str().unwrap());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let (pack_id, snapshot_id) = (name(&pack), name(&record)[17..].to_owned());
    let mark = place.stored("marks").into_iter().find(|path| path.is_file()).unwrap();
    let shard = place.path(".icecore/packs").join(&snapshot_id[..2]);
    fs::create_dir_all(&shard).unwrap();
    fs::copy(&record, shard.join(&snapshot_id)).unwrap();
    fs::copy(&pack, mark.with_file_name(&pack_id)).unwrap();
    fs::copy(&pack, record.with_file_name(format!("{}{pack_id}", &name(&record)[..17]))).unwrap();
    for command in [&["check"][..], &["repair", "--dry-run"], &["prune", "--grace", "0"]] {
        assert_eq!(place.run(command).code, Some(4), "{command:?}");
    }
    let run = place.ok(["repair"]);
    assert_eq!(run.stdout.matches("set aside: ").count(), 3, "{}", run.stdout);
    // The same name, other bytes.
    fs::write(shard.join(&snapshot_id), "no pack").unwrap();
    place.ok(["repair"]);
    assert_eq!(place.snapshots().len(), 2, "none is hidden by the mark on a pack of its id");
    place.ok(["check", "--read-data"]);
    place.ok(["prune", "--grace", "0"]);
    place.ok(["restore", "latest", "--source", "first", "--to", "out"]);
}

/// What a repair cannot mend is not told as well.
#[test]
fn a_repair_says_what_has_vanished_and_what_is_hidden() {
    let (place, _) = two();
    let ids: Vec<String> = place.snapshots().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect();
    let told = |run: super::run::Run, word: &str| {
        assert_eq!(run.code, Some(4), "{}", run.stdout);
        assert!(run.stdout.contains(word) && !run.stdout.contains("every snapshot can be given back"), "{}", run.stdout);
    };
    fs::write(place.path(".icecore/tombstones").join(&ids[0]), "nothing that can be read").unwrap();
    told(place.run(["repair"]), "hides snapshot");
    fs::remove_file(place.path(".icecore/tombstones").join(&ids[0])).unwrap();
    let run = place.ok(["repair"]);
    assert!(run.stdout.contains("every snapshot can be given back whole"), "{}", run.stdout);
    fs::remove_file(place.record(&ids[0])).unwrap();
    told(place.run(["repair"]), "has vanished");
    place.ok(["forget", &ids[0]]);
    place.ok(["repair"]);
    place.ok(["check"]);
}
