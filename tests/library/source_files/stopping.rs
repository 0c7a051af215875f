//! A stop is felt in the long loops over many files: the library asks its monitor there.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use icecore::Error;
use icecore::ops::check::{CheckOptions, check};
use icecore::progress::{Monitor, Silent};
use icecore::store::repo::Reader;

use super::harness::{run, source};
use super::support::Bed;

/// Asks to stop when this phase begins, and notes all phases.
#[derive(Default)]
struct StopIn {
    phase: Option<&'static str>,
    begun: AtomicBool,
    seen: Mutex<Vec<&'static str>>,
}

impl Monitor for StopIn {
    fn phase(&self, name: &'static str, _total_bytes: Option<u64>) {
        self.seen.lock().unwrap().push(name);
        if self.phase == Some(name) {
            self.begun.store(true, Ordering::Relaxed);
        }
    }

    fn advance(&self, _bytes: u64) {}

    fn warn(&self, _message: &str) {}

    fn cancelled(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

/// Each file is one chunk: no tree has a node at which a stop could be felt.
#[test]
fn a_check_stops_in_each_of_its_phases() {
    let bed = Bed::new(true);
    let tree = bed.path("tree");
    fs::create_dir(&tree).unwrap();
    (0..20).for_each(|n| fs::write(tree.join(format!("f{n}")), format!("content {n}")).unwrap());
    let repo = bed.open();
    let report = run(&repo, &source(&[&tree], &[]), 1);
    for read_data in [false, true] {
        let options = CheckOptions { read_data, ..CheckOptions::default() };
        let whole = StopIn::default();
        check(&repo, &options, &whole).unwrap();
        let phases = whole.seen.into_inner().unwrap();
        assert!(phases.contains(&"checking snapshots"), "{phases:?}");
        for phase in phases {
            let stop = StopIn { phase: Some(phase), ..StopIn::default() };
            let stopped = check(&repo, &options, &stop);
            assert!(matches!(stopped, Err(Error::Cancelled)), "{phase}: {stopped:?}");
        }
    }
    let stop = StopIn { begun: AtomicBool::new(true), ..StopIn::default() };
    let listing = Reader::new(&repo).listing(&report.record.listing, &stop);
    assert!(matches!(listing, Err(Error::Cancelled)), "{listing:?}");
    assert_eq!(Reader::new(&repo).listing(&report.record.listing, &Silent).unwrap().len(), 20);
}
