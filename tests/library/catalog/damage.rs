//! Bytes that are not what was written: right answers, an error or a fresh start, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use icecore::Error;
use icecore::id::{SnapshotId, SourceId};
use icecore::store::repo::catalog::{Catalog, prefix};

use super::{Made, REPOSITORY, Random, assert_one_generation, open};

const SOURCE: SourceId = SourceId([5; 32]);

fn packs() -> Vec<Made> {
    (0..12).map(|num| Made::from(num, 150)).collect()
}

fn stamps() -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..40_u8).map(|num| (vec![num; 30], vec![num; 50])).collect()
}

/// A catalog file with something in every table; closed, so it is one file without a log.
fn fill(dir: &Path) -> PathBuf {
    let catalog = open(dir);
    for made in packs() {
        catalog.add_packs(&[made.listed()]).unwrap();
    }
    let snapshots: Vec<_> = (0..30_u8).map(|num| (SnapshotId([num; 32]), vec![num; 400])).collect();
    catalog.put_snapshots(&snapshots).unwrap();
    catalog.put_stamps(SOURCE, SnapshotId([1; 32]), &mut stamps().into_iter().map(Ok)).unwrap();
    let path = catalog.path().to_path_buf();
    drop(catalog);
    fold(&path);
    path
}

/// Copies what is left in the log into the database, so that the catalog is one file.
fn fold(path: &Path) {
    rusqlite::Connection::open(path).unwrap().execute_batch("PRAGMA wal_checkpoint").unwrap();
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

/// What is answered must be true; less than everything is allowed, because it costs only time.
fn ask(catalog: &Catalog, packs: &[Made]) -> Result<(), Error> {
    let known = catalog.packs()?;
    for known in &known {
        let made = packs.iter().find(|made| made.pack == known.pack).expect("a pack that was never added");
        assert_eq!(known.chunks, 150);
        assert!(catalog.trailer(known.num)?.is_none_or(|trailer| trailer == made.trailer));
    }
    for made in packs {
        let answers = catalog.find_many(&made.ids.iter().map(prefix).collect::<Vec<_>>())?;
        for (index, at) in answers.iter().enumerate().flat_map(|(index, at)| at.iter().map(move |at| (index, at))) {
            assert_eq!(at.index as usize, index);
            assert!(catalog.pack(at.pack)?.is_none_or(|known| known.pack == made.pack));
        }
        catalog.pack_num(&made.pack.id)?;
    }
    for (id, record) in catalog.snapshots()? {
        assert_eq!(record, vec![id.0[0]; 400]);
    }
    if let Some(set) = catalog.stamps(SOURCE)? {
        assert_eq!(set.snapshot, SnapshotId([1; 32]));
        let stamps = stamps();
        for (name, _) in &stamps {
            assert!(catalog.stamps_around(&set, name)?.into_iter().all(|stamp| stamps.contains(&stamp)));
        }
    }
    Ok(())
}

/// Writes of every kind.
fn change(catalog: &Catalog) -> Result<(), Error> {
    for num in 100..110 {
        let made = Made::from(num, 150);
        catalog.add_packs(&[made.listed()])?;
    }
    // These are there already, so their rows are read.
    catalog.add_packs(&packs().iter().map(Made::listed).collect::<Vec<_>>())?;
    catalog.put_stamps(SOURCE, SnapshotId([2; 32]), &mut stamps().into_iter().map(Ok))?;
    catalog.put_snapshots(&[(SnapshotId([99; 32]), vec![1])])?;
    catalog.remove_packs(&packs().iter().map(|made| made.pack.id).collect::<Vec<_>>())
}

/// Opens what is there, uses it, and shows that after an error the next one is fresh and works. Says whether the damage was noticed.
fn survive(dir: &Path, packs: &[Made], what: &str) -> bool {
    let catalog = open(dir);
    let rebuilt = catalog.was_rebuilt();
    let outcome = ask(&catalog, packs).and_then(|()| change(&catalog));
    let noticed = match outcome {
        Ok(()) => rebuilt,
        Err(Error::Catalog { .. }) => {
            assert!(catalog.is_damaged(), "{what}");
            assert!(catalog.packs().is_err(), "{what}: goes on with a damaged file");
            let fresh = open(dir);
            assert!(fresh.was_rebuilt() && fresh.packs().unwrap().is_empty(), "{what}");
            assert_ne!(fresh.path(), catalog.path());
            ask(&fresh, packs).unwrap();
            change(&fresh).unwrap();
            drop(fresh);
            assert!(!open(dir).was_rebuilt());
            true
        }
        Err(other) => panic!("{what}: {other}"),
    };
    drop(catalog);
    assert_one_generation(dir, what);
    noticed
}

/// A fresh directory with these bytes as its catalog.
fn damaged(path: &Path, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
    dir
}

#[test]
fn changed_bytes() {
    let whole = tempfile::tempdir().unwrap();
    let (path, packs) = (fill(whole.path()), packs());
    let bytes = fs::read(&path).unwrap();
    let mut random = Random::seeded(11);
    let mut noticed = 0;
    for round in 0..100 {
        let mut bad = bytes.clone();
        // The first pages hold the header and the tables; every other round goes there.
        let span = if round % 2 == 0 { 4096 } else { bad.len() };
        let at = random.below(span as u64) as usize;
        for byte in bad.iter_mut().skip(at).take(1 << random.below(8)) {
            *byte ^= 1 + random.below(255) as u8;
        }
        noticed += u32::from(survive(damaged(&path, &bad).path(), &packs, &format!("byte {at}")));
    }
    assert!(noticed > 25, "only {noticed} of 100 noticed");
}

#[test]
fn lost_and_swapped_pages() {
    let whole = tempfile::tempdir().unwrap();
    let (path, packs) = (fill(whole.path()), packs());
    let bytes = fs::read(&path).unwrap();
    let pages = bytes.len() / 4096;
    let mut random = Random::seeded(12);
    for page in (0..pages).filter(|page| *page < 30 || page % 11 == 0) {
        let mut bad = bytes.clone();
        bad[page * 4096..][..4096].fill(0);
        survive(damaged(&path, &bad).path(), &packs, &format!("page {page} is zero"));
        let other = random.below(pages as u64) as usize;
        let mut bad = bytes.clone();
        bad.copy_within(other * 4096..(other + 1) * 4096, page * 4096);
        survive(damaged(&path, &bad).path(), &packs, &format!("page {page} is page {other}"));
    }
}

#[test]
fn cut_files() {
    let whole = tempfile::tempdir().unwrap();
    let (path, packs) = (fill(whole.path()), packs());
    let bytes = fs::read(&path).unwrap();
    for len in [0, 1, 99, 100, 511, 4095, 4096, 4097, 8192, bytes.len() / 2, bytes.len() - 4096, bytes.len() - 1] {
        let noticed = survive(damaged(&path, &bytes[..len]).path(), &packs, &format!("cut to {len}"));
        // SQLite reads zeros where the last page ends too early.
        assert!(
            noticed || len / 4096 == bytes.len() / 4096 - 1 && bytes[len..].iter().all(|byte| *byte == 0),
            "cut to {len} is not noticed"
        );
    }
    let longer = [bytes.as_slice(), &[7; 10_000]].concat();
    survive(damaged(&path, &longer).path(), &packs, "longer");
}

#[test]
fn things_that_are_no_catalog() {
    let whole = tempfile::tempdir().unwrap();
    let (path, packs) = (fill(whole.path()), packs());
    let garbage = vec![0x5a; 50_000];
    assert!(survive(damaged(&path, &garbage).path(), &packs, "garbage"));

    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join(path.file_name().unwrap());
    rusqlite::Connection::open(&other).unwrap().execute_batch("CREATE TABLE pack (a); PRAGMA application_id = 0x69636563;").unwrap();
    assert!(survive(dir.path(), &packs, "another database"));

    // The catalog of another location under this one's name.
    let dir = tempfile::tempdir().unwrap();
    let foreign = Catalog::open(dir.path(), REPOSITORY, "/elsewhere", &[7; 32]).unwrap();
    foreign.add_packs(&[Made::from(55, 10).listed()]).unwrap();
    let foreign_path = foreign.path().to_path_buf();
    drop(foreign);
    fold(&foreign_path);
    fs::rename(foreign_path, dir.path().join(path.file_name().unwrap())).unwrap();
    assert!(survive(dir.path(), &packs, "another location"));

    // A table more than there should be, a table with another definition, an index that is gone.
    for sql in ["CREATE TABLE more (a)", "DROP TABLE run", "ALTER TABLE block ADD COLUMN more", "PRAGMA user_version = 9999"] {
        let dir = damaged(&path, &fs::read(&path).unwrap());
        let file = dir.path().join(path.file_name().unwrap());
        rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
        assert!(survive(dir.path(), &packs, sql), "{sql}");
    }

    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(path.file_name().unwrap())).unwrap();
    let catalog = open(dir.path());
    assert!(catalog.was_rebuilt());
    change(&catalog).unwrap();
}

/// Rows that SQL changed: SQLite sees nothing wrong with them, the sums do.
#[test]
fn rows_that_were_changed_are_noticed() {
    let whole = tempfile::tempdir().unwrap();
    let (path, packs) = (fill(whole.path()), packs());
    let bytes = fs::read(&path).unwrap();
    let changes = [
        "UPDATE pack SET size = size + 1 WHERE num = 5",
        "UPDATE pack SET trailer_offset = NULL WHERE num = 5",
        "UPDATE pack SET num = 99 WHERE num = 5",
        "UPDATE pack SET id = 'text' WHERE num = 5",
        "UPDATE pack SET chunks = -1 WHERE num = 5",
        "UPDATE trailer SET data = zeroblob(6000) WHERE num = 5",
        "UPDATE trailer SET data = (SELECT data FROM trailer WHERE num = 6), sum = (SELECT sum FROM trailer WHERE num = 6) WHERE num = 5",
        "UPDATE block SET data = zeroblob(4000) WHERE key = (SELECT min(key) FROM block)",
        "UPDATE block SET key = key + 1 WHERE key = (SELECT min(key) FROM block)",
        "UPDATE block SET data = 5",
        "UPDATE run SET entries = entries - 1",
        "UPDATE snapshot SET record = zeroblob(400) WHERE num = 3",
        "UPDATE snapshot SET id = zeroblob(31) WHERE num = 3",
        "UPDATE stamp SET block = zeroblob(length(block))",
        "UPDATE stamp_set SET snapshot = zeroblob(32)",
        "UPDATE meta SET location = CAST('/elsewhere' AS BLOB)",
        "UPDATE meta SET key = zeroblob(32)",
        "DELETE FROM meta",
        "INSERT INTO run (num, entries, target, sum) VALUES (9000000, 1, NULL, 0)",
    ];
    for sql in changes {
        let dir = damaged(&path, &bytes);
        let file = dir.path().join(path.file_name().unwrap());
        assert_eq!(rusqlite::Connection::open(&file).unwrap().execute_batch(sql), Ok(()), "{sql}");
        assert!(survive(dir.path(), &packs, sql), "not noticed: {sql}");
    }
}

/// A log that belongs to an earlier file must not be replayed onto a new one.
#[test]
fn a_log_without_its_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    catalog.add_packs(&[Made::from(1, 150).listed()]).unwrap();
    let path = catalog.path().to_path_buf();
    let log = PathBuf::from(format!("{}-wal", path.display()));
    let bytes = fs::read(&log).unwrap();
    assert!(!bytes.is_empty());
    drop(catalog);
    fs::remove_file(&path).unwrap();
    fs::write(&log, &bytes).unwrap();
    let fresh = open(dir.path());
    assert_ne!(fresh.path(), path);
    assert!(fresh.packs().unwrap().is_empty());
    ask(&fresh, &[]).unwrap();
    drop(fresh);
    assert_one_generation(dir.path(), "a log alone");
}

/// An old generation that could not be removed is not taken for the current one, when that one has lost its database.
#[test]
fn an_old_generation_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = fill(dir.path());
    let bytes = fs::read(&path).unwrap();
    open(dir.path()).distrust("test");
    let second = open(dir.path()).path().to_path_buf();
    assert_ne!(second, path);
    fs::write(&path, &bytes).unwrap();
    fs::rename(&second, format!("{}-wal", second.display())).unwrap();
    let third = open(dir.path());
    assert!(third.path() != path && third.path() != second);
    assert!(third.packs().unwrap().is_empty());
    assert_one_generation(dir.path(), "three generations");
}

/// The log that a killed process left, cut or changed anywhere: SQLite takes the transactions before the bad place.
#[test]
fn a_damaged_log() {
    let whole = tempfile::tempdir().unwrap();
    let path = fill(whole.path());
    let catalog = open(whole.path());
    let more: Vec<Made> = (50..60).map(|num| Made::from(num, 150)).collect();
    for made in &more {
        catalog.add_packs(&[made.listed()]).unwrap();
    }
    let log = PathBuf::from(format!("{}-wal", path.display()));
    let (bytes, log_bytes) = (fs::read(&path).unwrap(), fs::read(&log).unwrap());
    drop(catalog);
    let packs: Vec<Made> = packs().into_iter().chain(more).collect();
    let mut random = Random::seeded(13);
    for round in 0..24 {
        let dir = damaged(&path, &bytes);
        let mut bad = log_bytes.clone();
        let at = random.below(bad.len() as u64) as usize;
        if round % 2 == 0 {
            bad.truncate(at)
        } else {
            bad[at] ^= 0x10
        }
        fs::write(dir.path().join(log.file_name().unwrap()), bad).unwrap();
        assert!(!survive(dir.path(), &packs, &format!("log, byte {at}")), "the database itself is whole");
    }
}

/// Another process notices damage and replaces the file under an open catalog.
#[test]
fn a_file_that_was_replaced_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (open(dir.path()), open(dir.path()));
    let made = Made::from(1, 150);
    one.add_packs(&[made.listed()]).unwrap();
    assert!(matches!(other.distrust("a trailer does not open"), Error::Catalog { .. }));
    assert!(other.is_damaged() && other.packs().is_err());
    let fresh = open(dir.path());
    assert!(fresh.was_rebuilt() && fresh.packs().unwrap().is_empty());
    fresh.add_packs(&[Made::from(2, 150).listed()]).unwrap();
    // The one that knows nothing of it goes on with its old file or says that it cannot; it never mixes the two.
    match one.packs() {
        Ok(packs) => assert_eq!(packs[0].pack, made.pack),
        Err(_) => assert!(one.is_damaged()),
    }
    drop(one);
    assert_eq!(open(dir.path()).path(), fresh.path(), "the replacement is not replaced again");
    assert_eq!(fresh.packs().unwrap().len(), 1);
}

#[test]
fn a_directory_without_permission_is_an_error_and_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let mode = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    let outcome = Catalog::open(dir.path(), REPOSITORY, "/somewhere", &[7; 32]);
    mode(0o700);
    // Root passes every permission.
    if let Err(error) = outcome {
        assert!(matches!(error, Error::Catalog { .. }));
    }
    assert_eq!(open(dir.path()).packs().unwrap().len(), 12);
}
