//! A failed backup leaves no snapshot that counts.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::capture::{backup, command, encrypted};
use crate::script::write_script;
use crate::server::{Database, Holder, Server, on_every_version, server};
use crate::support::{Place, Run};

pub fn plain() -> Place {
    let place = Place::new();
    place.ok(["init", "--no-encryption"]);
    place
}

/// A directory of programs in which `pg_dump` is this script of bash; `$real` is the true one, and `--version` and `--schema-only` go there.
fn programs(place: &Place, server: &Server, script: &str) -> PathBuf {
    let dir = place.path("bin");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).unwrap();
    for program in ["psql", "pg_dumpall"] {
        // Links would not work: the programs look for their libraries beside themselves.
        write_script(&dir.join(program), &format!("exec {} \"$@\"", server.bin.join(program).display()));
    }
    let real = server.bin.join("pg_dump");
    let text = format!(
        "set -o pipefail\nreal={}\ncase \"$1\" in --version|--schema-only) exec $real \"$@\";; esac\ncd {}\n{script}",
        real.display(),
        place.path("").display()
    );
    write_script(&dir.join("pg_dump"), &text);
    dir
}

pub fn with_script(place: &Place, database: &Database, script: &str) -> Command {
    let dir = programs(place, database.server, script);
    let mut command = place.command();
    command.args(["--json", "backup", "postgres", "--no-role-passwords", "--dsn", &database.dsn(), "--pg-bin"]).arg(dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run_script(place: &Place, database: &Database, script: &str) -> Run {
    with_script(place, database, script).output().unwrap().into()
}

pub fn fails(place: &Place, run: &Run, with: &str) {
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains(with), "{with}: {}", run.stderr);
    assert!(place.snapshots().is_empty());
    place.ok(["check"]);
}

pub fn fill(database: &Database) {
    database.sql("CREATE TABLE t AS SELECT n, repeat(md5(n::text), 10) AS text FROM generate_series(1, 30000) n");
}

#[test]
fn a_program_that_fails_or_ends_early_leaves_no_snapshot() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        fill(&database);
        for (script, with) in [
            ("$real \"$@\"; exit 3", "exit code 3"),
            ("$real \"$@\" | head -c 1000000; kill -9 $$", "killed by signal 9"),
            ("$real \"$@\" | head -c 1000000; exit 0", "cannot be read"),
            ("$real \"$@\" | head -c -1; exit 0", "cannot be read"),
            ("$real \"$@\"; echo more", "cannot be read"),
            ("exit 0", "cannot be read"),
            ("echo told you >&2; exit 1", "told you"),
            ("exec $real \"$@\" -Z1", "compressed"),
            ("exec $real \"$@\" --table=none", "no matching tables"),
        ] {
            fails(&place, &run_script(&place, &database, script), with);
        }
        let run = run_script(&place, &database, "echo careful >&2; exec $real \"$@\"");
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(place.json(["show", "latest"])["facts"]["pg_dump_messages"], "careful\n");
    });
}

/// Runs a backup whose dump stops in the middle until `meanwhile` is over.
fn in_the_middle(place: &Place, database: &Database, meanwhile: impl FnOnce()) -> Run {
    let script = "$real \"$@\" | (head -c 100000; touch middle; while [ ! -e go ]; do sleep 0.02; done; cat)";
    let child: Child = with_script(place, database, script).spawn().unwrap();
    crate::wait::until("the dump is in the middle", || place.path("middle").exists());
    meanwhile();
    std::fs::write(place.path("go"), "").unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_server_that_is_stopped_in_the_middle() {
    let server: &'static Server = Box::leak(Box::new(Server::start(15)));
    let (place, database) = (plain(), server.database());
    fill(&database);
    let run = in_the_middle(&place, &database, || server.control("immediate"));
    fails(&place, &run, "exit code 1");
    server.control("start");
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
}

#[test]
fn lost_connections() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        fill(&database);
        for (name, with) in [("pg_dump", "exit code 1"), ("icecore", "connection was lost")] {
            let end = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND application_name = '{name}'",
                database.name
            );
            // The pg_dump that writes the schema may still run too.
            let ended = |answer: String| answer.starts_with('t') && !answer.contains('f');
            let run = in_the_middle(&place, &database, || assert!(ended(server.sql("postgres", &end))));
            fails(&place, &run, with);
            std::fs::remove_file(place.path("middle")).unwrap();
            std::fs::remove_file(place.path("go")).unwrap();
        }
    });
}

#[test]
fn a_locked_table_is_not_waited_for_without_end() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        database.sql("CREATE TABLE t (n int)");
        let holder = Holder::of_table(&database, "t");
        let run = backup(&place, &database, &["--no-role-passwords", "--lock-wait-timeout", "1"]);
        drop(holder);
        fails(&place, &run, "--lock-wait-timeout");
    });
}

#[test]
fn rows_and_tables_that_a_role_may_not_see_are_not_left_out() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        let role = format!("reader_{}", database.name);
        database.sql(&format!(
            "CREATE ROLE {role} LOGIN; CREATE TABLE seen (n int); INSERT INTO seen VALUES (1), (2); GRANT SELECT ON seen TO {role}; \
             ALTER TABLE seen ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON seen USING (n = 1)"
        ));
        let dsn = database.dsn().replace("postgres@", &format!("{role}@"));
        let run = || -> Run { command(&place, server, &dsn, &["--no-role-passwords"]).output().unwrap().into() };
        fails(&place, &run(), "BYPASSRLS");
        database.sql("ALTER TABLE seen DISABLE ROW LEVEL SECURITY; CREATE TABLE unseen (n int)");
        fails(&place, &run(), "permission denied");
        database.sql("DROP TABLE unseen");
        assert_eq!(run().code, Some(0), "any role that may read everything will do");

        let place = encrypted();
        let run: Run = command(&place, server, &dsn, &[]).env("ICECORE_PASSWORD", "x").output().unwrap().into();
        assert_eq!(run.code, Some(1));
        assert!(run.stderr.contains("--no-role-passwords"), "verifiers are not for every role: {}", run.stderr);
    });
}

#[test]
fn a_sudden_loss_of_size_is_flagged() {
    let (place, database) = (plain(), server(18).database());
    fill(&database);
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
    database.sql("TRUNCATE t");
    let run = backup(&place, &database, &["--no-role-passwords"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(run.json()["flags"][0]["code"], "shrunk");
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(3), "the newest good state counts, not the parent");
    place.ok(["mark", &place.newest(), "accept"]);
    assert_eq!(backup(&place, &database, &["--no-role-passwords"]).code, Some(0));
}

#[test]
fn programs_that_are_too_old_are_not_used() {
    let (place, database) = (plain(), server(18).database());
    let run: Run = place
        .command()
        .args(["--json", "backup", "postgres", "--no-role-passwords", "--dsn", &database.dsn(), "--pg-bin", "/usr/lib/postgresql/15/bin"])
        .output()
        .unwrap()
        .into();
    fails(&place, &run, "the server is PostgreSQL 18, so pg_dump 18 to 18 is needed, but found only 15.");
    // Newer ones serve older servers.
    let old = server(15).database();
    let run: Run = command(&place, database.server, &old.dsn(), &["--no-role-passwords"]).output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    // The first fitting program on PATH is taken. Programs before it that do not fit are skipped.
    let path = std::env::join_paths(["/usr/lib/postgresql/15/bin".as_ref(), database.server.bin.as_path(), "/bin".as_ref()]).unwrap();
    let args = ["--json", "backup", "postgres", "--no-role-passwords", "--dsn", &database.dsn()];
    let run: Run = place.command().args(args).env("PATH", path).output().unwrap().into();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn a_password_is_in_no_argument_record_nor_error() {
    let (place, database) = (Place::new(), server(16).database());
    let own = |mut command: Command| -> Run { command.env("ICECORE_PASSWORD", "phrase").output().unwrap().into() };
    let icecore = |args: &[&str]| {
        let mut command = place.command();
        command.args(args);
        let run = own(command);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run.stdout
    };
    icecore(&["init"]);
    let script = "printf '%s\\n' \"$@\" >arguments; env >environment; exec $real \"$@\"";
    let dir = programs(&place, database.server, script);
    let dsn = database.dsn().replace("postgres@", "postgres:hunter2@");
    let start = |dsn: &str| -> Run {
        let mut command = place.command();
        command.args(["--json", "backup", "postgres", "--no-role-passwords", "--dsn", dsn, "--pg-bin"]).arg(&dir);
        command.env("PGOPTIONS", "-c work_mem=1MB").env("PGDATABASE", "elsewhere");
        own(command)
    };
    let run = start(&dsn);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let seen = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    assert!(!seen("arguments").contains("hunter2"), "{}", seen("arguments"));
    let environment = seen("environment");
    assert!(environment.contains("PGPASSWORD=hunter2") && !environment.contains("phrase"));
    assert!(environment.contains(&format!("PGDATABASE={}", database.name)) && environment.contains("PGOPTIONS=-c work_mem=1MB"));
    let stored = format!("{}{}{}", run.stdout, icecore(&["--json", "show", "latest"]), icecore(&["--json", "snapshots"]));
    assert!(!stored.contains("hunter2"), "{stored}");
    for wrong in [dsn.replace("/db", "/none"), dsn.replace("postgresql:", "host=h ?postgresql:"), format!("{dsn}?wrong=1")] {
        let run = start(&wrong);
        assert_ne!(run.code, Some(0));
        assert!(!run.stderr.contains("hunter2"), "{}", run.stderr);
    }
}

#[test]
fn the_exit_status_of_a_command_decides() {
    let place = plain();
    let run = |script: &str| place.run(["--json", "backup", "command", "--name", "out", "--", "sh", "-c", script]);
    fails(&place, &run("echo dump; exit 7"), "exit code 7");
    fails(&place, &run("echo dump; kill -9 $$"), "signal 9");
    fails(&place, &place.run(["backup", "command", "--name", "out", "--", "no-such-program"]), "cannot be run");
    assert_eq!(place.run(["backup", "command", "--name", "../out", "--", "true"]).code, Some(2));
    assert_eq!(run("echo warned >&2; echo dump").code, Some(0));
    assert_eq!(place.ok(["dump", "latest", "out"]).stdout, "dump\n");
    assert_eq!(place.json(["show", "latest"])["facts"]["messages"], "warned\n");
    let empty = run("exit 0");
    assert_eq!(empty.code, Some(3));
    assert_eq!(empty.json()["flags"][0]["code"], "empty");
    // Long messages do not fill the record.
    assert_eq!(run("for i in $(seq 1 20000); do echo message $i >&2; done; echo dump").code, Some(0));
    let messages = place.json(["show", "latest"])["facts"]["messages"].as_str().unwrap().to_owned();
    assert!(messages.len() < 10_000 && messages.starts_with("message 1\n") && messages.ends_with("message 20000\n"));
}
