//! Backups heal what they notice; restores say what is lost; nothing dead stops a backup.

use std::fs;

use icecore::engine::place::Placement;
use icecore::fs::disk::RealDisk;
use icecore::id::{SnapshotId, SourceTag};
use icecore::ops::backup::{BackupOptions, BackupReport, backup};
use icecore::ops::check::{CheckOptions, Subset, check, mark_found};
use icecore::ops::mark::Author;
use icecore::ops::restore::{RestoreOptions, restore_tree};
use icecore::progress::Silent;
use icecore::store::backend::{ObjectKey, WriteMode};
use icecore::store::repo::Repository;

use crate::repair::{Action, damage, packs, path, repair, template};
use crate::support::{pending_key, record_key};
use crate::world::{World, check_clean, database_of, read_data, states, verify};

fn back_up(world: &World, repo: &Repository, state: &[u8], time: i64) -> BackupReport {
    let file = world.path("db");
    fs::write(&file, state).unwrap();
    let ns = time * 1_000_000_000;
    let options = BackupOptions { time_ns: ns, now_ns: ns, host: "test".into(), source: Some("db".into()), ..BackupOptions::default() };
    backup(repo, &crate::support::sqlite_source(&[("db", &file)]), &options, &Silent).unwrap()
}

fn database(repo: &Repository, id: &SnapshotId) -> icecore::Result<Vec<u8>> {
    let record = repo.refresh().unwrap().snapshots.into_iter().find(|(found, _)| found == id).unwrap().1;
    database_of(repo, &record)
}

/// A pack that is gone, or has another size, is seen in the listing: the same file is stored anew, and all snapshots that share it are whole.
#[test]
fn the_listing_shows_what_is_gone() {
    for encrypted in [true, false] {
        for (action, cache) in
            [(Action::Delete, "cache"), (Action::Truncate, "cache"), (Action::Delete, "new cache"), (Action::Truncate, "new cache")]
        {
            let mut world = World::new(encrypted);
            for time in 0..2 {
                world.back_up(&world.open("cache"), &states()[0], time);
            }
            damage(&world, &ObjectKey::Pack(packs(&world)[0]), action, None);
            let report = back_up(&world, &world.open(cache), &states()[0], 10);
            // A catalog that is new does not know that it was there at all; what matters is that it is there now.
            assert!(report.healed_chunks > 0 || cache == "new cache", "{action:?} {cache}");
            world.known.insert(report.id, states()[0].clone());
            let repo = world.open("third cache");
            let listed = repo.refresh().unwrap();
            for (id, record) in &listed.snapshots {
                // The listings of old snapshots were in the pack too; nobody can know them again. Their databases are whole where the listing is.
                match database_of(&repo, record) {
                    Ok(bytes) => assert!(bytes == world.known[id]),
                    Err(error) => assert!(error.is_damage() && *id != report.id, "{error}"),
                }
            }
            // The next one has nothing to heal.
            let again = back_up(&world, &world.open(cache), &states()[0], 20);
            assert_eq!(again.healed_chunks, 0);
            assert!(database(&repo, &again.id).unwrap() == states()[0]);
        }
    }
}

/// Flipped bytes are noticed when a delta stands on them; then everything that is shared with the pack is stored anew, old snapshots included.
#[test]
fn a_base_shows_what_is_damaged() {
    for encrypted in [true, false] {
        let world = template(encrypted);
        let first = packs(&world)[0];
        let key = ObjectKey::Pack(first);
        let mut bytes = fs::read(path(&world, &key)).unwrap();
        let body = bytes.len() * 7 / 10;
        bytes[200..body].iter_mut().for_each(|byte| *byte ^= 0x55);
        fs::write(path(&world, &key), bytes).unwrap();
        let repo = world.open("cache");
        let newest = *world.known.keys().find(|id| world.known[*id] == states()[3]).unwrap();
        assert!(database(&repo, &newest).is_err());
        // One row changes: one chunk is a delta, the others are what they were.
        let file = world.path("changing");
        fs::write(&file, &states()[3]).unwrap();
        let db = rusqlite::Connection::open(&file).unwrap();
        db.execute("UPDATE memory SET body = 'another' WHERE id = 100", []).unwrap();
        drop(db);
        let state = fs::read(file).unwrap();
        assert!(state != states()[3]);
        let report = back_up(&world, &repo, &state, 10);
        assert!(report.healed_chunks > 0);
        let repo = world.open("new cache");
        assert!(database(&repo, &report.id).unwrap() == state);
        let touched = read_data(&repo).touched;
        assert!(touched.iter().all(|one| one.snapshot != report.id), "{touched:?}");
        // What the newest shares with it is whole again, and the live file gives back the rest.
        repair(&world, &repo, true);
        assert!(database(&repo, &newest).unwrap() == states()[3]);
    }
}

/// What a check has found, the next backup on this machine knows: the same file heals its snapshots, and the mark is superseded.
#[test]
fn a_check_tells_the_next_backup() {
    let mut world = World::new(true);
    let only = world.back_up(&world.open("cache"), &states()[0], 0);
    let key = ObjectKey::Pack(packs(&world)[0]);
    let mut bytes = fs::read(path(&world, &key)).unwrap();
    bytes[300] ^= 1;
    fs::write(path(&world, &key), bytes).unwrap();
    let repo = world.open("cache");
    assert_eq!(back_up(&world, &repo, &states()[0], 5).healed_chunks, 0, "nothing reads the pack");
    let author = Author { now_ns: 100_000_000_000, host: "test".into(), user: "tester".into() };
    let options = CheckOptions { now_ns: Some(6), ..CheckOptions::read_all() };
    let report = check(&repo, &options, &Silent).unwrap();
    assert!(report.is_damaged());
    assert_eq!(mark_found(&repo, &report, Subset::All, &author).unwrap().damaged.len(), 2);
    let healed = back_up(&world, &repo, &states()[0], 10);
    assert!(healed.healed_chunks > 0);
    assert!(database(&repo, &only).unwrap() == states()[0], "an old snapshot that shares the chunks is healed");
    let report = repair(&world, &repo, false);
    assert_eq!((report.lost.len(), report.verified.len(), report.set_aside.len()), (0, 2, 1), "{report:?}");
    world.known = repo.refresh().unwrap().snapshots.into_iter().map(|(id, _)| (id, states()[0].clone())).collect();
    verify(&repo, &world.known, &[]);
    check_clean(&repo);
}

/// One of two files in a snapshot loses chunks. The other one is restored, and the error says which bytes are lost.
#[test]
fn a_restore_says_which_bytes_are_lost() {
    let world = World::new(false);
    let repo = world.open("cache");
    fs::create_dir(world.path("tree")).unwrap();
    let noise = |seed: u64, len: usize| {
        let mut bytes = vec![0u8; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    fs::write(world.path("tree/a-whole"), noise(1, 100)).unwrap();
    let options = BackupOptions { host: "test".into(), source: Some("tree".into()), ..BackupOptions::default() };
    let files = || {
        let sqlite = crate::support::sqlite_options();
        let options = icecore::engine::files::FilesOptions { sqlite, exclude: Vec::new() };
        icecore::engine::files::FilesSource::new(vec![world.path("tree")], options).unwrap()
    };
    backup(&repo, &files(), &options, &Silent).unwrap();
    fs::write(world.path("tree/b-damaged"), noise(2, 1 << 20)).unwrap();
    fs::write(world.path("tree/c-whole"), noise(3, 200)).unwrap();
    let id = backup(&repo, &files(), &options, &Silent).unwrap().id;
    let record = repo.refresh().unwrap().snapshots.into_iter().find(|(found, _)| *found == id).unwrap().1;
    let key = ObjectKey::Pack(record.packs[0].id);
    let mut bytes = fs::read(path(&world, &key)).unwrap();
    bytes[500_000] ^= 1;
    fs::write(path(&world, &key), bytes).unwrap();
    let restore = |to: &str| {
        let placement = Placement { disk: &RealDisk, timestamp: "then".into(), monitor: &Silent };
        let repo = world.open("cache");
        let record = repo.refresh().unwrap().snapshots.into_iter().find(|(found, _)| *found == id).unwrap().1;
        restore_tree(&repo, &record, &world.path(to), &RestoreOptions::default(), &placement, &mut |_| {}).and_then(|outcome| {
            let restored = outcome.restored;
            outcome.whole().map(|()| restored)
        })
    };
    let check_restored = |to: &str, error: icecore::Error| {
        let text = error.to_string();
        assert!(error.is_damage() && text.contains("b-damaged") && text.contains("1048576 bytes are lost: "), "{text}");
        let found = |name: &str| walkdir::WalkDir::new(world.path(to)).into_iter().map(Result::unwrap).find(|at| at.file_name() == name);
        for (name, bytes) in [("a-whole", noise(1, 100)), ("c-whole", noise(3, 200))] {
            assert!(fs::read(found(name).unwrap().path()).unwrap() == bytes);
        }
        assert!(found("b-damaged").is_none());
    };
    check_restored("before", restore("before").unwrap_err());
    let report = repair(&world, &repo, false);
    assert!(!report.lost.is_empty() && report.damaged.contains(&id), "{report:?}");
    check_restored("after", restore("after").unwrap_err());
    // The file, under another name, mends it; the mark is superseded.
    fs::create_dir(world.path("live")).unwrap();
    fs::write(world.path("live/x"), noise(2, 1 << 20)).unwrap();
    let report = repair(&world, &repo, true);
    assert_eq!((report.lost.len(), report.verified.as_slice()), (0, &[id][..]), "{report:?}");
    assert_eq!(restore("whole").unwrap(), 3);
    check_clean(&repo);
}

/// Whatever dead processes leave behind: pending records, tombstones, temporary files, private catalogs, half a quarantine, a journal of the catalog. A
/// backup, a restore, a repair and a prune do their work, without any unlocking.
#[test]
fn nothing_dead_stops_anybody() {
    let mut world = template(true);
    let local = world.local();
    let ids: Vec<SnapshotId> = world.known.keys().copied().collect();
    let dead = local.read(&record_key(&*local, &ids[0]).unwrap(), None).unwrap();
    local.write(&pending_key(&*local, &ids[0]), &[&dead], WriteMode::CreateNew).unwrap();
    let torn = ObjectKey::Pending { source: SourceTag([9; 8]), id: SnapshotId([9; 32]) };
    local.write(&torn, &[b"torn"], WriteMode::CreateNew).unwrap();
    for pack in packs(&world) {
        local.write(&ObjectKey::Tombstone(pack), &[b"torn"], WriteMode::CreateNew).unwrap();
    }
    let repo_dir = world.repo_dir();
    fs::create_dir_all(repo_dir.join("quarantine")).unwrap();
    for dir in ["", "keys", "marks", "packs", "packs/00", "pending", "snapshots", "tombstones", "forgotten", "quarantine"] {
        fs::create_dir_all(repo_dir.join(dir)).unwrap();
        fs::write(repo_dir.join(dir).join(".tmp-4242-00ff"), b"half of an object").unwrap();
    }
    fs::create_dir_all(world.path("cache/private-00")).unwrap();
    for lock in ["lock", "locks", "LOCK"] {
        fs::write(repo_dir.join(lock), b"4242").unwrap();
    }
    for cache in ["cache", "new cache"] {
        let repo = world.open(cache);
        let state = world.known.len() % states().len();
        world.back_up(&repo, &states()[state].clone(), 10 + state as i64);
        verify(&repo, &world.known, &[]);
        let report = repair(&world, &repo, false);
        assert!(report.set_aside.is_empty() && report.lost.is_empty(), "{report:?}");
        icecore::ops::prune::prune(&repo, &crate::pruning::options(0, 1 << 60), &Silent).unwrap();
        verify(&repo, &world.known, &[]);
        check_clean(&repo);
    }
}
