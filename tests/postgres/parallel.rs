//! `backup postgres --jobs`: a dump as a directory, each table a stream of its own, and what is left out of a dump.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use icecore::engine::postgres::archive::{RowSum, directory, is_file_name};
use icecore::engine::postgres::tables::Tables;
use serde_json::Value;

use crate::capture::{backup, dump};
use crate::restore::{everything, good, plain, restore, same, text, without_word};
use crate::server::{Database, Server, on_every_version, server};
use crate::support::{Place, Run};

/// A backup with three jobs, and further arguments, whose spool is `spool`.
pub fn parallel(place: &Place, database: &Database, args: &[&str]) -> Run {
    with_jobs(place, database, "3", args)
}

fn with_jobs(place: &Place, database: &Database, jobs: &str, args: &[&str]) -> Run {
    let spool = place.path("spool");
    std::fs::create_dir_all(&spool).unwrap();
    let all = [&["--no-role-passwords", "--jobs", jobs, "--tmp", spool.to_str().unwrap()], args].concat();
    backup(place, database, &all)
}

#[track_caller]
pub fn nothing_spooled(place: &Place) {
    for dir in ["spool", "home"] {
        let left: Vec<_> = std::fs::read_dir(place.path(dir)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn streams(place: &Place) -> Vec<String> {
    let list = place.json(["ls", "latest"])["streams"].clone();
    list.as_array().unwrap().iter().map(|stream| stream["name"].as_str().unwrap().to_owned()).collect()
}

fn tables(place: &Place) -> Tables {
    Tables::decode(&String::from_utf8(dump(place, "tables.tsv")).unwrap()).unwrap()
}

/// Rows and sums by kind and name; large objects may be divided in any way.
fn tally(tables: &Tables) -> BTreeMap<(String, String), (u64, RowSum)> {
    let mut tally: BTreeMap<_, (u64, RowSum)> = BTreeMap::new();
    for block in &tables.blocks {
        let name = if block.kind == "BLOBS" { String::new() } else { block.name.clone() };
        let entry = tally.entry((block.kind.clone(), name)).or_default();
        entry.0 += block.rows;
        entry.1.merge(&block.sum);
    }
    tally
}

#[test]
fn everything_comes_back_from_a_directory() {
    on_every_version(|server| {
        let (place, database) = (plain(), everything(server));
        let name = database.name.as_str();
        let before = text(server, name);
        good(with_jobs(&place, &database, "1", &[]));
        let of_one_archive = tables(&place);
        good(parallel(&place, &database, &[]));
        nothing_spooled(&place);
        let names = streams(&place);
        assert!(names.is_sorted(), "{names:?}");
        for stream in ["globals.sql", "schema.sql", &format!("{name}.pgdir/toc.dat"), "tables.tsv"] {
            assert!(names.iter().any(|name| name == stream), "{names:?}");
        }
        for table in ["app.people", "app.parted_1", "odd schema.odd \" table"] {
            assert!(names.contains(&format!("{name}.pgdir/{table}.dat")), "{names:?}");
        }
        assert!(names.contains(&format!("{name}.pgdir/blob_70002.dat")), "{names:?}");
        assert_eq!(tally(&tables(&place)), tally(&of_one_archive));
        assert_eq!(place.json(["show", "latest"])["facts"]["rows"], count(&of_one_archive).to_string());
        files_are_those_of_pg_dump(&place, &database);

        database.sql("SET transaction_read_only = off; DROP SCHEMA app CASCADE; CREATE TABLE public.newer (n int)");
        server.sql("postgres", &format!("ALTER DATABASE {name} RESET ALL; COMMENT ON DATABASE {name} IS NULL"));
        let done = good(restore(&place, server, &["latest", "--dsn", &database.dsn()]));
        same(&before, &text(server, name));
        assert_eq!((&done["verified"], &done["large_objects"]), (&Value::Bool(true), &Value::from(2)));
        let beside = format!("{name}_beside");
        good(restore(&place, server, &["latest", "--dsn", &database.dsn(), "--as", &beside, "--jobs", "3"]));
        let unnamed = |text: &str| without_word(&without_word(text, name), &beside);
        same(&unnamed(&before), &unnamed(&text(server, &beside)));
        nothing_spooled(&place);
    });
}

fn count(tables: &Tables) -> u64 {
    tables.blocks.iter().filter(|block| block.kind == "TABLE DATA").map(|block| block.rows).sum()
}

/// Restored as files, it is a directory that pg_restore reads, with the bytes that pg_dump writes.
fn files_are_those_of_pg_dump(place: &Place, database: &Database) {
    place.ok(["restore", "latest", "--to", "files"]);
    let (restored, own) = (place.path("files").join(format!("{}.pgdir", database.name)), place.path("own"));
    let mut command = Command::new(database.server.bin.join("pg_dump"));
    let status = command.args(["-Fd", "-Z0", "-j", "2", "-d", &database.dsn(), "-f"]).arg(&own).env("PGTZ", "UTC").status().unwrap();
    assert!(status.success());
    let toc = |dir: &Path| directory::read(std::fs::read(dir.join("toc.dat")).unwrap().as_slice(), &|_, _| true).unwrap();
    let (mine, theirs) = (toc(&restored), toc(&own));
    assert_eq!(mine.entries.len(), theirs.entries.len());
    let mut compared = 0;
    for (mine, theirs) in mine.entries.iter().zip(&theirs.entries) {
        assert_eq!((mine.full_name(), mine.digest, mine.has_data), (theirs.full_name(), theirs.digest, theirs.has_data));
        let (Some(mine), Some(theirs)) = (&mine.file, &theirs.file) else { continue };
        assert!(std::fs::read(restored.join(mine)).unwrap() == std::fs::read(own.join(theirs)).unwrap(), "{mine}");
        compared += 1;
    }
    assert!(compared > 10);
    let status = Command::new(database.server.bin.join("pg_restore")).args(["-f", "/dev/null"]).arg(&restored).status().unwrap();
    assert!(status.success());
}

fn filled(server: &'static Server) -> (Place, Database) {
    let (place, database) = (plain(), server.database());
    database.sql(
        "CREATE SCHEMA app; CREATE TABLE app.t AS SELECT n AS id, md5(n::text) AS text FROM generate_series(1, 50000) n; \
         CREATE TABLE app.u AS SELECT n AS id, md5((n + 7)::text) AS text FROM generate_series(1, 50000) n; \
         CREATE TABLE small (n int); INSERT INTO small VALUES (1), (2); SELECT lo_from_bytea(17, 'large')",
    );
    (place, database)
}

#[test]
fn unchanged_tables_cost_nothing_whatever_is_made_beside_them() {
    on_every_version(|server| {
        let (place, database) = filled(server);
        let first = good(parallel(&place, &database, &[]));
        let second = good(parallel(&place, &database, &[]));
        assert_eq!(second["parent"], first["snapshot"]);
        assert!(second["stored_bytes"].as_u64() < Some(4096), "{second}");
        // This changes the dump ids of all objects after it.
        database.sql("CREATE SCHEMA aa; CREATE TABLE aa.first (n int); CREATE FUNCTION aa.f() RETURNS int LANGUAGE sql AS 'SELECT 1'");
        database.sql("UPDATE app.t SET text = 'x' WHERE id = 10000");
        let third = good(parallel(&place, &database, &[]));
        assert!(third["stored_bytes"].as_u64() < Some(16_384), "{third}");
    });
}

#[test]
fn tables_of_odd_names_have_files_of_their_own() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        let long = "\u{e9}.".repeat(21);
        database.sql(&format!(
            "CREATE SCHEMA a; CREATE SCHEMA \"a.b\"; CREATE SCHEMA \"{long}\"; CREATE TABLE \"a.b\".c AS SELECT 1 AS n; CREATE TABLE a.\"b.c\" AS SELECT 2 AS n; \
             CREATE TABLE a.\"../%2F\n\" AS SELECT 3 AS n; CREATE TABLE \"{long}\".\"{long}\" AS SELECT 4 AS n; \
             CREATE TABLE \"{long}\".\"{}x\" AS SELECT 5 AS n",
            &long[..long.len() - 1]
        ));
        let before = text(server, &database.name);
        good(parallel(&place, &database, &[]));
        let names = streams(&place);
        let has = |end: &str| assert!(names.contains(&format!("{}.pgdir/{end}", database.name)), "{end}: {names:?}");
        ["a%2Eb.c.dat", "a.b%2Ec.dat", "a.%2E%2E%2F%252F%0A.dat"].into_iter().for_each(has);
        assert_eq!(names.iter().filter(|name| name.contains('~')).count(), 2, "{names:?}");
        good(restore(&place, server, &["latest", "--dsn", &database.dsn()]));
        same(&before, &text(server, &database.name));
    });
}

#[test]
fn names_that_are_no_utf_8_and_no_tables_at_all() {
    on_every_version(|server| {
        let tables = "CREATE TABLE t\u{e9} AS SELECT 1 AS n; CREATE TABLE t\u{e8} AS SELECT 2 AS n";
        for (statements, query, found) in [(tables, "SELECT a.n, b.n FROM t\u{e9} a, t\u{e8} b", "1|2"), ("SELECT 1", "SELECT 3", "3")] {
            let (place, mut database) = (plain(), server.database());
            database.name += "_latin1";
            server.sql("postgres", &format!("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'", database.name));
            database.sql(&format!("SET client_encoding = 'UTF8'; {statements}"));
            good(parallel(&place, &database, &[]));
            good(restore(&place, server, &["latest", "--dsn", &database.dsn()]));
            assert_eq!(database.sql(&format!("SET client_encoding = 'UTF8'; {query}")), found);
        }
    });
}

#[test]
fn one_table_is_restored_from_its_own_stream() {
    on_every_version(|server| {
        let (place, database) = (plain(), everything(server));
        database.sql("SET transaction_read_only = off; CREATE TABLE ballast AS SELECT md5(n::text) FROM generate_series(1, 100000) n");
        good(parallel(&place, &database, &[]));
        database.sql("SET transaction_read_only = off; DELETE FROM app.people WHERE id > 5");
        let table = |table: &str, name: &str| -> Run {
            let args = ["latest", "--dsn", &database.dsn(), "--table", table, "--as", name];
            crate::restore::command(&place, server, &args).env("TMPDIR", "/none").output().unwrap().into()
        };
        let done = good(table("app.people", "back"));
        assert_eq!(done["rows"], 2002);
        assert!(done["read_bytes"].as_u64().unwrap() < 700_000, "{done}");
        assert_eq!(database.sql("SELECT (SELECT length FROM app.back WHERE id = 10), (SELECT count(*) FROM app.back)"), "3|2002");
        good(table("odd schema.odd \" table", "odd_back"));
        good(table("nothing", "nothing_back"));
        table("app.parted", "x").failed(2, &["name one of its partitions"]);
        table("app.none", "x").failed(1, &["the dump has no table app.none"]);
    });
}

#[test]
fn what_is_left_out_is_recorded_and_told() {
    on_every_version(|server| {
        for jobs in ["1", "2"] {
            let (place, database) = filled(server);
            let first = good(with_jobs(&place, &database, jobs, &[]));
            let args = ["--exclude-table-data", "app.u", "--exclude-table-data=none*", "--exclude-table", "small"];
            let second = with_jobs(&place, &database, jobs, &args).json();
            assert_eq!(second["parent"], first["snapshot"], "the source is the same");
            let facts = place.json(["show", "latest"])["facts"].clone();
            assert_eq!((&facts["exclude_table"], &facts["exclude_table_data"]), (&"small".into(), &"app.u, none*".into()));
            assert!(!String::from_utf8(dump(&place, "schema.sql")).unwrap().contains("small"));
            let name = format!("{}x", database.name);
            let run = restore(&place, server, &["latest", "--dsn", &database.dsn(), "--as", &name]);
            assert!(run.stderr.contains("rows of tables") && run.stderr.contains("app.u, none*"), "{}", run.stderr);
            assert!(run.stderr.contains("left out tables with these patterns: small"), "{}", run.stderr);
            good(run);
            let query = "SELECT (SELECT count(*) FROM app.t), (SELECT count(*) FROM app.u), to_regclass('small') IS NULL";
            assert_eq!(server.sql(&name, query), "50000|0|t");
            restore(&place, server, &["latest", "--dsn", &database.dsn(), "--table", "app.u"]).failed(2, &["dumped without data"]);
        }
    });
}

#[test]
fn a_history_goes_on_with_other_jobs_and_one_emptied_table_is_no_loss() {
    let (place, database) = filled(server(16));
    let first = good(with_jobs(&place, &database, "1", &[]));
    let second = good(parallel(&place, &database, &[]));
    assert_eq!(second["parent"], first["snapshot"]);
    database.sql("TRUNCATE app.u; INSERT INTO app.t SELECT n, md5(n::text) FROM generate_series(50001, 60000) n");
    good(parallel(&place, &database, &[]));
    good(with_jobs(&place, &database, "1", &[]));
    database.sql("TRUNCATE app.t");
    let run = parallel(&place, &database, &[]);
    assert_eq!((run.code, &run.json()["flags"][0]["code"]), (Some(3), &"shrunk".into()), "{}", run.stderr);
}

#[test]
fn exports_have_the_directory() {
    let (place, database) = filled(server(18));
    good(parallel(&place, &database, &[]));
    place.ok(["export", "latest", "out"]);
    let dir = place.path("out").join(format!("{}.pgdir", database.name));
    let status = Command::new(database.server.bin.join("pg_restore")).args(["-f", "/dev/null"]).arg(&dir).status().unwrap();
    assert!(status.success());
    let sums = Command::new("sha256sum").args(["-c", "--quiet", "checksums.txt"]).current_dir(place.path("out")).status().unwrap();
    assert!(sums.success());
    let manifest: Value = serde_json::from_slice(&std::fs::read(place.path("out/manifest.json")).unwrap()).unwrap();
    let toc = manifest["files"].as_array().unwrap().iter().find(|file| file["name"].as_str().unwrap().ends_with("toc.dat")).unwrap();
    assert_eq!((&toc["kind"], toc["tables"].as_array().unwrap().len()), (&"pgdir".into(), 3), "{toc}");
    restore(&place, database.server, &["--from-file", dir.to_str().unwrap(), "--dsn", &database.dsn()]).failed(2, &["pg_restore"]);
}

#[test]
fn a_damaged_table_of_contents_is_never_more_than_refused() {
    on_every_version(|server| {
        let (place, database) = filled(server);
        good(parallel(&place, &database, &[]));
        let toc = dump(&place, &format!("{}.pgdir/toc.dat", database.name));
        let archive = directory::read(toc.as_slice(), &|_, _| false).unwrap();
        assert_eq!(archive.len, toc.len() as u64);
        for cut in 0..toc.len() {
            assert!(directory::read(&toc[..cut], &|_, _| true).is_err(), "{cut}");
        }
        assert!(directory::read([toc.as_slice(), b"x"].concat().as_slice(), &|_, _| true).is_err());
        for place in 0..toc.len() {
            let mut changed = toc.clone();
            changed[place] ^= 0x41;
            let Ok(read) = directory::read(changed.as_slice(), &|_, _| true) else { continue };
            assert!(read.entries.iter().filter_map(|entry| entry.file.as_ref()).all(|file| is_file_name(file)));
            let _ = directory::rename_files(&toc[..place], &read, &[(0, "x".into()), (usize::MAX, "y".into())]);
        }
        let index = archive.entries.iter().position(|entry| entry.file.is_some()).unwrap();
        let renamed = directory::rename_files(&toc, &archive, &[(index, "other.dat".into())]).unwrap();
        let again = directory::read(renamed.as_slice(), &|_, _| false).unwrap();
        assert_eq!(again.entries[index].file.as_deref(), Some("other.dat"));
        let back = directory::rename_files(&renamed, &again, &[(index, archive.entries[index].file.clone().unwrap())]).unwrap();
        assert!(back == toc, "nothing else is touched");
        for name in ["../../etc/passwd", "..", "toc.dat", archive.entries.iter().filter_map(|e| e.file.as_deref()).next_back().unwrap()] {
            let hostile = directory::rename_files(&toc, &archive, &[(index, name.into())]).unwrap();
            assert!(directory::read(hostile.as_slice(), &|_, _| false).is_err(), "{name}");
        }
    });
}
