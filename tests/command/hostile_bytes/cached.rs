//! Somebody who can write the cache, but does not have the passphrase.

use std::fs;

use rusqlite::{Connection, params};

use super::bed::{Bed, back_up, make_database, step, stream};

/// The sum that a row of snapshots has under this key, see `src/store/repo/catalog/sum.rs`.
fn sum(key: &[u8; 32], id: &[u8], record: &[u8]) -> i64 {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[6]);
    for part in [id, record] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    i64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().unwrap())
}

fn catalog(bed: &Bed) -> Connection {
    let mut names = fs::read_dir(bed.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    Connection::open(names.find(|path| path.extension().is_some_and(|end| end == "db")).unwrap()).unwrap()
}

#[test]
fn exchanged_records_of_snapshots() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 50);
    let mut history = Vec::new();
    for n in 0..2 {
        step(&db, n);
        history.push((back_up(&bed.open(), &path, i64::from(n)).id, fs::read(&path).unwrap()));
    }
    {
        let conn = catalog(&bed);
        let key: [u8; 32] = conn.query_row("SELECT key FROM meta", [], |row| row.get(0)).unwrap();
        let rows: Vec<(Vec<u8>, Vec<u8>)> = {
            let mut statement = conn.prepare("SELECT id, record FROM snapshot ORDER BY num").unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(Result::unwrap).collect()
        };
        for (id, record) in [(&rows[0].0, &rows[1].1), (&rows[1].0, &rows[0].1)] {
            let with = params![record, sum(&key, id, record), id];
            assert_eq!(conn.execute("UPDATE snapshot SET record = ?1, sum = ?2 WHERE id = ?3", with).unwrap(), 1);
        }
    }
    let repo = bed.open();
    for (id, state) in &history {
        assert!(stream(&repo, id, "db").unwrap() == *state, "the restored one is another snapshot's");
    }
}

/// What belongs to the cache may be a FIFO, which a reader would wait for without end.
#[test]
fn no_file_of_the_cache_is_waited_for() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 50);
    back_up(&bed.open(), &path, 0);
    let mut exchanged = 0;
    for file in walkdir::WalkDir::new(bed.path("cache")).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file()) {
        // SQLite refuses what is no file by itself.
        if file.path().extension().is_none_or(|end| end != "db") {
            fs::remove_file(file.path()).unwrap();
            rustix::fs::mkfifoat(rustix::fs::CWD, file.path(), rustix::fs::Mode::RWXU).unwrap();
            exchanged += 1;
        }
    }
    assert!(exchanged > 0);
    step(&db, 1);
    let id = back_up(&bed.open(), &path, 1).id;
    assert!(stream(&bed.open(), &id, "db").unwrap() == fs::read(&path).unwrap());
}
