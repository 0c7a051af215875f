//! Interrupted backups, and several at once.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::support::{Place, Run};

/// Interrupts a backup while it reads; gives its exit code.
fn interrupted(place: &Place, signal: Signal) -> Option<i32> {
    let mut child = place
        .command()
        .args(["-v", "--threads", "1", "backup", "sqlite", "big.db"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("reading") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0);
    }
    kill_process(Pid::from_child(&child), signal).unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    let code = child.wait().unwrap().code();
    assert!(!rest.contains("panicked"), "{rest}");
    if code == Some(130) {
        assert!(rest.ends_with("error: interrupted\n"), "{rest}");
    }
    code
}

#[test]
fn an_interrupted_backup_is_no_snapshot() {
    let place = Place::with_repository();
    place.database("big.db", 100_000);
    for signal in [Signal::INT, Signal::TERM] {
        // The backup may be through before the signal is there; then the database grows.
        let mut tries = 0;
        let before = loop {
            let before = place.snapshots().len();
            match interrupted(&place, signal) {
                Some(130) => break before,
                other => assert_eq!(other, Some(0)),
            }
            tries += 1;
            assert!(tries < 6, "it was never interrupted");
            place.database("big.db", 200_000);
        };
        assert_eq!(place.snapshots().len(), before);
    }
    assert_eq!(place.stored("pending").len(), 0);
    let told = place.json(["log"])["entries"].as_array().unwrap().clone();
    let stopped: Vec<_> = told.iter().filter(|entry| entry["outcome"] == "interrupted").collect();
    assert_eq!(stopped.iter().map(|entry| entry["exit_code"].as_u64()).collect::<Vec<_>>(), [Some(130); 2]);
    place.ok(["check", "--read-data"]);
    place.ok(["backup", "sqlite", "big.db"]);
    place.ok(["restore", "latest", "--to", "out"]);
}

#[test]
fn a_signal_before_the_first_byte_is_not_lost() {
    let place = Place::new();
    place.database("a.db", 10);
    let run = |command: &str, args: &[&str]| -> Run {
        place.command().env("ICECORE_PASSWORD_COMMAND", command).args(args).output().unwrap().into()
    };
    assert_eq!(run("echo x", &["init"]).code, Some(0));
    run("kill -INT $PPID; echo x", &["backup", "sqlite", "a.db"]).failed(130, &["error: interrupted"]);
    let list = run("echo x", &["snapshots"]);
    assert_eq!((list.code, list.stdout.as_str()), (Some(0), "no snapshots\n"));
    // The second signal does what signals do (another one, as equal ones that wait count once).
    let twice = run("kill -TERM $PPID; kill -INT $PPID; echo x", &["backup", "sqlite", "a.db"]);
    assert_eq!(twice.code, None);
}

#[test]
fn backups_at_once_all_succeed() {
    let place = Place::with_repository();
    let names = ["a.db", "b.db", "c.db", "d.db"];
    let children: Vec<_> = names
        .iter()
        .map(|name| {
            place.database(name, 2_000);
            let args = ["backup", "sqlite", name];
            place.command().args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let run: Run = child.wait_with_output().unwrap().into();
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    }
    assert_eq!(place.snapshots().len(), names.len());
    place.ok(["check", "--read-data"]);
    for name in names {
        place.ok(["restore", "latest", "--source", name, &format!("{name}={name}.back")]);
        assert_eq!(std::fs::read(place.path(name)).unwrap(), std::fs::read(place.path(format!("{name}.back"))).unwrap());
    }
}
