//! The next restore or drill drops the databases that killed ones have left on a server, and nothing else.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::restore::{family, good, restore};
use crate::restore_failures::in_the_middle;
use crate::server::{Database, Server};
use crate::support::{Place, Run};
use crate::{drill, restore_failures};

/// A server that no other test restores to. Their restores would drop the abandoned database too.
fn own_server() -> &'static Server {
    Box::leak(Box::new(Server::start(16)))
}

fn drill_beside(place: &Place, database: &Database, args: &[&str]) -> Command {
    let (dsn, bin) = (database.dsn(), database.server.bin.to_str().unwrap());
    drill::command(place, &[&["latest", "--dsn", &dsn, "--pg-bin", bin], args].concat())
}

/// Waits until a query has this answer.
fn until(server: &Server, query: &str, answer: &str) {
    crate::wait::until(query, || server.sql("postgres", query) == answer);
}

#[test]
fn a_killed_drills_database_is_dropped_and_a_living_ones_is_not() {
    let server = own_server();
    let (place, database) = drill::filled(server);
    let drilled = || -> Vec<String> { family(server, &database.name).into_iter().filter(|name| name.contains("_drill_")).collect() };
    let mut asking = drill_beside(&place, &database, &["--check-sql", "SELECT pg_sleep(100000) IS NULL"]);
    let mut child = asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let sleeping =
        format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND starts_with(datname, '{}_')", database.name);
    until(server, &sleeping, "1");
    let living = drilled();
    assert_eq!(living.len(), 1, "{living:?}");

    let beside: Run = drill_beside(&place, &database, &[]).output().unwrap().into();
    assert_eq!(beside.code, Some(0), "{}", beside.stderr);
    assert!(!beside.stderr.contains("a killed restore or drill"), "{}", beside.stderr);
    assert_eq!(drilled(), living);

    child.kill().unwrap();
    child.wait().unwrap();
    // The server checks whether the client still waits for the answer.
    until(server, &sleeping, "0");
    let after: Run = drill_beside(&place, &database, &[]).output().unwrap().into();
    assert_eq!(after.code, Some(0), "{}", after.stderr);
    let said = format!("database {}, which a killed restore or drill had left, was dropped", living[0]);
    assert!(after.stderr.contains(&said), "{}", after.stderr);
    assert_eq!(family(server, &database.name), [database.name.as_str()]);
}

#[test]
fn a_killed_restores_database_is_dropped_unless_it_is_somebodys_now() {
    let server = own_server();
    let (place, database) = restore_failures::filled(server);
    let name = database.name.as_str();
    let killed = in_the_middle(&place, &database, &[], |child| {
        kill_process(Pid::from_child(child), Signal::KILL).unwrap();
        // pg_restore sees the end of its input.
        std::fs::write(place.path("go"), "").unwrap();
        until(server, &format!("SELECT count(*) FROM pg_stat_activity WHERE starts_with(datname, '{name}_')"), "0");
    });
    assert_eq!(killed.code, None);
    let there = family(server, name);
    assert_eq!(there.len(), 2, "{there:?}");
    let left = &there[1];

    // One database was renamed to be kept. Another has the comment of an abandoned one, as if restored from a dump of it.
    let (mine, copy) = (format!("{name}_mine"), format!("{name}_copy"));
    let comment =
        server.sql("postgres", &format!("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{left}'"));
    server.sql("postgres", &format!("ALTER DATABASE {left} RENAME TO {mine}"));
    server.sql("postgres", &format!("CREATE DATABASE {copy}"));
    server.sql("postgres", &format!("COMMENT ON DATABASE {copy} IS '{comment}'"));
    let ask = || restore(&place, server, &["latest", "--dsn", &database.dsn()]);
    let run = ask();
    assert!(!run.stderr.contains("was dropped"), "{}", run.stderr);
    good(run);
    let there = family(server, name);
    assert!(there.contains(&mine) && there.contains(&copy), "{there:?}");

    server.sql("postgres", &format!("ALTER DATABASE {mine} RENAME TO {left}"));
    let run = ask();
    assert!(run.stderr.contains(&format!("database {left}, which a killed restore or drill had left, was dropped")), "{}", run.stderr);
    good(run);
    let there = family(server, name);
    assert!(!there.contains(left) && there.contains(&copy), "{there:?}");
    // A complete database has no such comment.
    let marked = "SELECT count(*) FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE 'icecore works on%' AND datname LIKE";
    assert_eq!(server.sql("postgres", &format!("{marked} '{name}%'")), "1");
}
