//! A failed restore leaves the old database as it was. A message names an incomplete database that could not be dropped.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use icecore::engine::Environment;
use icecore::engine::postgres::Conninfo;
use icecore::engine::postgres::restore;
use icecore::progress::Silent;

use crate::restore::{command, family, good, plain, restore, saved};
use crate::script::write_script;
use crate::server::{Database, Server, on_every_version, server};
use crate::support::{Place, Run};

pub fn filled(server: &'static Server) -> (Place, Database) {
    let (place, database) = (plain(), server.database());
    database.sql("CREATE TABLE t AS SELECT n, repeat(md5(n::text), 10) AS text FROM generate_series(1, 30000) n; CREATE TABLE u (n int)");
    saved(&place, &database);
    database.sql("DELETE FROM t; CREATE TABLE newer (n int)");
    (place, database)
}

/// The old database is there under its name, and nothing else is.
#[track_caller]
fn untouched(database: &Database) {
    assert_eq!(family(database.server, &database.name), [database.name.as_str()]);
    assert_eq!(database.sql("SELECT count(*) FROM t"), "0");
    assert_eq!(database.sql("SELECT count(*) FROM newer"), "0");
}

/// The restore with a script of bash in place of pg_restore; `$real` is the true one.
fn with_script(place: &Place, database: &Database, script: &str, args: &[&str]) -> Command {
    let dir = place.path("bin");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).unwrap();
    for program in ["psql", "pg_dump", "pg_restore"] {
        let real = database.server.bin.join(program);
        // Links would not work: the programs look for their libraries beside themselves.
        let text = match program {
            "pg_restore" => format!("set -o pipefail\nreal={}\ncd {}\n{script}", real.display(), place.path("").display()),
            _ => format!("exec {} \"$@\"", real.display()),
        };
        write_script(&dir.join(program), &text);
    }
    let mut command = place.command();
    command.args(["--json", "restore", "latest", "--dsn", &database.dsn(), "--pg-bin"]).arg(dir).args(args);
    command.env("TMPDIR", place.path("home")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run_script(place: &Place, database: &Database, script: &str, args: &[&str]) -> Run {
    with_script(place, database, script, args).output().unwrap().into()
}

/// Runs a restore that stops in the middle of loading until `meanwhile` is over.
pub fn in_the_middle(place: &Place, database: &Database, args: &[&str], meanwhile: impl FnOnce(&Child)) -> Run {
    let script = "(head -c 3000000; touch middle; while [ ! -e go ]; do sleep 0.02; done; cat) | $real \"$@\"";
    let child = with_script(place, database, script, args).spawn().unwrap();
    crate::wait::until("loading is in the middle", || place.path("middle").exists());
    meanwhile(&child);
    std::fs::write(place.path("go"), "").unwrap();
    let run = child.wait_with_output().unwrap().into();
    std::fs::remove_file(place.path("middle")).unwrap();
    std::fs::remove_file(place.path("go")).unwrap();
    run
}

#[test]
fn a_program_that_fails_leaves_the_old_database_as_it_was() {
    on_every_version(|server| {
        let (place, database) = filled(server);
        let sql = |text: &str| {
            let psql = server.bin.join("psql");
            format!("$real \"$@\" && {} -Xq -d \"dbname=$PGDATABASE\" -c \"{text}\"", psql.display())
        };
        for (script, args, with) in [
            ("exit 3", &[][..], "exit code 3"),
            ("echo told you >&2; exit 1", &["--jobs", "2"], "told you"),
            ("head -c 100000 | $real \"$@\"", &[], "exit code 1"),
            ("head -c 1000000 >/dev/null; kill -9 $$", &[], "killed by signal 9"),
            ("kill -9 $$", &["--jobs", "2"], "killed by signal 9"),
            (&sql("DELETE FROM t WHERE n = 7"), &[], "t has 29999 rows in place of 30000"),
            (&sql("UPDATE t SET text = 'x' WHERE n = 7"), &["--jobs", "2"], "t has other rows"),
            ("exit 0", &[], "does not take the dump"),
            ("exit 0", &["--jobs", "2"], "rows in place of"),
        ] {
            let run = run_script(&place, &database, script, args);
            run.failed(1, &[with]);
            untouched(&database);
            assert!(std::fs::read_dir(place.path("home")).unwrap().next().is_none(), "the spool is gone");
        }
        let unverified = run_script(&place, &database, &sql("DELETE FROM t WHERE n = 7"), &["--no-verify"]);
        assert_eq!(good(unverified)["verified"], false);
    });
}

#[test]
fn a_server_that_is_stopped_in_the_middle() {
    let server: &'static Server = Box::leak(Box::new(Server::start(16)));
    let (place, database) = filled(server);
    let run = in_the_middle(&place, &database, &[], |_| server.control("immediate"));
    server.control("start");
    let left = family(server, &database.name);
    // It cannot be dropped, so the message names it.
    run.failed(1, &["DROP DATABASE IF EXISTS", &left[1]]);
    assert_eq!(left.len(), 2);
    // A later restore names it too.
    let run = restore(&place, server, &["latest", "--dsn", &database.dsn()]);
    assert!(run.stderr.contains(&left[1]), "{}", run.stderr);
    good(run);
}

#[test]
fn an_interruption_drops_the_half_made_database() {
    let (place, database) = filled(server(18));
    let run = in_the_middle(&place, &database, &[], |child| {
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    });
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    untouched(&database);
}

/// A session in a database that stays until its input is closed.
fn session(database: &Database) -> Child {
    let mut psql = Command::new(database.server.bin.join("psql"));
    psql.args(["-XqAt", "-d", &database.dsn()]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = psql.env("PGAPPNAME", "the sitter").spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"SELECT 'ready';\n").unwrap();
    let mut said = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
    child
}

#[test]
fn sessions_are_named_and_ended_only_if_asked_for() {
    on_every_version(|server| {
        let (place, database) = filled(server);
        let args = ["latest", "--dsn", &database.dsn()];
        let mut sitter = session(&database);
        restore(&place, server, &args).failed(11, &["the sitter", "--disconnect", "nothing was changed"]);
        untouched(&database);
        // Under a new name no session is in the way.
        good(restore(&place, server, &["latest", "--dsn", &database.dsn(), "--as", &format!("{}x", database.name)]));

        let done = good(restore(&place, server, &[&args[..], &["--disconnect"]].concat()));
        assert_eq!(database.sql("SELECT count(*) FROM t"), "30000");
        assert_eq!(server.sql(done["kept"].as_str().unwrap(), "SELECT count(*) FROM newer"), "0");
        sitter.stdin.as_mut().unwrap().write_all(b"SELECT 'still there';\n").unwrap();
        assert!(!sitter.wait().unwrap().success(), "its session was ended");
    });
}

#[test]
fn sessions_that_come_back_at_once_do_not_keep_the_name() {
    on_every_version(|server| {
        let (place, database) = filled(server);
        // Sessions come back, as those of a pool or a restarted application.
        let script = "while [ ! -e stop ]; do \"$0\" -XqAt -d \"$1\" -c 'SELECT pg_sleep(1000)' >/dev/null 2>&1; done";
        let start = || {
            let mut command = Command::new("bash");
            command.args(["-c", script]).arg(server.bin.join("psql")).arg(database.dsn()).current_dir(place.path(""));
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        let mut pool: Vec<Child> = (0..4).map(|_| start()).collect();
        let run = restore(&place, server, &["latest", "--dsn", &database.dsn(), "--disconnect"]);
        std::fs::write(place.path("stop"), "").unwrap();
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", database.name);
        crate::wait::until("the pool has ended", || {
            server.sql("postgres", &end);
            pool.iter_mut().all(|one| one.try_wait().unwrap().is_some())
        });
        good(run);
        assert_eq!(database.sql("SELECT count(*) FROM t"), "30000");
    });
}

#[test]
fn who_connects_in_the_middle_is_named_and_the_new_database_is_not_lost() {
    let (place, database) = filled(server(15));
    let (server, name) = (database.server, database.name.as_str());
    let mut sitter = None;
    let run = in_the_middle(&place, &database, &[], |_| sitter = Some(session(&database)));
    run.failed(11, &["the sitter", "nothing was replaced", "BEGIN; ALTER DATABASE"]);
    let mut sitter = sitter.unwrap();
    drop(sitter.stdin.take());
    sitter.wait().unwrap();
    let there = family(server, name);
    assert_eq!(there.len(), 2);
    assert!(there[1].starts_with(&format!("{name}_restoring_")), "{there:?}");
    assert_eq!(database.sql("SELECT count(*) FROM newer"), "0");
    // The statements in the message finish the restore.
    let start = run.stderr.find("BEGIN;").unwrap();
    let end = run.stderr.find(" COMMIT;").unwrap() + " COMMIT;".len();
    server.sql("postgres", &run.stderr[start..end].replace("\\\"", "\""));
    assert_eq!(database.sql("SELECT count(*) FROM t"), "30000");
}

#[test]
fn what_is_missing_is_told_before_anything_is_made() {
    let (place, database) = (plain(), server(15).database());
    let (server, role) = (database.server, format!("{}_gone", database.name));
    let other = format!("{role}_too");
    database.sql(&format!(
        "CREATE ROLE {role}; CREATE ROLE {other}; CREATE TABLE t (n int); ALTER TABLE t OWNER TO {role}; GRANT SELECT ON t TO {other}; \
         CREATE EXTENSION hstore; CREATE TABLE newer (n int)"
    ));
    saved(&place, &database);
    database.sql(&format!("DROP OWNED BY {other}; ALTER TABLE t OWNER TO postgres; DROP ROLE {role}; DROP ROLE {other}"));
    let args = ["latest", "--dsn", &database.dsn()];
    restore(&place, server, &args).failed(1, &[&format!("{role}; {other}"), "--no-owner --no-privileges", "nothing was changed"]);
    untouched(&database);
    restore(&place, server, &[&args[..], &["--no-owner"]].concat()).failed(1, &[&other]);
    good(restore(&place, server, &[&args[..], &["--no-owner", "--no-privileges"]].concat()));
    assert_eq!(database.sql("SELECT tableowner FROM pg_tables WHERE tablename = 't'"), "postgres");

    // The wheel's servers have no hstore.
    let bare = crate::server::server(16);
    let run = restore(&place, bare, &["latest", "--dsn", &bare.dsn("postgres"), "--no-owner", "--no-privileges"]);
    run.failed(1, &["extension hstore is not installed", "nothing was changed"]);
    assert!(family(bare, &format!("{}_restoring", database.name)).is_empty());
}

#[test]
fn names_are_not_guessed_and_not_taken_from_others() {
    let (place, database) = filled(server(18));
    let (server, other) = (database.server, server(18).database());
    restore(&place, server, &["latest", "--dsn", &other.dsn()]).failed(2, &["--as", &other.name]);
    let args = ["latest", "--dsn", &database.dsn(), "--as", &other.name];
    restore(&place, server, &args).failed(1, &["already", "nothing was changed"]);
    restore(&place, server, &["latest", "--dsn", &server.dsn("postgres"), "--as", "template1"]).failed(2, &["never replaced"]);
    untouched(&database);
    assert_eq!(family(server, &other.name), [other.name.as_str()]);
    // Named in both options, it is replaced.
    let done = good(restore(&place, server, &["latest", "--dsn", &other.dsn(), "--as", &other.name]));
    assert!(done["kept"].as_str().unwrap().starts_with(&format!("{}_pre_restore_", other.name)));
    assert_eq!(other.sql("SELECT count(*) FROM t"), "30000");
    untouched(&database);
}

#[test]
fn a_role_without_rights_is_told_and_one_that_may_make_databases_is_enough() {
    on_every_version(|server| {
        let (place, database) = filled(server);
        let role = format!("{}_maker", database.name);
        server.sql("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD 'hunter2'"));
        let dsn = server.dsn("postgres").replace("postgres@", &format!("{role}:hunter2@"));
        let run = restore(&place, server, &["latest", "--dsn", &dsn, "--no-owner"]);
        run.failed(1, &["CREATEDB", "may not rename the old database", "nothing was changed"]);
        assert!(!run.stderr.contains("hunter2"));
        untouched(&database);
        server.sql("postgres", &format!("ALTER ROLE {role} CREATEDB"));
        let name = format!("{}m", database.name);
        let args = ["latest", "--dsn", &dsn, "--no-owner", "--as", &name];
        let done = good(command(&place, server, &args).output().unwrap().into());
        assert_eq!(done["verified"], true);
        assert_eq!(server.sql(&name, "SELECT tableowner FROM pg_tables WHERE tablename = 't'"), role);
    });
}

#[test]
fn restores_of_one_second_have_names_of_their_own() {
    let (place, database) = filled(server(15));
    let (server, name, path) = (database.server, database.name.as_str(), place.path("x.pgdump"));
    std::fs::write(&path, database.pg_dump(&[])).unwrap();
    let dump = restore::Dump::of_file(&path, &Silent).unwrap();
    let variables = std::env::vars_os().filter(|(name, _)| !name.as_encoded_bytes().starts_with(b"PG")).collect();
    let environment = Environment { variables, os_user: None };
    let options = restore::ServerOptions {
        conninfo: Conninfo::resolve(Some(&database.dsn()), &environment).unwrap(),
        environment,
        bin: Some(server.bin.clone()),
        name: None,
        jobs: 1,
        spool_dir: place.path("home"),
        timestamp: "20261123T031500Z".into(),
        disconnect: false,
        no_owner: false,
        no_privileges: false,
        no_tablespaces: false,
        verify: true,
        keep_going: false,
        at_stake: restore::AtStake::Role,
    };
    // A database of a killed restore.
    let killed = format!("{name}_restoring_20261123t031500z");
    server.sql("postgres", &format!("CREATE DATABASE {killed}"));
    let kept: Vec<String> = (0..2).map(|_| restore::restore(&dump, &options, &Silent).unwrap().kept.unwrap()).collect();
    assert_eq!(kept, ["2", "3"].map(|number| format!("{name}_pre_restore_20261123t031500z{number}")));
    assert_eq!(family(server, name), [name, kept[0].as_str(), kept[1].as_str(), killed.as_str()]);
}
