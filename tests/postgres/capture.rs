//! `backup postgres`, from the server to the stored streams.

use std::process::Command;

use icecore::engine::postgres::tables::Tables;
use serde_json::Value;

use crate::archive::{read, rows};
use crate::server::{Database, Server, on_every_version, server};
use crate::support::{Place, Run};

/// `backup postgres` with that version's own programs, and nothing of libpq in the environment.
pub fn command(place: &Place, server: &Server, dsn: &str, args: &[&str]) -> Command {
    let mut command = place.command();
    command.args(["--json", "backup", "postgres", "--dsn", dsn, "--pg-bin"]).arg(&server.bin).args(args);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command
}

pub fn backup(place: &Place, database: &Database, args: &[&str]) -> Run {
    command(place, database.server, &database.dsn(), args).output().unwrap().into()
}

pub fn encrypted() -> Place {
    let place = Place::new();
    let init = place.command().args(["init"]).env("ICECORE_PASSWORD", "x").output().unwrap();
    assert!(init.status.success());
    place
}

fn plain() -> Place {
    let place = Place::new();
    place.ok(["init", "--no-encryption"]);
    place
}

pub fn dump(place: &Place, name: &str) -> Vec<u8> {
    let output = place.command().args(["dump", "latest", name]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn fill(database: &Database) {
    database.sql(
        "CREATE SCHEMA app; CREATE TABLE app.t AS SELECT n AS id, md5(n::text) AS text FROM generate_series(1, 20000) n; \
         CREATE TABLE app.other AS SELECT 1 AS one; SELECT lo_from_bytea(0, 'large')",
    );
}

fn facts(place: &Place) -> Value {
    place.json(["show", "latest"])["facts"].clone()
}

#[test]
fn all_streams_are_stored_and_the_dump_is_that_of_pg_dump() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        fill(&database);
        let run = backup(&place, &database, &["--no-role-passwords"]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let names: Vec<String> =
            place.json(["ls", "latest"])["streams"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect();
        let dump_name = format!("{}.pgdump", database.name);
        let mut expected = ["globals.sql", dump_name.as_str(), "schema.sql", "tables.tsv"];
        expected.sort_unstable();
        assert_eq!(names, expected);
        let (stored, own) = (dump(&place, &dump_name), database.pg_dump(&[]));
        assert_eq!(stored.len(), own.len());
        let differ = stored.iter().zip(&own).filter(|(a, b)| a != b).count();
        assert!(differ <= 4, "only the time in the header differs: {differ} bytes");
        // The evidence is that of the stored dump.
        let (archive, text) = (read(&stored), String::from_utf8(dump(&place, "tables.tsv")).unwrap());
        assert_eq!(Tables::decode(&text).unwrap(), Tables::of(&archive));
        assert_eq!(rows(&archive)["app.t"].0, 20_000);
        let schema = String::from_utf8(dump(&place, "schema.sql")).unwrap();
        assert!(schema.contains("CREATE TABLE app.t") && schema.contains("database dump complete"));
        assert!(String::from_utf8(dump(&place, "globals.sql")).unwrap().contains("CREATE ROLE postgres"));
        let facts = facts(&place);
        assert_eq!(facts["rows"], "20001");
        assert_eq!(facts["encoding"], "UTF8");
        assert_eq!(facts["standby"], "false");
        assert_eq!(facts["system_identifier"], database.sql("SELECT system_identifier FROM pg_control_system()"));
        for name in ["server_version", "pg_dump"] {
            assert!(facts[name].as_str().unwrap().starts_with(&server.version.to_string()), "{facts}");
        }
        assert!(facts["extensions"].as_str().unwrap().starts_with("plpgsql "));
        assert!(facts["lsn"].as_str().unwrap().contains('/'));
    });
}

#[test]
fn the_next_snapshot_costs_little_and_has_a_parent() {
    let (place, database) = (plain(), server(18).database());
    fill(&database);
    let first = backup(&place, &database, &["--no-role-passwords"]).json();
    database.sql("UPDATE app.t SET text = 'x' WHERE id = 10000");
    let second = backup(&place, &database, &["--no-role-passwords"]).json();
    assert_eq!(second["parent"], first["snapshot"]);
    assert!(second["stored_bytes"].as_u64() < Some(16_384), "{second}");
}

#[test]
fn password_verifiers_never_go_into_an_unencrypted_repository() {
    let (place, database) = (plain(), server(15).database());
    let refused = backup(&place, &database, &[]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("--no-role-passwords"), "{}", refused.stderr);
    assert!(place.snapshots().is_empty());

    database.sql("DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'keeper') THEN CREATE ROLE keeper LOGIN PASSWORD 'secret'; END IF; END$$");
    let place = encrypted();
    let run: Run = command(&place, database.server, &database.dsn(), &[]).env("ICECORE_PASSWORD", "x").output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let globals = place.command().args(["dump", "latest", "globals.sql"]).env("ICECORE_PASSWORD", "x").output().unwrap();
    assert!(String::from_utf8_lossy(&globals.stdout).contains("SCRAM-SHA-256"));
}

#[test]
fn globals_alone_and_all_databases() {
    let server: &'static Server = Box::leak(Box::new(Server::start(16)));
    let (one, two) = (server.database(), server.database());
    let place = plain();
    let run = backup(&place, &one, &["--no-role-passwords", "--globals-only"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.json()["streams"], 1);
    assert!(!String::from_utf8_lossy(&dump(&place, "globals.sql")).contains("SCRAM"));

    let run = backup(&place, &one, &["--no-role-passwords", "--all-databases"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let tag = run.json()["tag"].as_str().unwrap().to_owned();
    let tagged = place.json(["snapshots", "--tag", &tag])["snapshots"].as_array().unwrap().len();
    assert_eq!(tagged, 3, "two, and the database postgres");
    let fields: Vec<String> = run.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["failed", "passed_over", "schema", "snapshots", "tag"], "as docs/json.md says");
    let log = place.json(["log"])["entries"].as_array().unwrap().clone();
    assert!(log.iter().all(|entry| entry["operation"] == "backup" && entry["outcome"] == "done"), "{log:?}");
    assert_eq!(log.len(), 4, "one for each snapshot");
    let next = backup(&place, &two, &["--no-role-passwords"]).json();
    assert!(next["parent"].is_string(), "the history goes on");
}

#[test]
fn a_dump_is_of_the_instant_of_its_snapshot() {
    let (place, database) = (plain(), server(15).database());
    database.sql("CREATE TABLE a (n int); CREATE TABLE z (n int)");
    // Both tables always have the same rows; the dump reads one after the other.
    let (dsn, bin) = (database.dsn(), database.server.bin.clone());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let text = "DO $$BEGIN FOR i IN 1..50 LOOP INSERT INTO a VALUES (i); INSERT INTO z VALUES (i); COMMIT; END LOOP; END$$";
                Command::new(bin.join("psql")).args(["-XqAt", "-d", &dsn, "-c", text]).status().unwrap();
            }
        });
        for _ in 0..5 {
            assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
            let rows = rows(&read(&dump(&place, &format!("{}.pgdump", database.name))));
            assert_eq!(rows["public.a"], rows["public.z"]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
