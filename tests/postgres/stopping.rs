//! A stop while PostgreSQL's programs stall: they end, no session stays on the server, and nothing incomplete is left.

use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::capture::command;
use crate::failures::{fill, with_script};
use crate::restore::family;
use crate::restore_failures;
use crate::server::{Database, Holder, on_every_version, server};
use crate::support::{Place, Run};
use crate::wait::until;

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Sessions of ours and of pg_dump in this database.
fn sessions(database: &Database) -> String {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND application_name IN ('icecore', 'pg_dump', 'pg_dumpall', 'pg_restore')",
        database.name
    );
    database.server.sql("postgres", &query)
}

#[track_caller]
fn stopped(place: &Place, database: &Database, run: &Run) {
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    assert!(place.snapshots().is_empty() && place.stored("pending").is_empty());
    // The server may take a moment to see that its client is gone; it must not keep what it had locked.
    until("the sessions have ended", || sessions(database) == "0");
}

/// pg_dump waits for a lock. After a stop, the server must not keep it in the queue, where it would block others.
#[test]
fn a_dump_that_waits_for_a_lock() {
    on_every_version(|server| {
        let (place, database) = (crate::failures::plain(), server.database());
        database.sql("CREATE TABLE t (n int)");
        let holder = Holder::of_table(&database, "t");
        let mut backup = command(&place, server, &database.dsn(), &["--no-role-passwords", "--lock-wait-timeout", "1000"]);
        let child = backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND application_name = 'pg_dump' AND wait_event_type = 'Lock'",
            database.name
        );
        until("pg_dump waits", || server.sql("postgres", &waiting) != "0");
        signal(&child, Signal::HUP);
        stopped(&place, &database, &child.wait_with_output().unwrap().into());
        drop(holder);
    });
}

/// The dump stalls in the middle, with its transaction open.
#[test]
fn a_dump_that_stalls() {
    for (version, how) in [(15, Signal::TERM), (18, Signal::QUIT)] {
        let (place, database) = (crate::failures::plain(), server(version).database());
        fill(&database);
        let script = "$real \"$@\" | (head -c 100000; touch middle; while [ ! -e go ]; do sleep 0.02; done; cat)";
        let child = with_script(&place, &database, script).spawn().unwrap();
        until("the dump is in the middle", || place.path("middle").exists());
        signal(&child, how);
        stopped(&place, &database, &child.wait_with_output().unwrap().into());
    }
}

/// The new database is dropped, and the old one stays.
#[test]
fn a_restore_that_stalls() {
    let (place, database) = restore_failures::filled(server(16));
    for how in [Signal::HUP, Signal::QUIT] {
        let run = restore_failures::in_the_middle(&place, &database, &[], |child| signal(child, how));
        run.failed(130, &["interrupted"]);
        assert_eq!(family(database.server, &database.name), [database.name.as_str()]);
        assert_eq!(database.sql("SELECT count(*) FROM newer"), "0");
    }
}
