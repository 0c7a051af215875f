//! Scrubbing finds damage to every kind of object, without a key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use icecore::fs::disk::RealDisk;
use icecore::ops::check::Severity;
use icecore::ops::prune::{PruneOptions, prune};
use icecore::ops::scrub::{ScrubReport, scrub};
use icecore::progress::Silent;
use icecore::store::backend::{LocalBackend, WriteMode};
use icecore::store::format::mark::MarkKind;

use super::support::{Bed, back_up, forget, make_database, pending_key, record_key, step, tell, try_mark};

/// With an object of each kind.
fn bed() -> Bed {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 600);
    let repo = bed.open();
    let ids: Vec<_> = (0..4)
        .map(|n| {
            step(&db, n);
            back_up(&repo, &path, i64::from(n) + 1).id
        })
        .collect();
    try_mark(&repo, &ids[3], MarkKind::Flag, "x").unwrap();
    forget(&repo, &ids[1..3], false);
    tell(&repo, 7);
    let options =
        PruneOptions { grace_ns: i64::MAX, now_ns: 3_000_000_000_000, host: "test".into(), unused_max_permille: 0, repack_bytes_max: None };
    prune(&repo, &options, &Silent).unwrap();
    let record = repo.backend().read(&record_key(repo.backend(), &ids[0]).unwrap(), None).unwrap();
    repo.backend().write(&pending_key(repo.backend(), &ids[0]), &[&record], WriteMode::CreateNew).unwrap();
    bed
}

fn run(bed: &Bed) -> ScrubReport {
    let backend = LocalBackend::open(&bed.path("repo"), Arc::new(RealDisk)).unwrap();
    scrub(&backend, 3, &Silent).unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter();
    files.map(|entry| entry.unwrap()).filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}

#[test]
fn every_kind_of_object() {
    let bed = bed();
    let report = run(&bed);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert!(report.packs > 0 && report.records > 5 && report.read_bytes > 10_000, "{report:?}");
    let kinds = [
        ("config", "config-copy", Severity::Warning),
        ("keys", "key-copy", Severity::Warning),
        ("snapshots", "snapshot", Severity::Damage),
        ("pending", "pending", Severity::Damage),
        ("marks", "mark", Severity::Damage),
        ("forgotten", "forgotten", Severity::Damage),
        ("log", "log", Severity::Damage),
        ("packs", "pack", Severity::Damage),
    ];
    for (dir, code, severity) in kinds {
        let found = files(&bed.path("repo").join(dir));
        let file = found.first().unwrap_or_else(|| panic!("no {dir}"));
        let whole = std::fs::read(file).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(file, bytes).unwrap();
            let report = run(&bed);
            let found: Vec<_> = report.findings.iter().map(|finding| (finding.code, finding.severity)).collect();
            assert_eq!(found, [(code, severity)], "{dir}, byte {at}");
            assert_eq!(report.is_damaged(), severity == Severity::Damage);
        }
        std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(run(&bed).findings.len(), 1, "{dir}, cut");
        std::fs::write(file, &whole).unwrap();
    }
    assert!(run(&bed).findings.is_empty());
}

#[test]
fn of_tombstones_the_header_alone() {
    let bed = bed();
    let tombstones = files(&bed.path("repo/tombstones"));
    let file = tombstones.first().expect("prune has marked a pack");
    let mut bytes = std::fs::read(file).unwrap();
    bytes[0] ^= 1;
    std::fs::write(file, bytes).unwrap();
    assert_eq!(run(&bed).findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["tombstone"]);
}

/// A pack under the right name whose writer was wrong: the hash says nothing, the footer does.
#[test]
fn a_pack_without_a_footer() {
    let bed = bed();
    let mut bytes = std::fs::read(&files(&bed.path("repo/packs"))[0]).unwrap()[..48].to_vec();
    bytes.resize(4096, 7);
    let name = blake3::hash(&bytes).to_hex().to_string();
    let dir = bed.path("repo/packs").join(&name[..2]);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(&name), bytes).unwrap();
    let report = run(&bed);
    assert_eq!(report.findings.len(), 1);
    assert!(report.findings[0].detail.contains("footer"), "{:?}", report.findings);
}
