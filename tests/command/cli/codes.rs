//! One test for each class of exit code.

use std::os::unix::fs::FileExt;

use super::support::{Place, insert, rows};

#[test]
fn done_and_failed() {
    let place = Place::with_repository();
    let run = place.ok(["backup", "sqlite", "a.db"]);
    assert!(run.stdout.starts_with("snapshot ") && run.stdout.contains("a.db, the first one\n"), "{}", run.stdout);
    assert_eq!(run.stderr, "", "no progress where there is no terminal");
    place.run(["backup", "sqlite", "nothing.db"]).failed(1, &["nothing.db"]);
    place.run(["init", "--no-encryption"]).failed(1, &["holds a repository already"]);
    place.run(["show", "abcdef"]).failed(1, &["snapshot abcdef not found"]);
    place.run(["dump", "latest", "b.db"]).failed(1, &["no stream `b.db`", "did you mean `a.db`?"]);
    std::fs::write(place.path("home/mine"), "x").unwrap();
    place.run(["-R", "home", "init", "--no-encryption"]).failed(1, &["home"]);
}

#[test]
fn usage() {
    let place = Place::with_repository();
    place.database("b.db", 1);
    let wrong: &[&[&str]] = &[
        &[],
        &["--bogus"],
        &["frobnicate"],
        &["backup"],
        &["backup", "sqlite"],
        &["restore", "latest"],
        &["restore", "latest", "a=b", "--to", "x"],
        &["restore", "latest", "--to", "x", "--live"],
        &["snapshots", "--threads", "0"],
        &["-q", "-v", "snapshots"],
        &["-R", "s3://bucket/x", "snapshots"],
        &["-R", "", "snapshots"],
        &["backup", "sqlite", "x=a.db", "x=b.db"],
        &["backup", "sqlite", "=a.db"],
        &["backup", "sqlite", "a.db", "--time", "yesterday"],
        &["show", "not an id"],
        &["show", "latest~x"],
        &["show", "@noon"],
    ];
    for args in wrong {
        place.run(*args).failed(2, &[]);
    }
    assert_eq!(place.snapshots().len(), 0);
}

#[test]
fn a_flagged_snapshot_is_incomplete_and_damaged_data_is_4() {
    let place = Place::with_repository();
    let path = place.path("a.db");
    // A b-tree page that is none.
    std::fs::File::options().write(true).open(&path).unwrap().write_all_at(&[0xee; 64], 2 * 4096).unwrap();
    let run = place.run(["backup", "sqlite", "a.db"]);
    assert_eq!(run.code, Some(3), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("flagged damaged: "), "{}", run.stdout);
    assert!(place.ok(["snapshots"]).stdout.contains("damaged"));
    let newest = place.newest();
    place.run(["restore", &newest, "a.db=b.db"]).failed(4, &["warning: snapshot", "flagged damaged", "--accept-damaged"]);
    assert!(!place.path("b.db").exists());
    place.ok(["restore", &newest, "a.db=b.db", "--accept-damaged"]);
    assert_eq!(std::fs::read(place.path("b.db")).unwrap(), std::fs::read(path).unwrap());
}

#[test]
fn damage_in_the_repository_is_4() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    assert!(place.ok(["check"]).stdout.ends_with("no damage found\n"));
    let pack = place.stored("packs").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let middle = pack.metadata().unwrap().len() / 2;
    std::fs::File::options().write(true).open(&pack).unwrap().write_all_at(&[0xee; 16], middle).unwrap();
    place.run(["restore", "latest", "--to", "out"]).failed(4, &["is damaged"]);
    place.run(["-q", "restore", "latest", "a.db=b.db"]).failed(4, &["is damaged"]);
    assert!(!place.path("b.db").exists());
    let run = place.run(["-q", "check", "--read-data"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(
        run.stdout.contains("damage    stream  a.db ") && run.stdout.contains("cannot be given back whole from snapshot "),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("(damaged)\ndamaged: `icecore repair --dry-run` "), "{}", run.stdout);
    std::fs::write(&place.stored("snapshots")[0], "not a record").unwrap();
    std::fs::remove_dir_all(place.path("cache")).unwrap();
    let run = place.run(["snapshots"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(4), "no snapshots\n"), "{}", run.stderr);
    assert!(run.stderr.starts_with("warning: snapshot "), "{}", run.stderr);
}

#[test]
fn no_repository_is_10() {
    let place = Place::new();
    place.database("a.db", 1);
    for args in [&["snapshots"][..], &["check"], &["stats"], &["backup", "sqlite", "a.db"], &["-R", "else/where", "ls", "latest"]] {
        place.run(args).failed(10, &["no repository at", "icecore init"]);
    }
    assert!(!place.path(".icecore").exists());
}

#[test]
fn a_destination_in_use_is_11_unless_live() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let conn = rusqlite::Connection::open(place.path("a.db")).unwrap();
    conn.pragma_update(None, "journal_mode", "wal").unwrap();
    insert(&conn, 5);
    place.run(["restore", "latest", "a.db=a.db"]).failed(11, &["a.db", "in use", "--live"]);
    assert_eq!(conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 105);
    place.ok(["restore", "latest", "a.db=a.db", "--live"]);
    assert_eq!(conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap(), 100);
    drop(conn);
    insert(&rusqlite::Connection::open(place.path("a.db")).unwrap(), 7);
    let done = place.json(["restore", "latest", "a.db=a.db"]);
    let kept = done["restored"][0]["kept"][0]["path"].as_str().unwrap();
    assert!(kept.contains("a.db.pre_restore."), "{kept}");
    assert_eq!((rows(kept.as_ref()), rows(&place.path("a.db"))), (107, 100));
}
