//! Faults of icecore itself are told as such, in whatever thread they come up; and what is too large is said early.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use icecore::Error;
use icecore::engine::place::Placement;
use icecore::engine::{Capture, CaptureReport, CapturedStream, Known, Source, SourceDescription};
use icecore::fs::disk::RealDisk;
use icecore::ops::backup::{BackupOptions, backup};
use icecore::ops::restore::{Outcome, RestoreOptions, restore_streams, restore_tree};
use icecore::progress::{Monitor, Silent};
use icecore::recorded::SourceKind;

use super::support::{Bed, back_up, make_database, sqlite_source};

/// Panics when it hears of progress in this phase; keeps warnings.
#[derive(Default)]
struct Trap {
    phase: &'static str,
    is_set: AtomicBool,
    warnings: Mutex<Vec<String>>,
}

impl Monitor for Trap {
    fn phase(&self, name: &'static str, _total_bytes: Option<u64>) {
        self.is_set.store(name == self.phase, Ordering::Relaxed);
    }

    fn advance(&self, _bytes: u64) {
        assert!(!self.is_set.load(Ordering::Relaxed), "the trap has sprung");
    }

    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_owned());
    }

    fn cancelled(&self) -> bool {
        false
    }
}

#[track_caller]
fn is_told<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Bug { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("fault of icecore itself") && text.contains("the trap has sprung"), "{text}");
}

#[test]
fn a_panic_in_a_thread_is_a_fault_of_icecore() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 20_000);
    let repo = bed.open();
    let done = back_up(&repo, &path, 1);
    let trap = |phase| Trap { phase, ..Trap::default() };
    let restoring = trap("restoring");
    let placement = Placement { disk: &RealDisk, timestamp: "20260101T000000Z".into(), monitor: &restoring };
    let targets = [(b"db".to_vec(), bed.path("out.db"))];
    is_told(restore_streams(&repo, &done.record, &targets, &RestoreOptions::default(), &placement, &mut |_| {}).and_then(Outcome::whole));
    assert!(!bed.path("out.db").exists());
    is_told(
        restore_tree(&repo, &done.record, &bed.path("out"), &RestoreOptions::default(), &placement, &mut |_| {}).and_then(Outcome::whole),
    );
    assert!(!bed.path("out/db").exists());
    db.execute_batch("UPDATE memory SET body = hex(randomblob(100))").unwrap();
    drop(db);
    let options = BackupOptions { time_ns: 2, now_ns: 2, host: "test".into(), ..BackupOptions::default() };
    is_told(backup(&repo, &sqlite_source(&[("db", &path)]), &options, &trap("reading")));
    assert_eq!(repo.refresh().unwrap().snapshots.len(), 1);
    // Nothing is stuck: the next ones go well.
    let placement = Placement { monitor: &Silent, ..placement };
    restore_streams(&repo, &done.record, &targets, &RestoreOptions::default(), &placement, &mut |_| {}).and_then(Outcome::whole).unwrap();
    backup(&repo, &sqlite_source(&[("db", &path)]), &options, &Silent).unwrap();
}

/// A source of any size that cannot be read.
struct Huge(u64);

impl Source for Huge {
    fn identity(&self) -> SourceDescription {
        SourceDescription { kind: SourceKind::FILES, parts: vec![b"huge".to_vec()], label: "huge".into() }
    }

    fn capture(&self, _known: &dyn Known, _monitor: &dyn Monitor) -> icecore::Result<Box<dyn Capture>> {
        Ok(Box::new(Huge(self.0)))
    }
}

impl Capture for Huge {
    fn total_bytes(&self) -> Option<u64> {
        Some(self.0)
    }

    fn next_stream(&mut self) -> icecore::Result<Option<CapturedStream>> {
        Ok(None)
    }

    fn unreadable(&mut self, error: Error) -> icecore::Result<()> {
        Err(error)
    }

    fn blocks_writers(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> icecore::Result<CaptureReport> {
        Ok(CaptureReport::default())
    }
}

#[test]
fn what_may_be_too_large_for_one_snapshot_is_said_before_it_is_read() {
    let bed = Bed::new(false);
    let repo = bed.open();
    for (bytes, is_large) in [(12 << 40, false), (13 << 40, true)] {
        let hears = Trap::default();
        let options = BackupOptions { time_ns: 1, now_ns: 1, host: "test".into(), ..BackupOptions::default() };
        backup(&repo, &Huge(bytes), &options, &hears).unwrap();
        let warnings = hears.warnings.into_inner().unwrap();
        assert_eq!(
            warnings.iter().any(|text| text.contains("too large for one snapshot") && text.contains("divide")),
            is_large,
            "{warnings:?}"
        );
    }
}
