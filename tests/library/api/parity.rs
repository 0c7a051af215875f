//! A repository with parity: whatever is damaged within the budget, everything is read as if it were not, and named.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use icecore::fs::disk::RealDisk;
use icecore::id::SnapshotId;
use icecore::ops::check::{CheckOptions, CheckReport, check};
use icecore::ops::prune::{PruneOptions, prune};
use icecore::ops::scrub::{ScrubReport, scrub};
use icecore::progress::Silent;
use icecore::store::backend::{Backend, LocalBackend, ObjectInfo, ObjectKey, ObjectKind, WriteMode};
use icecore::store::format::mark::MarkKind;
use icecore::store::repo::{Health, Repository, health, stored_parity};

use super::proof;
use super::support::{Bed, back_up, forget, make_database, pending_key, record_key, step, stream, try_mark};

struct Scene {
    bed: Bed,
    kept: Vec<(SnapshotId, Vec<u8>)>,
}

/// With an object of each kind.
fn scene(encrypted: bool, rows: u32) -> Scene {
    let bed = Bed::with_parity(encrypted, 3);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, rows);
    let repo = bed.open();
    let ids: Vec<SnapshotId> = (0..4)
        .map(|n| {
            step(&db, n);
            back_up(&repo, &path, i64::from(n) + 1).id
        })
        .collect();
    try_mark(&repo, &ids[3], MarkKind::Protect, "").unwrap();
    forget(&repo, &ids[1..3], false);
    let options =
        PruneOptions { grace_ns: i64::MAX, now_ns: 3_000_000_000_000, host: "test".into(), unused_max_permille: 0, repack_bytes_max: None };
    prune(&repo, &options, &Silent).unwrap();
    let [committed, pending] = [record_key(repo.backend(), &ids[0]).unwrap(), pending_key(repo.backend(), &ids[0])];
    repo.backend().write(&pending, &[&repo.backend().read(&committed, None).unwrap()], WriteMode::CreateNew).unwrap();
    let kept = [ids[0], ids[3]].map(|id| (id, stream(&repo, &id, "db").unwrap())).to_vec();
    Scene { bed, kept }
}

impl Scene {
    /// As another machine sees it: nothing is known of the repository.
    fn anew(&self, number: usize) -> Repository {
        self.bed.open_as("repo", &format!("cache-{number}"), 3)
    }

    fn files(&self, dir: &str) -> Vec<PathBuf> {
        let files = walkdir::WalkDir::new(self.bed.path("repo").join(dir)).sort_by_file_name().into_iter();
        files.map(|entry| entry.unwrap()).filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
    }

    fn restores(&self, repo: &Repository) {
        for (id, plain) in &self.kept {
            assert!(stream(repo, id, "db").unwrap() == *plain);
        }
    }

    fn scrub(&self) -> ScrubReport {
        scrub(&self.backend(), 3, &Silent).unwrap()
    }

    fn backend(&self) -> LocalBackend {
        LocalBackend::open(&self.bed.path("repo"), Arc::new(RealDisk)).unwrap()
    }
}

fn read_all(repo: &Repository) -> CheckReport {
    check(repo, &CheckOptions::read_all(), &Silent).unwrap()
}

fn codes(report: &CheckReport) -> Vec<&'static str> {
    let mut codes: Vec<&str> = report.findings.iter().map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

fn flip(path: &Path, places: &[usize]) {
    let mut bytes = std::fs::read(path).unwrap();
    let len = bytes.len();
    places.iter().for_each(|place| bytes[place % len] ^= 0x40);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn without_parity_nothing_of_it_is_stored() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    drop(make_database(&path, 500));
    let repo = bed.open();
    back_up(&repo, &path, 1);
    assert!(!repo.has_parity());
    for file in walkdir::WalkDir::new(bed.path("repo")).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file()) {
        let bytes = std::fs::read(file.path()).unwrap();
        assert!(!bytes.windows(8).any(|window| window == b"\xCEicePAR\n"), "{}", file.path().display());
    }
}

/// Two flips in every object at once: header, middle, end; a machine that knows nothing restores, and check and scrub name each object.
#[test]
fn every_object_is_damaged_and_everything_restores() {
    for (encrypted, places) in
        [(true, [3, 5000]), (false, [100, usize::MAX / 2]), (true, [usize::MAX, usize::MAX - 70]), (false, [60, 20_000])]
    {
        let scene = scene(encrypted, 3000);
        let repo = scene.anew(0);
        assert!(read_all(&repo).findings.is_empty() && scene.scrub().findings.is_empty());
        let mut damaged = Vec::new();
        for dir in ["packs", "snapshots", "pending", "marks", "forgotten", "tombstones"] {
            let files = scene.files(dir);
            assert!(!files.is_empty(), "{dir}");
            // One where there is a copy: a second flip might hit that.
            files.iter().for_each(|file| {
                let len = std::fs::metadata(file).unwrap().len() as usize;
                flip(file, &places[..if len < 30_000 { 1 } else { 2 }]);
            });
            damaged.push((dir, files.len()));
        }
        let first = |dir: &str| scene.files(dir).into_iter().find(|file| file.extension().is_none()).unwrap();
        std::fs::write(first(""), "nothing").unwrap();
        if encrypted {
            flip(&first("keys"), &[50]);
        }
        let again = scene.anew(1);
        scene.restores(&again);
        assert!(again.healed_objects().len() >= 3, "{:?}", again.healed_objects());
        let report = read_all(&scene.anew(2));
        assert!(report.touched.is_empty(), "{:?}", report.touched);
        let expected = if encrypted {
            vec!["config-copy", "key-copy", "pack-healable", "record-healable"]
        } else {
            vec!["config-copy", "pack-healable", "record-healable"]
        };
        assert_eq!(codes(&report), expected, "{:#?}", report.findings);
        let packs = report.findings.iter().filter(|finding| finding.code == "pack-healable").count();
        assert_eq!(packs, damaged[0].1);
        let found = scene.scrub().findings;
        let objects: usize = damaged.iter().map(|(_, count)| count).sum();
        assert_eq!(found.iter().filter(|finding| finding.code.ends_with("-healable")).count(), objects, "{found:#?}");
        // What repair does.
        let backend = scene.backend();
        assert!(stored_parity(&backend).unwrap());
        for kind in ObjectKind::ALL {
            let keys: Vec<ObjectKey> = backend.list(kind).unwrap().map(|info| info.unwrap().key).collect();
            for key in keys {
                if let Health::Healable(bytes) = health(&backend, &key, true).unwrap() {
                    backend.write(&key, &[&bytes], WriteMode::Replace).unwrap();
                }
                assert!(matches!(health(&backend, &key, true).unwrap(), Health::Whole), "{key}");
            }
        }
        assert!(read_all(&scene.anew(3)).findings.is_empty() && scene.scrub().findings.is_empty());
        scene.restores(&scene.anew(4));
    }
}

/// Every byte of every pack of a small repository, flipped one at a time; every cut. A plain test run tries a part of them.
#[test]
fn every_flip_of_a_pack_is_healed_and_every_cut_healed_or_named() {
    let bed = Bed::with_parity(true, 3);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 20);
    let repo = bed.open();
    back_up(&repo, &path, 1);
    step(&db, 1);
    back_up(&repo, &path, 2);
    let backend = repo.backend();
    let (mut flips, mut healed_cuts, mut lost_cuts) = (0, 0, 0);
    for info in backend.list(ObjectKind::Pack).unwrap().map(Result::unwrap) {
        let whole = backend.read(&info.key, None).unwrap();
        let heals = |bytes: &[u8]| {
            let healed = icecore::store::repo::heal_record(&info.key, bytes);
            assert!(healed.as_ref().is_none_or(|healed| *healed == whole));
            healed.is_some()
        };
        let step = (whole.len() / 1500).max(1);
        for place in proof::some_of((0..whole.len()).step_by(step).collect(), 6, whole.len() as u64) {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            assert!(heals(&bytes), "byte {place}");
            flips += 1;
            if heals(&whole[..place]) { healed_cuts += 1 } else { lost_cuts += 1 }
        }
    }
    println!("{flips} flips healed; {healed_cuts} cuts healed, {lost_cuts} too short");
    assert!(flips > 300 && healed_cuts > 80 && lost_cuts > 0);
}

/// More damage than parity: named as lost, what it does not touch restores, and nothing wrong comes out.
#[test]
fn damage_beyond_the_budget_is_damage() {
    let scene = scene(true, 3000);
    let pack = scene.files("packs").into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap();
    let len = std::fs::metadata(&pack).unwrap().len() as usize;
    assert!(len > 100_000);
    flip(&pack, &(0..len / 4096).map(|sector| sector * 4096 + 77).collect::<Vec<_>>());
    let repo = scene.anew(0);
    let report = read_all(&repo);
    assert!(codes(&report).contains(&"pack") && !report.touched.is_empty(), "{:?}", report.findings);
    for (id, _) in &scene.kept {
        assert!(stream(&repo, id, "db").is_err());
    }
    assert!(scene.scrub().findings.iter().any(|finding| finding.code == "pack"));
}

/// A pack that is whole is not read whole, and nothing is healed: the way of every day is the same.
#[test]
fn a_sound_repository_is_read_as_ever() {
    let scene = scene(false, 1500);
    let repo = scene.anew(0);
    scene.restores(&repo);
    assert!(read_all(&repo).findings.is_empty());
    assert!(repo.healed_objects().is_empty());
    let db = rusqlite::Connection::open(scene.bed.path("db.sqlite")).unwrap();
    step(&db, 9);
    let report = back_up(&repo, &scene.bed.path("db.sqlite"), 9);
    assert_eq!(report.record.parent, Some(scene.kept[1].0), "the history goes on");
}

/// A disk that cannot read one sector of each of these objects.
#[derive(Debug)]
struct BadSectors {
    disk: LocalBackend,
    bad: Vec<(ObjectKey, u64)>,
}

impl Backend for BadSectors {
    fn location(&self) -> String {
        self.disk.location()
    }

    fn list(&self, kind: ObjectKind) -> icecore::Result<Box<dyn Iterator<Item = icecore::Result<ObjectInfo>> + '_>> {
        self.disk.list(kind)
    }

    fn stat(&self, key: &ObjectKey) -> icecore::Result<Option<u64>> {
        self.disk.stat(key)
    }

    fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> icecore::Result<Vec<u8>> {
        let wanted = range.clone().unwrap_or(0..u64::MAX);
        let is_bad = |(of, sector): &(ObjectKey, u64)| of == key && wanted.start < sector + 4096 && *sector < wanted.end;
        match self.bad.iter().any(is_bad) {
            true => Err(icecore::Error::backend("read", key.to_string(), std::io::Error::from_raw_os_error(libc::EIO))),
            false => self.disk.read(key, range),
        }
    }

    fn write(&self, key: &ObjectKey, parts: &[&[u8]], mode: WriteMode) -> icecore::Result<()> {
        self.disk.write(key, parts, mode)
    }

    fn write_all(&self, objects: &[(ObjectKey, Vec<u8>)], mode: WriteMode) -> icecore::Result<Vec<bool>> {
        self.disk.write_all(objects, mode)
    }

    fn delete(&self, keys: &[ObjectKey]) -> icecore::Result<()> {
        self.disk.delete(keys)
    }

    fn settle(&self, keys: &[ObjectKey]) -> icecore::Result<()> {
        self.disk.settle(keys)
    }
}

/// One bad sector in each large pack, wherever it is: all is read around it.
#[test]
fn bad_sectors_are_read_around() {
    let scene = scene(true, 3000);
    let disk = scene.backend();
    let packs = disk.list(ObjectKind::Pack).unwrap().map(Result::unwrap);
    let large: Vec<ObjectInfo> = packs.filter(|info| info.size > 50_000).collect();
    assert!(!large.is_empty());
    for (number, of_size) in [0, 1, 2, 3].into_iter().enumerate() {
        let place = |size: u64| size * of_size / 3 / 4096 * 4096;
        let bad = large.iter().map(|info| (info.key, place(info.size).min((info.size - 1) / 4096 * 4096))).collect();
        let backend = Arc::new(BadSectors { disk: scene.backend(), bad });
        let open = |cache: &str| super::support::open_backend(backend.clone(), scene.bed.path(&format!("{cache}-{number}")), 3).unwrap();
        let repo = open("bad");
        scene.restores(&repo);
        let report = read_all(&open("check"));
        assert_eq!(codes(&report), ["pack-healable"], "{:#?}", report.findings);
        assert_eq!((report.findings.len(), report.touched.len()), (large.len(), 0));
    }
}
