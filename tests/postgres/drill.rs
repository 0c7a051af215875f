//! `drill` of PostgreSQL snapshots: on a throw-away server, and beside other databases.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::restore::{family, plain, saved};
use crate::script::write_script;
use crate::server::{Database, Server, VERSIONS, on_every_version, server};
use crate::support::{Place, Run};

/// A directory that the user of the servers may enter. Dropping it removes it.
struct Staging(tempfile::TempDir);

impl Staging {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Staging(dir)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(self.path()).unwrap().next().is_none()
    }
}

pub fn command(place: &Place, args: &[&str]) -> Command {
    let mut command = place.command();
    command.args(["--json", "drill"]).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command.env("TMPDIR", "/tmp");
    command
}

/// A drill on a throw-away server of this version.
fn drill(place: &Place, version: u32, args: &[&str]) -> Run {
    let (staging, bin) = (Staging::new(), server(version).bin.to_str().unwrap());
    let run = command(place, &[&["latest", "--staging", staging.path(), "--pg-bin", bin], args].concat()).output().unwrap().into();
    assert!(staging.is_empty(), "the server's directory is gone");
    run
}

/// The report of a drill that has failed, with these words in its error.
#[track_caller]
fn bad(run: Run, words: &[&str]) -> Value {
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    words.iter().for_each(|word| assert!(run.stderr.contains(word), "{word:?} is not in {:?}", run.stderr));
    let report = run.json();
    assert_eq!((&report["passed"], &report["marked"]), (&false.into(), &false.into()));
    report
}

fn checks(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = report["drills"][0]["checks"].as_array().unwrap();
    all.iter().map(|check| (text(&check["check"]), text(&check["outcome"]))).collect()
}

fn outcome(report: &Value, name: &str) -> String {
    checks(report).into_iter().find(|(check, _)| check == name).unwrap_or_else(|| panic!("no {name} in {report}")).1
}

fn detail<'r>(report: &'r Value, name: &str) -> &'r str {
    let all = report["drills"][0]["checks"].as_array().unwrap();
    all.iter().find(|check| check["check"] == name).unwrap()["detail"].as_str().unwrap()
}

/// A database with a role of its own, rows, an index, a large object, and a snapshot of it.
pub fn filled(server: &'static Server) -> (Place, Database) {
    let (place, database) = (plain(), server.database());
    let name = &database.name;
    database.sql(&format!(
        "CREATE ROLE {name}_owner LOGIN CONNECTION LIMIT 7; CREATE ROLE {name}_reader; GRANT {name}_reader TO {name}_owner; \
         COMMENT ON ROLE {name}_reader IS 'it''s; a reader'; SELECT lo_from_bytea(0, 'large'); \
         CREATE TABLE t (n int PRIMARY KEY, text text); INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 5000) n; \
         CREATE INDEX ON t (text); CREATE TABLE empty (n int); ALTER TABLE t OWNER TO {name}_owner; \
         GRANT SELECT ON t TO {name}_reader; CREATE MATERIALIZED VIEW m AS SELECT count(*) AS rows FROM t"
    ));
    server.sql("postgres", &format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    saved(&place, &database);
    (place, database)
}

#[test]
fn a_dump_that_is_a_directory_is_drilled() {
    let (place, database) = filled(server(VERSIONS[0]));
    assert_eq!(crate::parallel::parallel(&place, &database, &[]).code, Some(0));
    let sql = format!("{}:SELECT count(*) = 5000 FROM t", database.name);
    let run = drill(&place, VERSIONS[0], &["--check-sql", &sql]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let report = run.json();
    assert_eq!((outcome(&report, "content"), outcome(&report, "sql")), ("passed".to_owned(), "passed".to_owned()));
    let streams = report["drills"][0]["streams"].as_array().unwrap();
    let contents: Vec<&Value> = streams.iter().filter(|stream| stream["tables"].is_array()).collect();
    assert_eq!(contents.len(), 1, "{report}");
    assert_eq!((&contents[0]["kind"], &contents[0]["name"]), (&"pgdir".into(), &format!("{}.pgdir/toc.dat", database.name).into()));
    let bad_sql = format!("{}:SELECT count(*) = 4 FROM t", database.name);
    bad(drill(&place, VERSIONS[0], &["--check-sql", &bad_sql]), &["which is not true"]);
}

fn is_marked(place: &Place) -> bool {
    place.json(["show", "latest"])["snapshot"]["checked"]["whole"] == true
}

/// Each later version takes the dump as well, as long as its programs are there.
#[test]
fn a_good_snapshot_passes_on_every_version_that_can_take_it() {
    on_every_version(|origin| {
        let (place, database) = filled(origin);
        for version in VERSIONS.into_iter().filter(|version| *version >= origin.version) {
            let sql = format!("{}:SELECT count(*) = 5000 FROM t", database.name);
            let dump = format!("{}.pgdump:SELECT current_database() = '{}'", database.name, database.name);
            let args = ["--rto", "30m", "--check-sql", &sql, "--check-sql", &dump, "--check-sql", "SELECT rows FROM m", "--jobs", "2"];
            let run = drill(&place, version, &args);
            assert_eq!(run.code, Some(0), "{}", run.stderr);
            let report = run.json();
            let names: Vec<String> = checks(&report).into_iter().map(|(check, _)| check).collect();
            assert_eq!(names, ["roles", "restore", "content", "integrity", "sql", "sql", "sql", "rto"]);
            let has_amcheck = !lacks_amcheck(version);
            assert_eq!(outcome(&report, "integrity"), if has_amcheck { "passed" } else { "skipped" }, "{report}");
            assert!(checks(&report).iter().all(|(check, outcome)| outcome == "passed" || check == "integrity"), "{report}");
            let drilled = &report["drills"][0];
            assert!(drilled["server"].as_str().unwrap().starts_with(&format!("PostgreSQL {version}.")), "{drilled}");
            let dump = drilled["streams"].as_array().unwrap().iter().find(|stream| stream["kind"] == "pgdump").unwrap();
            let rows: Vec<_> = dump["tables"].as_array().unwrap().iter().map(|table| table["rows"].as_u64().unwrap()).collect();
            assert_eq!((rows.iter().sum::<u64>(), rows.len()), (5000, 2));
            assert_eq!(report["marked"], true);
            as_the_page_says("Drill", drilled);
            as_the_page_says("DrillStream", dump);
            as_the_page_says("DrillCheck", &drilled["checks"][0]);
        }
        assert!(is_marked(&place));
    });
}

/// The servers of the test wheels come without contributed modules.
fn lacks_amcheck(version: u32) -> bool {
    server(version).sql("postgres", "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'") == "0"
}

/// A document has the fields in its table in docs/json.md. Optional fields of the table may be missing.
#[track_caller]
pub fn as_the_page_says(title: &str, document: &Value) {
    let page = include_str!("../../docs/json.md");
    let table = page.split(&format!("### {title}\n")).nth(1).unwrap().split("###").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|row| row.starts_with("| `")).collect();
    let name = |row: &str| row.split('`').nth(1).unwrap().to_owned();
    let known: Vec<String> = rows.iter().map(|row| name(row)).collect();
    let fields: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert!(fields.iter().all(|field| known.contains(field)), "{fields:?} {known:?}");
    let wanted = rows.iter().filter(|row| !row.contains(", optional")).map(|row| name(row));
    wanted.for_each(|field| assert!(fields.contains(&&field), "{field} is not in {fields:?}"));
}

#[test]
fn status_says_when_a_drill_has_passed() {
    let (place, _database) = filled(server(16));
    let last = || place.json(["status"])["sources"][0]["last_verified"].clone();
    assert_eq!(last(), Value::Null);
    bad(drill(&place, 16, &["--rto", "0"]), &["rto"]);
    assert_eq!(last(), Value::Null);
    assert_eq!(drill(&place, 16, &[]).code, Some(0));
    let shown = last();
    let snapshot = place.json(["show", "latest"])["snapshot"]["id"].clone();
    assert_eq!((&shown["by"], &shown["snapshot"]), (&"drill".into(), &snapshot));
    let told = place.json(["log"])["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&told["operation"], &told["outcome"]), (&"drill".into(), &"done".into()));
}

#[test]
fn each_thing_that_is_wrong_fails_it() {
    let (place, database) = filled(server(16));
    for (sql, with) in [
        ("SELECT count(*) > 5000 FROM t", "f, which is not true"),
        ("SELECT NULL", "NULL, which is not true"),
        ("SELECT 0.0", "which is not true"),
        ("SELECT 1 WHERE false", "no row"),
        ("SELECT 1 FROM nowhere", "does not exist"),
        ("SELECT 1; SELECT 1", "multiple commands"),
        ("DELETE FROM t", "syntax error"),
        ("SELECT lo_unlink(oid) FROM pg_largeobject_metadata", "read-only"),
    ] {
        let run = drill(&place, 16, &["--check-sql", sql]);
        assert_eq!(outcome(&bad(run, &["the drill failed", "sql", with]), "sql"), "failed");
    }
    bad(drill(&place, 16, &["--rto", "0"]), &["rto"]);
    assert!(!is_marked(&place));
    // A wrong question does not make the snapshot fail.
    let nothing = Staging::new();
    let ask = |args: &[&str]| -> Run { command(&place, args).output().unwrap().into() };
    ask(&["latest", "--pg-bin", nothing.path(), "--staging", nothing.path()]).failed(1, &["initdb", "--pg-bin", "postgresql-16"]);
    ask(&["latest", "--pg-bin", "/usr/lib/postgresql/15/bin", "--staging", nothing.path()]).failed(1, &["PostgreSQL 16 to", "15."]);
    let deep = format!("{}/{}", nothing.path(), "x".repeat(90));
    ask(&["latest", "--pg-bin", database.server.bin.to_str().unwrap(), "--staging", &deep]).failed(2, &["longer than"]);
    assert!(std::fs::read_dir(&deep).unwrap().next().is_none());
}

/// An index that differs from its table: its function gives another value each time.
#[test]
fn a_wrong_index_fails_it() {
    let (place, database) = (plain(), server(15).database());
    database.sql(
        "CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n; \
         CREATE FUNCTION liar(n int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT pg_current_xact_id()::text || $1'; CREATE INDEX lies ON t (liar(n))",
    );
    saved(&place, &database);
    let report = bad(drill(&place, 15, &[]), &["integrity: index public.lies", "lacks matching index tuple"]);
    assert_eq!(outcome(&report, "content"), "passed");
}

/// The server's own programs. One of them is replaced by a script.
fn programs(server: &Server, other: &str, more: &str) -> Staging {
    let bin = Staging::new();
    // Links would not work: the programs look for their libraries beside themselves.
    for program in ["psql", "pg_dump", "pg_dumpall", "pg_restore", "initdb", "postgres"] {
        let real = server.bin.join(program).display().to_string();
        let line = if program == other { format!("{real} \"$@\" {more}") } else { format!("exec {real} \"$@\"") };
        write_script(&bin.0.path().join(program), &format!("set -o pipefail\n{line}"));
    }
    bin
}

/// A snapshot whose globals.sql went through this.
fn saved_through(place: &Place, database: &Database, filter: &str) {
    let bin = programs(database.server, "pg_dumpall", &format!("| {filter}"));
    place.ok(["backup", "postgres", "--no-role-passwords", "--dsn", &database.dsn(), "--pg-bin", bin.path()]);
}

/// Lost rows are found by comparing, even if the programs report success.
#[test]
fn rows_that_do_not_come_back_fail_it() {
    let (place, _database) = filled(server(16));
    let psql = server(16).bin.join("psql").display().to_string();
    let then = |sql: &str| programs(server(16), "pg_restore", &format!("&& {psql} -Xq -d \"dbname=$PGDATABASE\" -c \"{sql}\""));
    for (sql, with) in [
        ("SET transaction_read_only = off; DELETE FROM t WHERE n = 7", "public.t has 4999 rows in place of 5000"),
        ("SET transaction_read_only = off; UPDATE t SET text = 'x' WHERE n = 7", "public.t has other rows"),
    ] {
        let (bin, staging) = (then(sql), Staging::new());
        let run = command(&place, &["latest", "--staging", staging.path(), "--pg-bin", bin.path()]).output().unwrap().into();
        let report = bad(run, &["content", with]);
        assert_eq!(outcome(&report, "restore"), "passed");
    }
    let (bin, staging) = (programs(server(16), "initdb", "--nonsense"), Staging::new());
    let run: Run = command(&place, &["latest", "--staging", staging.path(), "--pg-bin", bin.path()]).output().unwrap().into();
    run.failed(1, &["does not start", "nonsense"]);
    assert!(staging.is_empty());
}

/// The server's user can replace anything in its directory, so no other user writes there.
#[test]
fn what_root_writes_lies_in_no_directory_of_the_servers_user() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let (place, database) = filled(server(16));
    for parallel in [false, true] {
        if parallel {
            assert_eq!(crate::parallel::parallel(&place, &database, &[]).code, Some(0));
        }
        let told = place.path("told");
        let (bin, staging) =
            (programs(server(16), "pg_restore", &format!("&& stat -c %u \"$(dirname \"${{!#}}\")\" >{}", told.display())), Staging::new());
        let args = ["latest", "--staging", staging.path(), "--pg-bin", bin.path(), "--jobs", "2"];
        let run: Run = command(&place, &args).output().unwrap().into();
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(std::fs::read_to_string(&told).unwrap(), "0\n", "{parallel}");
        assert!(staging.is_empty());
    }
}

/// A role that the dump needs, and that was created after the cluster's globals were written.
#[test]
fn a_missing_role_fails_it() {
    let (place, database) = filled(server(16));
    let role = format!("{}_late", database.name);
    database.sql(&format!("SET transaction_read_only = off; CREATE ROLE {role}; ALTER TABLE t OWNER TO {role}"));
    saved_through(&place, &database, &format!("sed /{role}/d"));
    let report = bad(drill(&place, 16, &[]), &["roles that the dump names are missing", &role]);
    assert_eq!((outcome(&report, "restore"), outcome(&report, "roles")), ("failed".into(), "passed".into()));
    assert!(!is_marked(&place));
}

/// A statement that fails is reported. A role that cannot be created fails the drill.
#[test]
fn roles_are_made_as_far_as_they_can_be() {
    let (place, database) = filled(server(16));
    let name = &database.name;
    saved_through(&place, &database, "sed '1i ALTER ROLE nobody_such WITH LOGIN;'");
    let member = format!("pg_has_role('{name}_owner', '{name}_reader', 'member')");
    let role = format!("SELECT rolconnlimit = 7 AND {member} FROM pg_roles WHERE rolname = '{name}_owner'");
    let owner = format!("SELECT tableowner = '{name}_owner' FROM pg_tables WHERE tablename = 't'");
    let run = drill(&place, 16, &["--check-sql", &role, "--check-sql", &owner]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let report = run.json();
    assert!(detail(&report, "roles").contains("roles made; refused: ALTER ROLE nobody_such WITH: "), "{report}");
    assert!(run.stderr.contains("globals.sql: ALTER ROLE nobody_such"), "{}", run.stderr);
    saved_through(&place, &database, "sed '1i CREATE ROLE pg_such;'");
    bad(drill(&place, 16, &[]), &["globals.sql: roles: these roles cannot be created: pg_such"]);
}

#[test]
fn beside_other_databases_nothing_is_left() {
    on_every_version(|server| {
        let (place, database) = filled(server);
        let before = family(server, &database.name);
        let bin = server.bin.to_str().unwrap();
        let ask = |dsn: &str, args: &[&str]| -> Run {
            command(&place, &[&["latest", "--dsn", dsn, "--pg-bin", bin], args].concat()).output().unwrap().into()
        };
        for dsn in [database.dsn(), server.dsn("postgres")] {
            let run = ask(&dsn, &["--check-sql", "SELECT count(*) = 5000 FROM t"]);
            assert_eq!(run.code, Some(0), "{}", run.stderr);
            let names: Vec<String> = checks(&run.json()).into_iter().map(|(check, _)| check).collect();
            assert_eq!(names, ["restore", "content", "integrity", "sql"]);
            assert_eq!(family(server, &database.name), before);
        }
        bad(ask(&database.dsn(), &["--check-sql", "SELECT false"]), &["sql"]);
        assert_eq!(family(server, &database.name), before);
        assert_eq!(database.sql("SELECT count(*) FROM t"), "5000");
        // A role that is not on that server.
        database.sql(&format!(
            "SET transaction_read_only = off; REASSIGN OWNED BY {0}_owner TO postgres; DROP OWNED BY {0}_owner; DROP ROLE {0}_owner",
            database.name
        ));
        let missing = format!("{}_owner", database.name);
        bad(ask(&database.dsn(), &[]), &["restore", &missing, "--no-owner"]);
        assert_eq!(ask(&database.dsn(), &["--no-owner", "--no-privileges", "--no-mark"]).code, Some(0));
        ask(&server.dsn("postgres").replace("postgres@", "nobody_here@"), &[]).failed(1, &["cannot connect"]);
        assert_eq!(family(server, &database.name), before);
    });
}

/// A drill whose assertion never ends.
fn endless(place: &Place, staging: &Staging) -> Command {
    let bin = server(16).bin.to_str().unwrap();
    command(place, &["latest", "--staging", staging.path(), "--pg-bin", bin, "--check-sql", "SELECT pg_sleep(100000) IS NULL"])
}

/// Waits until it is asked, and gives the server's process.
fn asked(staging: &Staging) -> i32 {
    let mut found = None;
    crate::wait::until("it is asked", || {
        let mut dirs = std::fs::read_dir(staging.path()).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        if let Some(dir) = dirs.find(|path| path.join(".s.PGSQL.5432").exists()) {
            let mut psql = Command::new(server(16).bin.join("psql"));
            let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            psql.args(["-XqAt", "-U", "postgres", "-d", "postgres", "-c", query, "-h"]).arg(&dir).env_remove("PGPORT");
            if psql.output().unwrap().stdout == b"1\n" {
                let pid = std::fs::read_to_string(dir.join("data/postmaster.pid")).unwrap();
                found = Some(pid.lines().next().unwrap().parse().unwrap());
            }
        }
        found.is_some()
    });
    found.unwrap()
}

fn is_running(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}/stat")).exists()
}

#[test]
fn an_interrupted_drill_leaves_no_server() {
    let (place, _database) = filled(server(16));
    for signal in [Signal::INT, Signal::TERM] {
        let staging = Staging::new();
        let child = endless(&place, &staging).spawn().unwrap();
        let server = asked(&staging);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let run: Run = child.wait_with_output().unwrap().into();
        run.failed(130, &["interrupted"]);
        assert!(staging.is_empty() && !is_running(server));
    }
    assert!(!is_marked(&place));
    let told = place.json(["log"])["entries"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(told["outcome"], "interrupted");
}

/// After a kill, only the keeper is left to stop the server.
#[test]
fn a_killed_drill_leaves_no_server() {
    let (place, _database) = filled(server(16));
    let staging = Staging::new();
    let mut child = endless(&place, &staging).spawn().unwrap();
    let server = asked(&staging);
    child.kill().unwrap();
    child.wait().unwrap();
    crate::wait::until("the server and its files are gone", || {
        // The directory itself stays where its user may not change the one above.
        let left: Vec<_> = std::fs::read_dir(staging.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        !is_running(server) && left.iter().all(|dir| std::fs::read_dir(dir).map_or(true, |mut inside| inside.next().is_none()))
    });
}

#[test]
fn options_for_servers_are_for_snapshots_of_servers() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let ask = |args: &[&str]| -> Run { command(&place, args).output().unwrap().into() };
    ask(&["latest", "--dsn", "postgres"]).failed(2, &["of another kind: sqlite"]);
    ask(&["latest", "--jobs", "2"]).failed(2, &["of another kind: sqlite"]);
    ask(&["latest", "--dsn", "postgres", "--staging", "x"]).failed(2, &["--staging"]);
    assert_eq!(ask(&["latest"]).code, Some(0));
}
