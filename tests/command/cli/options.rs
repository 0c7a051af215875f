//! An option that does not apply is an error, and nothing is done.

use super::support::Place;

/// A snapshot of each kind: the ids of one of a SQLite database, of files, of a command.
fn kinds(place: &Place) -> [String; 3] {
    std::fs::create_dir(place.path("tree")).unwrap();
    std::fs::write(place.path("tree/file"), "x").unwrap();
    let taken = [&["sqlite", "a.db"][..], &["files", "tree"], &["command", "--name", "words", "--", "echo", "words"]];
    taken.map(|what| place.json([&["backup"], what].concat())["snapshot"].as_str().unwrap().to_owned())
}

/// Every combination of an option and a mode is tried beside the table in `src/cli/restore_modes.rs`; here some by the program.
#[test]
fn of_a_restore() {
    let place = Place::with_repository();
    let [sqlite, files, command] = kinds(&place);
    let refused = |args: &[&str], words: &[&str]| place.run([&["restore"], args].concat()).failed(2, words);
    refused(
        &[&sqlite, "--to", "out", "--table", "nosuch", "--pg-bin", "/nonexistent"],
        &["--table does not go with --to DIR", "it is for: --dsn with --table"],
    );
    refused(
        &[&sqlite, "--to", "out", "--pg-bin", "/nonexistent"],
        &["--pg-bin does not go with --to DIR", "it is for: --dsn, --from-file"],
    );
    refused(&[&sqlite, "a.db=b.db", "--keep-going", "--as", "x"], &["--as does not go with NAME=DEST"]);
    refused(&[&sqlite, "--to", "out", "--live"], &["--live does not go with --to DIR", "NAME=DEST, --from-dir"]);
    refused(&[&sqlite, "--to", "out", "a.db=b.db"], &["a.db=b.db does not go with --to DIR"]);
    refused(&["--from-dir", "tree", "a=b", "--source", "x"], &["--source does not go with --from-dir"]);
    refused(&[&sqlite, "--dsn", "postgresql://h/d", "--table", "t", "--jobs", "2"], &["--jobs does not go with --dsn with --table"]);
    refused(&[&sqlite, "--dsn", "postgresql://h/d", "--accept-damaged"], &["--accept-damaged does not go with --dsn"]);
    refused(&["--from-file", "x.pgdump"], &["--from-file needs --dsn"]);
    refused(&["--to", "out"], &["say which snapshot"]);
    refused(&[&sqlite, "a.db=b.db", "--busy-timeout", "1s"], &["--busy-timeout needs --live"]);
    // By the kind of the snapshot.
    refused(
        &[&command, "--to", "out", "--accept-damaged"],
        &["--accept-damaged is for SQLite databases", &command[..12], "another kind: command"],
    );
    refused(&[&command, "--to", "out", "--no-xattrs"], &["--no-xattrs is for files"]);
    refused(&[&command, "words=out", "--live"], &["--live is for SQLite databases"]);
    refused(&[&command, "--salvage", "--to", "out", "--no-xattrs"], &["--no-xattrs is for files"]);
    refused(&[&files, "file=out", "--live"], &["--live is for SQLite databases"]);
    for snapshot in [&sqlite, &files, &command] {
        refused(
            &[snapshot, "--dsn", "postgresql://127.0.0.1:1/d"],
            &["--dsn restores dumps of PostgreSQL databases, and this snapshot has none"],
        );
    }
    refused(&[&sqlite, "--to", "s3:bucket/x"], &["--to: s3:bucket/x looks like the address of a server", "./s3:bucket/x"]);
    refused(&["--from-dir", "sftp:host:/x", "a=b"], &["--from-dir: sftp:host:/x looks like"]);
    for name in ["out", "b.db", "s3:bucket"] {
        assert!(!place.path(name).exists(), "{name}");
    }
    place.ok(["restore", &sqlite, "--to", "at-12:30", "--accept-damaged", "--no-xattrs"]);
    assert!(place.path("at-12:30/a.db").is_file());
}

#[test]
fn of_a_drill() {
    let place = Place::with_repository();
    let [sqlite, files, command] = kinds(&place);
    for snapshot in [&sqlite, &files, &command] {
        for option in [&["--dsn", "postgresql://h/d"][..], &["--jobs", "2"], &["--pg-bin", "/nonexistent"]] {
            let words = [option[0], "is for snapshots of PostgreSQL databases"];
            place.run([&["drill", snapshot], option].concat()).failed(2, &words);
        }
    }
    place.run(["drill", &sqlite, "--no-owner"]).failed(2, &["--dsn"]);
    for option in [&["--source", "x"][..], &["--tag", "x"], &["--host", "x"]] {
        place.run([&["drill"], option].concat()).failed(2, &[option[0], "a drill without SNAP"]);
    }
    for option in [&["--no-mark"][..], &["--staging", "d"], &["--check-sql", "SELECT 1"], &["--jobs", "2"], &["--pg-bin", "/x"]] {
        place.run([&["drill"], option].concat()).failed(2, &["SNAP"]);
    }
    place.run(["drill", &sqlite, "--staging", "s3:b/x"]).failed(2, &["--staging: s3:b/x looks like"]);
}

#[test]
fn of_a_backup() {
    let place = Place::with_repository();
    let dsn = "postgresql://127.0.0.1:1/d";
    let refused = |args: &[&str], words: &[&str]| place.run([&["backup"], args].concat()).failed(2, words);
    for option in
        [&["--jobs", "2"][..], &["--tmp", "t"], &["--dsn", dsn], &["--exclude", "x"], &["--exclude-table", "x"], &["--globals-only"]]
    {
        refused(&[&["sqlite", "a.db"], option].concat(), &[option[0]]);
        if option[0] != "--exclude" {
            refused(&[&["files", "."], option].concat(), &[option[0]]);
        }
    }
    refused(&["postgres", "--dsn", dsn, "--tmp", "t"], &["--jobs"]);
    refused(&["postgres", "--dsn", dsn, "--content", "always"], &["--content"]);
    refused(&["postgres", "--dsn", dsn, "--all-databases", "--source", "x"], &["--source"]);
    let of_dumps = [
        &["--jobs", "2"][..],
        &["--exclude-table", "x"],
        &["--exclude-table-data", "x"],
        &["--lock-wait-timeout", "9"],
        &["--all-databases"],
    ];
    for option in of_dumps {
        refused(&[&["postgres", "--dsn", dsn, "--globals-only"], option].concat(), &["--globals-only", option[0]]);
    }
    assert!(place.snapshots().is_empty());
}

#[test]
fn of_other_commands() {
    let place = Place::with_repository();
    let [sqlite, _, command] = kinds(&place);
    let refused = |args: &[&str], words: &[&str]| place.run(args).failed(2, words);
    refused(&["export", &command, "flat", "--accept-damaged"], &["--accept-damaged is for SQLite databases"]);
    refused(&["export", &sqlite, "s3://b/x"], &["looks like the address"]);
    refused(&["check", "--seed", "7"], &["--read-data-subset"]);
    refused(&["check", "--read-data-subset", "1/2", "--seed", "7"], &["--seed is for a part that is drawn at random"]);
    refused(&["check", "--read-data", "--read-data-subset", "1/2"], &["cannot be used with"]);
    refused(&["check", "--max-duration", "1m"], &["--max-duration is for --read-data"]);
    refused(&["repair", "--structure-only", "--read-data-subset", "1/2"], &["cannot be used with"]);
    refused(&["forget", &sqlite, "--group-by", "host"], &["--group-by"]);
    refused(&["forget", &sqlite, "--time-zone", "UTC"], &["--time-zone"]);
    refused(&["forget", "--keep-last", "3", "--time-zone", "UTC"], &["--time-zone is for rules by hours"]);
    refused(&["forget", "--keep-last", "3", "--grace", "0"], &["--prune"]);
    refused(&["log", "--source", "a.db"], &["--snapshot"]);
    refused(&["log", "--snapshot", &sqlite, "--source", "a.db"], &["--source does not go with an id"]);
    refused(&["log", "note", "x", "--source", "a.db"], &["--snapshot"]);
    refused(&["-R", ".icecore", "scrub", ".icecore"], &["DIR and -R both name a repository"]);
    refused(&["scrub", "s3:b/x"], &["looks like the address"]);
    assert_eq!(place.snapshots().len(), 3);
}
