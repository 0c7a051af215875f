//! What a check reads, how often it decodes, what it remembers, and what it states on snapshots.

use std::cell::Cell;
use std::path::PathBuf;

use icecore::id::PackId;
use icecore::ops::check::{CODES, CheckOptions, CheckReport, Severity, Subset, check, mark_found};
use icecore::ops::mark::Author;
use icecore::progress::Silent;
use icecore::store::format::mark::MarkKind;
use icecore::store::repo::Repository;

use super::support::{Bed, back_up, make_database, step, try_mark};

/// A day, nanoseconds.
const DAY: i64 = 86_400 * 1_000_000_000;

/// A repository with so many snapshots of a changing database.
fn history(snapshots: u32, rows: u32) -> (Bed, Repository) {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, rows);
    let repo = bed.open();
    for n in 0..snapshots {
        step(&db, n);
        back_up(&repo, &path, i64::from(n) + 1);
    }
    (bed, repo)
}

fn run(repo: &Repository, options: &CheckOptions<'_>) -> CheckReport {
    check(repo, options, &Silent).unwrap()
}

fn pack_files(bed: &Bed) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(bed.path("repo/packs")).sort_by_file_name().into_iter();
    files.map(|entry| entry.unwrap()).filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}

fn packs(bed: &Bed) -> u64 {
    pack_files(bed).len() as u64
}

/// Flips a bit in the middle of a file; gives what was there.
fn damage(file: &PathBuf) -> Vec<u8> {
    let whole = std::fs::read(file).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
    whole
}

fn codes(report: &CheckReport) -> Vec<&str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn no_frame_is_decoded_much_more_than_once() {
    let (bed, repo) = history(60, 4000);
    let report = run(&repo, &CheckOptions::read_all());
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    let data = report.data.unwrap();
    assert_eq!((data.chosen_packs, data.read_packs), (packs(&bed), packs(&bed)));
    assert!(data.frames > 1000, "{data:?}");
    assert!(data.decoded_frames >= data.frames, "every frame is decoded: {data:?}");
    assert!(data.decoded_frames * 10 <= data.frames * 12, "{data:?}");
    assert_eq!(report.read_bytes, data.read_bytes);
    assert!(run(&repo, &CheckOptions::default()).data.is_none(), "the structure takes no data");
}

#[test]
fn parts_find_what_is_in_them_and_nothing_else() {
    let (bed, repo) = history(12, 600);
    let file = pack_files(&bed).pop().unwrap();
    let whole = damage(&file);
    let mut finders = 0;
    for number in 1..=4 {
        let subset = Subset::Part { number, of: 4 };
        let report = run(&repo, &CheckOptions { subset, ..CheckOptions::read_all() });
        finders += codes(&report).iter().filter(|code| **code == "pack").count();
        assert!(report.data.unwrap().read_packs < packs(&bed));
    }
    assert_eq!(finders, 1, "one part has the damaged pack; others may have deltas of what is in it");
    std::fs::write(&file, whole).unwrap();
    assert!(!run(&repo, &CheckOptions::read_all()).is_damaged());
}

#[test]
fn a_check_that_runs_out_of_time_goes_on_the_next_time() {
    let (bed, repo) = history(150, 60);
    let all = packs(&bed);
    assert!(all > 130, "more than two sections: {all}");
    let over = || true;
    let timed = |now_ns| CheckOptions { over: Some(&over), now_ns: Some(now_ns), ..CheckOptions::read_all() };
    let read: Vec<u64> = (1..=3).map(|day| run(&repo, &timed(day * DAY)).data.unwrap().recent_packs.unwrap()).collect();
    assert_eq!(read[..2], [64, 128], "each goes on where the one before stopped");
    assert_eq!(read[2], all);
    // All were read; those of the first day come again first, and age.
    let report = run(&repo, &timed(9 * DAY)).data.unwrap();
    assert_eq!((report.read_packs, report.recent_packs, report.oldest_ns), (64, Some(all), Some(2 * DAY)));
    let report = run(&repo, &CheckOptions { now_ns: Some(12 * DAY), subset: Subset::Bytes(1), ..CheckOptions::read_all() }).data.unwrap();
    assert_eq!((report.read_packs, report.chosen_packs), (1, 1));
    assert!(report.recent_packs.unwrap() <= 65, "what was read ten days ago is not recent: {report:?}");
    // With another catalog nothing is known, at no harm.
    let fresh = bed.open_as("repo", "another cache", 2);
    let report = run(&fresh, &timed(9 * DAY)).data.unwrap();
    assert_eq!((report.read_packs, report.recent_packs, report.oldest_ns), (64, Some(64), None));
}

#[test]
fn the_time_is_asked_between_sections_and_damage_comes_first() {
    let (bed, repo) = history(150, 60);
    let options = CheckOptions { now_ns: Some(DAY), ..CheckOptions::read_all() };
    run(&repo, &options);
    let file = pack_files(&bed).pop().unwrap();
    damage(&file);
    assert!(run(&repo, &CheckOptions { now_ns: Some(2 * DAY), ..options }).is_damaged());
    let over = || true;
    for day in 3..=5 {
        let report = run(&repo, &CheckOptions { over: Some(&over), now_ns: Some(day * DAY), ..options });
        assert!(report.is_damaged(), "a pack that was damaged is read again each time");
        assert_eq!(report.data.unwrap().read_packs, 64);
    }
    // Never over: everything is read.
    let asked = Cell::new(0);
    let counter = std::sync::Mutex::new(asked);
    let never = || {
        let asked = counter.lock().unwrap();
        asked.set(asked.get() + 1);
        false
    };
    let report = run(&repo, &CheckOptions { over: Some(&never), ..options });
    assert_eq!(report.data.unwrap().read_packs, packs(&bed));
    assert_eq!(counter.lock().unwrap().get(), 2, "between three sections");
}

#[test]
fn what_is_damaged_is_marked_and_unmarked_when_it_is_whole() {
    let (bed, repo) = history(5, 600);
    let author = Author { now_ns: 10 * DAY, host: "test".into(), user: "tester".into() };
    let marked = |report: &CheckReport, subset| mark_found(&repo, report, subset, &author).unwrap();
    let file = pack_files(&bed).pop().unwrap();
    let whole = damage(&file);
    let report = run(&repo, &CheckOptions::read_all());
    assert!(codes(&report).iter().all(|code| CODES.iter().any(|(known, _)| known == code)), "{:?}", codes(&report));
    assert!(report.findings.iter().all(|finding| finding.severity == Severity::Damage));
    let mut touched: Vec<_> = report.touched.iter().map(|touched| touched.snapshot).collect();
    touched.dedup();
    let mut damaged = marked(&report, Subset::All).damaged;
    damaged.sort_unstable();
    assert_eq!(damaged, touched);
    assert!(!damaged.is_empty());
    let flagged = |repo: &Repository| repo.refresh().unwrap().snapshots.iter().filter(|(_, record)| !record.flags.is_empty()).count();
    assert_eq!(flagged(&repo), damaged.len(), "a damaged snapshot does not count as good");
    assert_eq!(marked(&report, Subset::All), Default::default(), "once is enough");

    std::fs::write(&file, whole).unwrap();
    let part = Subset::Part { number: 1, of: 2 };
    let report = run(&repo, &CheckOptions { subset: part, ..CheckOptions::read_all() });
    assert!(marked(&report, part).verified.is_empty(), "half of the packs prove nothing");
    let structure = run(&repo, &CheckOptions::default());
    assert!(marked(&structure, Subset::All).verified.is_empty());
    let report = run(&repo, &CheckOptions::read_all());
    assert_eq!(marked(&report, Subset::All).verified.len(), damaged.len());
    assert_eq!(flagged(&repo), 0);
    assert!(try_mark(&repo, &damaged[0], MarkKind::Protect, "").is_ok());
}

#[test]
fn a_pack_that_is_gone_is_forgotten() {
    let (bed, repo) = history(3, 100);
    run(&repo, &CheckOptions { now_ns: Some(DAY), ..CheckOptions::read_all() });
    let file = pack_files(&bed).pop().unwrap();
    let id: PackId = file.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let known = |repo: &Repository| repo.catalog().readings().unwrap().iter().any(|(read, _)| *read == id);
    assert!(known(&repo));
    std::fs::remove_file(&file).unwrap();
    assert!(run(&repo, &CheckOptions { now_ns: Some(2 * DAY), ..CheckOptions::read_all() }).is_damaged());
    assert!(!known(&repo));
}
