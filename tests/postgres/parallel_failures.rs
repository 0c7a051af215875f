//! A failed backup with several jobs leaves no snapshot, no program and no spool.

use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::capture::{backup, command};
use crate::failures::{fails, fill, plain, with_script};
use crate::parallel::{nothing_spooled, parallel};
use crate::server::{Database, Holder, Server, on_every_version, server};
use crate::support::{Place, Run};

/// A backup with three jobs and this script in place of pg_dump; `$dir` is the directory that it is to write.
fn run_script(place: &Place, database: &Database, script: &str) -> Run {
    let spool = place.path("spool");
    std::fs::create_dir_all(&spool).unwrap();
    let script = format!("dir=${{!#}}\n{script}");
    with_script(place, database, &script).args(["--jobs", "3", "--tmp"]).arg(&spool).output().unwrap().into()
}

#[test]
fn a_directory_that_is_not_whole_is_no_snapshot() {
    on_every_version(|server| {
        let (place, database) = (plain(), server.database());
        fill(&database);
        database.sql("SELECT lo_from_bytea(17, 'large')");
        for (script, with) in [
            ("$real \"$@\"; exit 3", "exit code 3"),
            ("$real \"$@\"; kill -9 $$", "killed by signal 9"),
            ("echo told you >&2; exit 1", "told you"),
            ("exit 0", "toc.dat cannot be read"),
            ("$real \"$@\"; truncate -s -1 $dir/toc.dat", "toc.dat cannot be read"),
            ("$real \"$@\"; echo >>$dir/toc.dat", "toc.dat cannot be read"),
            ("$real \"$@\"; rm $dir/[0-9]*.dat", ".dat"),
            ("$real \"$@\"; rm $dir/blob_17.dat", "blob_17.dat is missing"),
            ("$real \"$@\"; rm $dir/blobs*.toc", "blobs"),
            ("$real \"$@\"; echo x >>$(echo $dir/blobs*.toc)", "cannot be read"),
            ("$real \"$@\"; touch $dir/more.dat", "does not name more.dat"),
            ("$real \"$@\"; truncate -s -1 $dir/[0-9]*.dat", "does not end with the line that marks its end"),
            ("$real \"$@\"; echo >>$(echo $dir/[0-9]*.dat)", "does not end with the line that marks its end"),
            ("f=$($real \"$@\"; echo $dir/[0-9]*.dat); rm $f; ln -s /etc/hostname $f", "is missing"),
            ("exec $real \"$@\" -Z1", "compressed"),
            ("ulimit -f 100; trap '' XFSZ; exec $real \"$@\"", "choose a directory with more room with --tmp"),
        ] {
            fails(&place, &run_script(&place, &database, script), with);
            nothing_spooled(&place);
        }
        let run = run_script(&place, &database, "echo careful >&2; stat -c %a $dir >mode; exec $real \"$@\"");
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(place.json(["show", "latest"])["facts"]["pg_dump_messages"], "careful\n");
        assert_eq!(std::fs::read_to_string(place.path("mode")).unwrap(), "700\n", "nobody else looks into it");
    });
}

#[test]
fn a_place_that_is_not_there() {
    let (place, database) = (plain(), server(15).database());
    let run = backup(&place, &database, &["--no-role-passwords", "--jobs", "2", "--tmp", "/none"]);
    fails(&place, &run, "choose another directory with --tmp");
}

/// Runs a backup in the middle of whose dump `meanwhile` happens: a worker waits there for the contents of large objects.
fn in_the_middle(place: &Place, database: &Database, meanwhile: impl FnOnce(&Child)) -> Run {
    let holder = Holder::of_table(database, "pg_largeobject");
    let spool = place.path("spool");
    std::fs::create_dir_all(&spool).unwrap();
    let args = ["--no-role-passwords", "--jobs", "3", "--tmp", spool.to_str().unwrap()];
    let mut backup = command(place, database.server, &database.dsn(), &args);
    let mut child = backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND application_name = 'pg_dump' AND wait_event_type = 'Lock'",
        database.name
    );
    crate::wait::until("pg_dump waits", || {
        assert!(child.try_wait().unwrap().is_none(), "it did not wait");
        database.server.sql("postgres", &waits) != "0"
    });
    meanwhile(&child);
    let run = child.wait_with_output().unwrap().into();
    drop(holder);
    run
}

fn filled(server: &'static Server) -> (Place, Database) {
    let (place, database) = (plain(), server.database());
    fill(&database);
    database.sql("SELECT lo_from_bytea(17, 'large')");
    (place, database)
}

/// Processes that have something to do with this place.
fn programs(place: &Place) -> Vec<i32> {
    let spool = place.path("spool");
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let named = processes.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("--file") && line.contains(spool.to_str().unwrap())
    });
    named.collect()
}

fn kill(pid: Option<i32>, signal: Signal) {
    kill_process(pid.and_then(Pid::from_raw).unwrap(), signal).unwrap();
}

/// Waits until killed processes are gone.
fn no_program_is_left(place: &Place) {
    crate::wait::until("all programs have ended", || programs(place).is_empty());
    nothing_spooled(place);
}

#[test]
fn a_server_that_is_stopped_in_the_middle() {
    for version in crate::server::VERSIONS {
        let server: &'static Server = Box::leak(Box::new(Server::start(version)));
        let (place, database) = filled(server);
        let run = in_the_middle(&place, &database, |_| server.control("immediate"));
        fails(&place, &run, "exit code 1");
        no_program_is_left(&place);
        server.control("start");
        assert_eq!(parallel(&place, &database, &[]).code, Some(0));
    }
}

#[test]
fn programs_that_are_killed_in_the_middle() {
    on_every_version(|server| {
        let (place, database) = filled(server);
        // The first one started is the leader.
        let run = in_the_middle(&place, &database, |_| kill(programs(&place).into_iter().min(), Signal::KILL));
        fails(&place, &run, "killed by signal 9");
        no_program_is_left(&place);
        let run = in_the_middle(&place, &database, |_| kill(programs(&place).into_iter().max(), Signal::KILL));
        fails(&place, &run, "exit code 1");
        no_program_is_left(&place);
    });
}

#[test]
fn an_interruption_ends_everything() {
    on_every_version(|server| {
        for signal in [Signal::INT, Signal::TERM] {
            let (place, database) = filled(server);
            let run = in_the_middle(&place, &database, |child| kill(Some(child.id() as i32), signal));
            assert_eq!(run.code, Some(130), "{}", run.stderr);
            assert!(place.snapshots().is_empty());
            no_program_is_left(&place);
        }
    });
}

#[test]
fn a_lost_connection_leaves_no_snapshot() {
    let (place, database) = filled(server(18));
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND application_name = 'icecore'",
        database.name
    );
    let run = in_the_middle(&place, &database, |_| {
        assert_eq!(database.server.sql("postgres", &end), "t");
        // The lock is released, and the dump itself succeeds.
        let holder = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT ''held''%'";
        assert_eq!(database.server.sql("postgres", holder), "t");
    });
    // The schema is dumped after it, and its exported snapshot no longer exists.
    fails(&place, &run, "does not exist");
    no_program_is_left(&place);
}
