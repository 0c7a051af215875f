//! A machine that has no place for a catalog at all: it is kept in memory, and everything works as with a file.

use std::path::PathBuf;
use std::sync::Arc;

use icecore::fs::disk::RealDisk;
use icecore::ops::check::{CheckOptions, check};
use icecore::ops::prune::{PruneOptions, prune};
use icecore::progress::Silent;
use icecore::store::backend::LocalBackend;

use super::support::{Bed, back_up, forget, make_database, open_backend, step, stream};

#[test]
fn everything_works_with_a_catalog_in_memory() {
    let bed = Bed::new(true);
    let db = make_database(&bed.path("db"), 3000);
    // Not even root can make a directory there.
    let open = || {
        let backend = LocalBackend::open(&bed.path("repo"), Arc::new(RealDisk)).unwrap();
        open_backend(Arc::new(backend), PathBuf::from("/proc/icecore/cache"), 3).unwrap()
    };
    let mut states = Vec::new();
    for time in 0..4 {
        let repo = open();
        assert!(repo.catalog().is_in_memory());
        states.push((back_up(&repo, &bed.path("db"), i64::from(time)).id, std::fs::read(bed.path("db")).unwrap()));
        step(&db, time);
    }
    let repo = open();
    forget(&repo, &[states.remove(1).0], true);
    let now_ns = 1 << 60;
    let options = PruneOptions { grace_ns: 0, now_ns, host: "test".into(), unused_max_permille: 0, repack_bytes_max: None };
    prune(&repo, &options, &Silent).unwrap();
    for repo in [repo, open(), bed.open()] {
        let listed = repo.refresh().unwrap().snapshots;
        assert_eq!(listed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), states.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        states.iter().for_each(|(id, bytes)| assert!(stream(&repo, id, "db").unwrap() == *bytes));
        assert!(check(&repo, &CheckOptions::read_all(), &Silent).unwrap().findings.is_empty());
    }
}
