//! Drills of difficult dumps: with subscriptions, without an encoding, and with code that runs programs.

use serde_json::Value;

use crate::capture::{backup, command, encrypted};
use crate::drill;
use crate::restore::{family, good, plain, restore};
use crate::server::{Database, Server, on_every_version, server};
use crate::support::{Place, Run};

fn drilled(place: &Place, server: &Server, args: &[&str]) -> Run {
    drill::command(place, &[&["latest", "--pg-bin", server.bin.to_str().unwrap()], args].concat()).output().unwrap().into()
}

fn subscribed(database: &Database) -> String {
    let name = format!("{}_Sub", database.name);
    database.sql(&format!(
        "CREATE TABLE t AS SELECT 1 AS n; CREATE SUBSCRIPTION \"{name}\" CONNECTION 'host=/none dbname=x' PUBLICATION p \
         WITH (connect = false, slot_name = 'the_slot')"
    ));
    name
}

#[test]
fn a_drill_beside_of_a_database_with_subscriptions_leaves_nothing() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        let name = subscribed(&database);
        assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
        let run = drilled(&place, server, &["--dsn", &database.dsn()]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert!(!run.stderr.contains("by hand"), "{}", run.stderr);
        assert_eq!(family(server, &database.name), [database.name.as_str()]);
        let there = format!("SELECT count(*) FROM pg_subscription WHERE subname = '{name}' AND subslotname = 'the_slot'");
        assert_eq!(database.sql(&there), "1", "that of the database itself is as it was");
        let run = restore(&place, server, &["latest", "--dsn", &database.dsn()]);
        assert!(run.stderr.contains("stay with the old database"), "{}", run.stderr);
        let kept = good(run)["kept"].as_str().unwrap().to_owned();
        for database in [&kept, &database.name] {
            server.sql(database, &format!("ALTER SUBSCRIPTION \"{name}\" SET (slot_name = NONE); DROP SUBSCRIPTION \"{name}\""));
        }
    });
}

#[test]
fn names_that_are_no_utf8_are_drilled_and_restored() {
    let server: &'static Server = Box::leak(Box::new(Server::start(15)));
    let mut database = server.database();
    database.name = "without_encoding".to_owned();
    server.sql("postgres", "CREATE DATABASE without_encoding TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    // Names that are not UTF-8. The client sends their bytes unchanged.
    let quoted = "$$CREATE TABLE \"t$$ || convert_from('\\xe9'::bytea, 'SQL_ASCII') || $$\" (n int PRIMARY KEY, \"c$$ || \
                  convert_from('\\xe8'::bytea, 'SQL_ASCII') || $$\" text)$$";
    database.sql(&format!("DO $do$BEGIN EXECUTE {quoted}; END$do$"));
    database.sql("CREATE TABLE plain AS SELECT 1 AS n; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w");
    let far = "$$CREATE FOREIGN TABLE \"f$$ || convert_from('\\xe9'::bytea, 'SQL_ASCII') || $$\" (n int) SERVER s$$";
    database.sql(&format!("DO $do$BEGIN EXECUTE {far}; END$do$"));
    let place = plain();
    let run = backup(&place, &database, &["--no-role-passwords"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for args in [&["--dsn", &database.dsn()][..], &[]] {
        let run = drilled(&place, server, args);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    }
    good(restore(&place, server, &["latest", "--dsn", &database.dsn()]));
    let count = "SELECT count(*) FROM pg_class WHERE relname = 't' || convert_from('\\xe9'::bytea, 'SQL_ASCII')";
    assert_eq!(database.sql(count), "1");
}

/// A dump whose code, while it is restored, runs a program that writes to a file that everybody may write, reads and writes such a file itself, and keeps what came
/// of each.
fn reaching_out(database: &Database, told: &std::path::Path) {
    std::fs::write(told, "").unwrap();
    std::fs::set_permissions(told, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let told = told.display();
    database.sql(&format!(
        "CREATE FUNCTION attempt(way text) RETURNS text LANGUAGE plpgsql AS $$BEGIN \
           IF way = 'program' THEN COPY (SELECT 1) TO PROGRAM 'cat >> {told}'; \
           ELSIF way = 'read' THEN PERFORM pg_read_file('{told}'); \
           ELSE COPY (SELECT 1) TO '{told}'; END IF; \
           RETURN 'done'; EXCEPTION WHEN OTHERS THEN RETURN sqlerrm; END$$; \
         CREATE MATERIALIZED VIEW attempts AS SELECT way, public.attempt(way) AS outcome FROM unnest(ARRAY['program', 'read', 'write']) way"
    ));
    assert_eq!(database.sql("SELECT string_agg(DISTINCT outcome, ',') FROM attempts"), "done", "a server of the usual kind does all of it");
}

/// Whether this kernel has Landlock: asked for its version.
fn can_confine() -> bool {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no memory.
    cfg!(target_os = "linux") && unsafe { libc::syscall(444, std::ptr::null::<u8>(), 0, LANDLOCK_CREATE_RULESET_VERSION) } > 0
}

#[test]
fn what_a_dump_has_run_reaches_nothing_and_what_is_trusted_is_said() {
    let (place, database) = (plain(), server(16).database());
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let told = dir.path().join("told");
    reaching_out(&database, &told);
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    std::fs::write(&told, "").unwrap();
    let reached = if can_confine() { "0" } else { "3" };
    let question = format!("SELECT count(*) FILTER (WHERE outcome = 'done') = {reached} AND count(*) = 3 FROM attempts");
    let run = drilled(&place, database.server, &["--check-sql", &question]);
    assert_eq!(run.code, Some(0), "{} {}", run.stdout, run.stderr);
    let user = run.json()["drills"][0]["server_user"].as_str().unwrap().to_owned();
    let is_root = rustix::process::getuid().is_root();
    assert!(!can_confine() || std::fs::read(&told).unwrap().is_empty());
    if is_root {
        assert_eq!(user, "nobody", "it has nothing, and not the data of other servers");
    }
    let said = if is_root { "it runs as user nobody" } else { "it runs as this user" };
    let confined = if can_confine() { "it opens no files but its own" } else { "this system cannot keep it" };
    for words in ["this repository is not encrypted", said, confined] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }

    let said = |run: &Run| {
        run.stderr.contains("this repository is not encrypted") && run.stderr.contains("can run programs on the server's machine")
    };
    let args = ["latest", "--dsn", &database.dsn()];
    let run = restore(&place, database.server, &args);
    assert!(said(&run), "{}", run.stderr);
    good(run);
    assert!(said(&drilled(&place, database.server, &args[1..])));
    database.sql("CREATE TABLE t AS SELECT 1 AS n");
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    assert!(said(&restore(&place, database.server, &["latest", "--dsn", &database.dsn(), "--table", "t"])));
}

#[test]
fn of_an_encrypted_repository_nothing_has_to_be_said() {
    let (place, database) = (encrypted(), server(16).database());
    database.sql("CREATE TABLE t AS SELECT 1 AS n");
    let run: Run = command(&place, database.server, &database.dsn(), &[]).env("ICECORE_PASSWORD", "x").output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let mut drill = drill::command(&place, &["latest", "--pg-bin", database.server.bin.to_str().unwrap()]);
    let run: Run = drill.env("ICECORE_PASSWORD", "x").output().unwrap().into();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_ne!(run.json()["drills"][0]["server_user"], Value::Null);
}
