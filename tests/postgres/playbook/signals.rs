//! Ctrl-C and kill half way.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::site::{BACKUP, Site};

const LATEST: &str = "backups/sqlite/latest";

/// Runs the program up to a phase and sends a signal then; gives its code and what it said after that.
fn interrupted(site: &Site, args: &[&str], phase: &str, signal: Signal) -> (Option<i32>, String) {
    let mut child = site.icecore().arg("-v").args(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with(phase) {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it never came to {phase:?}");
    }
    kill_process(Pid::from_child(&child), signal).unwrap();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    (child.wait().unwrap().code(), rest)
}

fn site() -> Site {
    let site = Site::backed_up();
    site.database(".data/brainstem.db", 150_000);
    let run = site
        .icecore()
        .args(["-q", "backup", "sqlite", "memory.db=.data/brainstem.db", "model_registry.db=.data/model_registry.db"])
        .status();
    assert!(run.unwrap().success());
    site
}

#[test]
fn an_interrupted_export_leaves_the_old_one() {
    let site = site();
    let before = site.files(LATEST);
    for (signal, phase) in [(Signal::INT, "exporting"), (Signal::TERM, "hashing")] {
        let (code, said) = interrupted(&site, &["export", "latest", LATEST], phase, signal);
        assert_eq!(code, Some(130), "{said}");
        assert!(said.ends_with("error: interrupted\n"), "{said}");
        assert_eq!(site.files(LATEST), before);
        assert_eq!(site.names("backups/sqlite"), ["icecore-repository", "icecore-repository.key", "latest"]);
    }
    let (code, _) = interrupted(&site, &["export", "latest", LATEST], "hashing", Signal::KILL);
    assert_eq!(code, None);
    assert_eq!(site.files(LATEST), before);
    // The next export removes what the killed one has left.
    assert_eq!(site.names("backups/sqlite").len(), 4);
    let run = site.ok(BACKUP);
    assert!(run.stderr.contains("which an interrupted export had left"), "{}", run.stderr);
    assert_eq!(site.names("backups/sqlite"), ["icecore-repository", "icecore-repository.key", "latest"]);
    assert_eq!(site.rows(&format!("{LATEST}/memory.db")), 150_300);
}

#[test]
fn an_interrupted_restore_leaves_the_old_databases() {
    let site = site();
    site.ok(BACKUP);
    site.database(".data/brainstem.db", 7);
    let before = site.names(".data");
    let args = ["restore", "--from-dir", LATEST, "memory.db=.data/brainstem.db", "model_registry.db=.data/model_registry.db"];
    for (signal, phase) in [(Signal::INT, "verifying"), (Signal::INT, "restoring")] {
        let (code, said) = interrupted(&site, &args, phase, signal);
        assert_eq!(code, Some(130), "{said}");
        assert_eq!(site.names(".data"), before);
        assert_eq!(site.rows(".data/brainstem.db"), 150_307);
    }
}

#[test]
fn an_interrupted_drill_leaves_nothing() {
    let site = site();
    let (code, said) = interrupted(&site, &["drill", "latest"], "checking", Signal::INT);
    assert_eq!(code, Some(130), "{said}");
    assert!(!site.names("cache").iter().any(|name| name.contains("drill")), "{:?}", site.names("cache"));
}
