//! `restore --salvage`: what can be had of damaged streams, and what is said to be missing.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::{Place, rows};

fn largest_pack(place: &Place) -> PathBuf {
    place.stored("packs").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn lost_of(stream: &Value) -> Vec<Range<usize>> {
    let number = |range: &Value, field: &str| range[field].as_u64().unwrap() as usize;
    let range = |range: &Value| number(range, "offset")..number(range, "offset") + number(range, "len");
    stream["lost"].as_array().unwrap().iter().map(range).collect()
}

/// The file has the bytes of the original but for these ranges, which are zeros in it and were none.
#[track_caller]
fn assert_salvaged(file: &Path, original: &[u8], lost: &[Range<usize>]) {
    let mut expected = original.to_vec();
    for range in lost {
        assert!(expected[range.clone()].iter().any(|byte| *byte != 0), "{range:?}");
        expected[range.clone()].fill(0);
    }
    assert!(fs::read(file).unwrap() == expected, "{} is not what it should be", file.display());
    assert!(lost.windows(2).all(|pair| pair[0].end < pair[1].start), "{lost:?}");
}

/// A database of two tables, the second behind the first; its bytes, and where the second begins.
fn two_tables(place: &Place) -> (Vec<u8>, usize) {
    let path = place.database("b.db", 4000);
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE u (id INTEGER PRIMARY KEY, text TEXT)").unwrap();
    conn.execute_batch("INSERT INTO u(text) SELECT hex(randomblob(200)) FROM t").unwrap();
    let root: u32 = conn.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'u'", [], |row| row.get(0)).unwrap();
    (fs::read(path).unwrap(), (root as usize - 1) * 4096)
}

#[test]
fn of_a_damaged_database_all_but_what_is_told_is_there() {
    let place = Place::without_parity();
    let (original, second) = two_tables(&place);
    place.ok(["backup", "sqlite", "b.db"]);
    let pack = largest_pack(&place);
    flip(&pack, pack.metadata().unwrap().len() as usize / 2);
    place.run(["restore", "latest", "--to", "plain"]).failed(4, &["bytes are lost"]);
    let run = place.run(["--json", "restore", "latest", "--salvage", "--to", "out/deep"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let done = run.json();
    let stream = &done["streams"][0];
    let lost = lost_of(stream);
    let file = place.path("out/deep/b.db.salvaged");
    assert_eq!(fs::read_dir(place.path("out/deep")).unwrap().count(), 1, "nothing else, and not under its own name");
    assert_salvaged(&file, &original, &lost);
    let sum: usize = lost.iter().map(Range::len).sum();
    assert!(sum > 0 && sum < original.len() / 2, "{lost:?}");
    assert_eq!((&stream["bytes_lost"], &done["bytes_lost"], &done["status"]), (&sum.into(), &sum.into(), &"damaged".into()));
    assert_eq!(stream["lost_ranges"], lost.len());
    // Every page of the second table lies behind its root, and those of the first before it.
    let mut expected = Vec::new();
    expected.extend(lost.iter().any(|range| range.start < second).then_some("t"));
    expected.extend(lost.iter().any(|range| range.end > second).then_some("u"));
    let damaged = stream["tables"]["damaged"].as_array().unwrap();
    assert_eq!(damaged.iter().map(|table| table["name"].as_str().unwrap()).collect::<Vec<_>>(), expected, "{stream}");
    assert!(damaged[0]["findings"][0].as_str().unwrap().ends_with("is lost"), "{stream}");

    let text = place.run(["restore", "latest", "--salvage", "--to", "text"]);
    assert_eq!(text.code, Some(4), "{}", text.stderr);
    let range = format!("{}-{}", lost[0].start, lost[0].end - 1);
    for said in ["b.db.salvaged", range.as_str(), &format!("table {} has losses", expected[0]), "lost in 1 stream"] {
        assert!(text.stdout.contains(said), "{said}: {}", text.stdout);
    }
    let quiet = place.run(["-q", "restore", "latest", "--salvage", "--to", "quiet"]);
    assert!(quiet.code == Some(4) && quiet.stdout.contains(&range), "{}", quiet.stdout);
    let told = place.json(["log", "-n", "1"]);
    assert_eq!((&told["entries"][0]["operation"], &told["entries"][0]["outcome"]), (&"restore".into(), &"damaged".into()));
}

#[test]
fn what_is_whole_keeps_its_name() {
    let place = Place::without_parity();
    fs::create_dir_all(place.path("tree/dir/empty")).unwrap();
    fs::rename(place.path("a.db"), place.path("tree/dir/a.db")).unwrap();
    fs::write(place.path("tree/file"), "some text").unwrap();
    fs::write(place.path("tree/nothing"), "").unwrap();
    let zeros = fs::File::create(place.path("tree/zeros")).unwrap();
    zeros.set_len(1 << 20).unwrap();
    std::os::unix::fs::symlink("file", place.path("tree/link")).unwrap();
    fs::hard_link(place.path("tree/file"), place.path("tree/further")).unwrap();
    place.ok(["backup", "files", "tree"]);
    fs::create_dir(place.path("out")).unwrap();
    let done = place.json(["restore", "latest", "--salvage", "--to", "out"]);
    assert_eq!((&done["status"], &done["bytes_lost"], &done["links_left_out"]), (&"done".into(), &0.into(), &2.into()));
    assert_eq!(done["listing"], Value::Null);
    assert_eq!(rows(&place.path("out/dir/a.db")), 100);
    let names = |dir: &str| {
        let names = fs::read_dir(place.path(dir)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<std::collections::BTreeSet<String>>()
    };
    // The name that sorts first has the bytes of the file.
    assert_eq!(names("out"), ["dir", "file", "nothing", "zeros"].map(String::from).into());
    assert_eq!(names("out/dir"), ["a.db", "empty"].map(String::from).into());
    for name in ["file", "nothing", "zeros"] {
        assert!(fs::read(place.path("out").join(name)).unwrap() == fs::read(place.path("tree").join(name)).unwrap(), "{name}");
    }
    // One of them, and a directory with what is below it.
    let text = place.ok(["restore", "latest", "--salvage", "--to", "some", "file", "dir/"]).stdout;
    assert!(text.starts_with("salvaged 2 streams") && text.contains("nothing is lost"), "{text}");
    assert_eq!((names("some"), names("some/dir")), (["dir", "file"].map(String::from).into(), names("out/dir")));
    place.run(["restore", "latest", "--salvage", "--to", "none", "fil"]).failed(1, &["no stream `fil`"]);
    place.run(["restore", "latest", "--salvage", "--to", "none", "link"]).failed(2, &["symbolic link to file"]);
    assert!(!place.path("none").exists());
}

/// Bytes that are like no others.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_lost_pack_costs_what_was_in_it() {
    let place = Place::without_parity();
    fs::create_dir(place.path("tree")).unwrap();
    fs::write(place.path("tree/first"), noise(1, 400_000)).unwrap();
    place.ok(["backup", "files", "tree"]);
    let old = place.stored("packs");
    // Another stream; a part of it is stored already.
    let joined = [noise(2, 400_000), noise(1, 400_000), noise(3, 400_000)].concat();
    fs::write(place.path("tree/joined"), &joined).unwrap();
    place.database("tree/second.db", 500);
    place.ok(["backup", "files", "tree"]);
    old.iter().for_each(|pack| fs::remove_file(pack).unwrap());
    let run = place.run(["--json", "restore", "latest", "--salvage", "--to", "out"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let done = run.json();
    let [first, part, whole] = &done["streams"].as_array().unwrap()[..] else { panic!("{done}") };
    assert_eq!((&first["name"], &first["bytes_lost"]), (&"first".into(), &400_000.into()));
    assert_salvaged(&place.path("out/first.salvaged"), &noise(1, 400_000), &lost_of(first));
    assert_salvaged(&place.path("out/joined.salvaged"), &joined, &lost_of(part));
    let lost = part["bytes_lost"].as_u64().unwrap();
    assert!(lost > 0 && lost <= 400_000, "{part}");
    assert_eq!((&whole["name"], &whole["bytes_lost"]), (&"second.db".into(), &0.into()));
    assert_eq!((rows(&place.path("out/second.db")), fs::read_dir(place.path("out")).unwrap().count()), (500, 3));
}

#[test]
fn the_directory_must_be_new() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/a.db"), "mine").unwrap();
    place.run(["restore", "latest", "--salvage", "--to", "full"]).failed(2, &["is not empty"]);
    assert_eq!(fs::read(place.path("full/a.db")).unwrap(), b"mine");
    place.run(["restore", "latest", "--salvage", "--to", "full/a.db"]).failed(1, &["full/a.db"]);
    fs::create_dir(place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", place.path("link")).unwrap();
    for name in ["link", "link/"] {
        place.run(["restore", "latest", "--salvage", "--to", name]).failed(1, &["is a symbolic link"]);
    }
    assert_eq!(fs::read_dir(place.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn what_salvage_does_not_go_with() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    let others: [&[&str]; 9] = [
        &["restore", "latest", "--salvage"],
        &["restore", "latest", "--salvage", "a.db=x"],
        &["restore", "latest", "--salvage", "--to", "out", "--live"],
        &["restore", "latest", "--salvage", "--to", "out", "--accept-damaged"],
        &["restore", "latest", "--salvage", "--dsn", "postgresql://localhost/x"],
        &["restore", "--from-dir", "out", "--salvage", "--to", "out"],
        &["restore", "latest", "--salvage", "--to", "out", "--table", "t"],
        // Without it, too, what is for a server is not passed over in silence.
        &["restore", "latest", "--to", "out", "--table", "t"],
        &["restore", "--from-dir", "out", "a.db=x", "--jobs", "2"],
    ];
    for args in others {
        let run = place.run(args);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{args:?}: {}", run.stderr);
    }
    // Without it, all streams and one of them are two things.
    place.run(["restore", "latest", "--to", "out", "a.db=x"]).failed(2, &["--to", "NAME=DEST"]);
    assert!(!place.path("out").exists() && !place.path("x").exists());
}
