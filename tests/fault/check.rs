//! What a check asks of the backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use icecore::fs::disk::RealDisk;
use icecore::ops::check::{CheckOptions, check};
use icecore::progress::Silent;
use icecore::store::backend::{LocalBackend, ObjectKey};

use crate::hook::{Call, Fate, Hooked};
use crate::support::{Bed, back_up, make_database, open_backend, step};

#[test]
fn reading_everything_reads_each_pack_once_more_than_looking_at_the_structure() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 2000);
    for n in 0..30 {
        step(&db, n);
        back_up(&bed.open(), &path, i64::from(n) + 1);
    }
    let reads = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&reads);
    let backend = LocalBackend::open(&bed.path("repo"), Arc::new(RealDisk)).unwrap();
    let hooked = Hooked::new(Arc::new(backend), move |_, call| {
        counter.fetch_add(u64::from(matches!(call, Call::Read(ObjectKey::Pack(_)))), Ordering::Relaxed);
        Fate::Proceed
    });
    let repo = open_backend(Arc::new(hooked), bed.path("cache"), 3).unwrap();
    let run = |options: &CheckOptions<'_>| {
        reads.store(0, Ordering::Relaxed);
        let report = check(&repo, options, &Silent).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        (reads.load(Ordering::Relaxed), report.packs)
    };
    // The first one also takes the tables into the catalog.
    run(&CheckOptions::default());
    let (structure, packs) = run(&CheckOptions::default());
    assert_eq!(run(&CheckOptions::read_all()), (structure + packs, packs));
    assert!(structure <= 4 * packs, "footers, tables, and some nodes: {structure} reads of {packs} packs");
}
