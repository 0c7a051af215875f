//! Every snapshot of a history is given back byte for byte.

use super::support::{Bed, back_up, make_database, step, stream};
use icecore::ops::check::{CheckOptions, check};
use icecore::progress::Silent;

fn every_snapshot_comes_back(encrypted: bool, journal_mode: &str) {
    let bed = Bed::new(encrypted);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 3000);
    db.pragma_update(None, "journal_mode", journal_mode).unwrap();
    let repo = bed.open();
    let mut history = Vec::new();
    for n in 0..40 {
        step(&db, n);
        if n == 20 {
            db.execute_batch("VACUUM").unwrap();
        }
        db.pragma_query(None, "wal_checkpoint", |_| Ok(())).unwrap_or(());
        let report = back_up(&repo, &path, i64::from(n));
        assert!(report.record.flags.is_empty(), "{:?}", report.record.flags);
        history.push((report.id, std::fs::read(&path).unwrap()));
    }
    // Through the catalog that wrote them, and through a new one.
    for cache in ["cache", "another cache"] {
        let repo = bed.open_as("repo", cache, 3);
        for (id, expected) in &history {
            assert!(stream(&repo, id, "db").unwrap() == *expected, "snapshot {id}");
        }
        let report = check(&repo, &CheckOptions::read_all(), &Silent).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert_eq!(report.snapshots, 40);
    }
}

#[test]
fn every_snapshot_comes_back_encrypted() {
    every_snapshot_comes_back(true, "wal");
}

#[test]
fn every_snapshot_comes_back_unencrypted() {
    every_snapshot_comes_back(false, "delete");
}
