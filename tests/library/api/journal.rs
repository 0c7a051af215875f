//! The journal: what is written is read, in order, as much as is wanted; damage is contained; what it says of the sources.

use std::time::Duration;

use icecore::id::{SnapshotId, SourceId};
use icecore::ops::check::{CheckOptions, check};
use icecore::ops::journal::{Event, LABEL_FACT, Operation, Outcome, Query, read, record};
use icecore::ops::mark::Author;
use icecore::ops::status::{AHEAD_MAX_NS, Status, StatusOptions, status};
use icecore::progress::Silent;
use icecore::store::backend::{ObjectKey, ObjectKind};
use icecore::store::format::log::{LOG_DETAIL_LEN_MAX, LOG_SNAPSHOTS_MAX};
use icecore::store::format::mark::MarkKind;
use icecore::store::repo::{LogName, Repository};

use super::support::{Bed, back_up, make_database, step, try_mark};

const SECOND: i64 = 1_000_000_000;

fn event(operation: Operation) -> Event {
    Event {
        operation,
        outcome: Outcome::Done,
        exit_code: 0,
        duration: Duration::from_millis(3),
        source: None,
        snapshots: Vec::new(),
        detail: String::new(),
        facts: Vec::new(),
    }
}

fn tell(repo: &Repository, at: i64, event: &Event) -> LogName {
    let author = Author { now_ns: at, host: "test".into(), user: "tester".into() };
    record(repo, event, &author).unwrap()
}

fn times(repo: &Repository, query: &Query) -> Vec<i64> {
    read(repo, query, &Silent).unwrap().entries.iter().map(|(_, entry)| entry.time_ns).collect()
}

#[test]
fn what_is_written_is_read_as_far_as_it_is_wanted() {
    for encrypted in [true, false] {
        let bed = Bed::new(encrypted);
        let repo = bed.open();
        assert_eq!(times(&repo, &Query::default()), [0i64; 0]);
        // The clock jumps back, and before 1970; two at one time.
        for (n, at) in [500, 900, -7, 100, 900, 300].into_iter().enumerate() {
            let mut event = event(Operation::Backup);
            event.detail = format!("gr\u{fc}n {n}");
            event.snapshots = vec![SnapshotId([n as u8; 32])];
            tell(&repo, at, &event);
        }
        // More than one batch of them.
        (0..600).for_each(|n| {
            let _ = tell(&repo, 10_000 + n, &event(Operation::Check));
        });
        let all = read(&repo, &Query::default(), &Silent).unwrap();
        assert_eq!(all.entries.len(), 606);
        assert!(all.entries.is_sorted_by_key(|(name, _)| *name), "oldest first, by the clocks of the writers");
        let early: Vec<i64> = all.entries[..6].iter().map(|(_, entry)| entry.time_ns).collect();
        assert_eq!(early, [0, 100, 300, 500, 900, 900]);
        let (_, entry) = &all.entries[2];
        assert_eq!(
            (&entry.operation[..], &entry.outcome[..], &entry.detail[..], entry.duration_us),
            ("backup", "done", "gr\u{fc}n 5", 3000)
        );
        assert_eq!((&entry.host[..], &entry.user[..], entry.snapshots_total), ("test", "tester", 1));
        assert_eq!(times(&repo, &Query { limit: Some(2), ..Query::default() }), [10_598, 10_599]);
        assert_eq!(times(&repo, &Query { limit: Some(0), ..Query::default() }), [0i64; 0]);
        assert_eq!(times(&repo, &Query { since_ns: Some(10_598), ..Query::default() }), [10_598, 10_599]);
        let about = Query { snapshot: Some("0303".into()), ..Query::default() };
        assert_eq!(times(&repo, &about), [100]);
        assert_eq!(times(&repo, &Query { since_ns: Some(101), ..about }), [0i64; 0]);
    }
}

/// Each entry is an object of its own, read once: wanting few reads few.
#[test]
fn few_are_read_if_few_are_wanted() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let names: Vec<LogName> = (0..600).map(|n| tell(&repo, n, &event(Operation::Check))).collect();
    let file = |name: &LogName| bed.path("repo/log").join(format!("{:019}-{}", name.time_ns, name.id));
    std::fs::write(file(&names[0]), "damaged").unwrap();
    assert!(read(&repo, &Query { limit: Some(300), ..Query::default() }, &Silent).unwrap().unreadable.is_empty());
    assert!(read(&repo, &Query { since_ns: Some(1), ..Query::default() }, &Silent).unwrap().unreadable.is_empty());
    assert_eq!(read(&repo, &Query::default(), &Silent).unwrap().unreadable.len(), 1);
}

#[test]
fn the_largest_entry_can_be_written() {
    let bed = Bed::new(true);
    let repo = bed.open();
    let mut event = event(Operation::Forget);
    event.snapshots = (0..3 * LOG_SNAPSHOTS_MAX).map(|n| SnapshotId([n as u8; 32])).collect();
    event.source = Some(SourceId([7; 32]));
    event.detail = "\u{fc}".repeat(LOG_DETAIL_LEN_MAX);
    let long = "\u{20ac}".repeat(1000);
    event.facts = (0..100).map(|_| (long.clone(), long.clone())).collect();
    let name = record(&repo, &event, &Author { now_ns: i64::MAX, host: long.clone(), user: long }).unwrap();
    let entry = repo.read_log(&name).unwrap().unwrap();
    assert_eq!((entry.snapshots.len(), entry.snapshots_total), (LOG_SNAPSHOTS_MAX, 3 * LOG_SNAPSHOTS_MAX as u64));
    assert_eq!(entry.detail.len(), LOG_DETAIL_LEN_MAX);
    assert!(entry.facts.len() < 100 && entry.host.chars().all(|c| c == '\u{20ac}'));
}

/// Entries of another name, of another repository, and bytes that are none: each is named, the others are read.
#[test]
fn damage_is_named_and_contained() {
    for encrypted in [true, false] {
        let (bed, foreign) = (Bed::new(encrypted), Bed::new(encrypted));
        let repo = bed.open();
        let names: Vec<LogName> = (1..=5).map(|n| tell(&repo, n, &event(Operation::Prune))).collect();
        let other = tell(&foreign.open(), 1, &event(Operation::Prune));
        let file = |bed: &Bed, name: &LogName| bed.path("repo/log").join(format!("{:019}-{}", name.time_ns, name.id));
        std::fs::write(file(&bed, &names[0]), "short").unwrap();
        // The bytes are those of the name's id, but the time is another.
        let moved = LogName { time_ns: 77, id: names[1].id };
        std::fs::rename(file(&bed, &names[1]), file(&bed, &moved)).unwrap();
        std::fs::write(file(&bed, &names[2]), vec![0; 100_000]).unwrap();
        std::fs::copy(file(&foreign, &other), file(&bed, &other)).unwrap();
        std::fs::remove_file(file(&bed, &names[4])).unwrap();
        std::fs::create_dir(file(&bed, &names[4])).unwrap();
        let journal = read(&repo, &Query::default(), &Silent).unwrap();
        // Without encryption nothing binds an entry to its repository.
        let foreign_reads = usize::from(!encrypted);
        assert_eq!((journal.entries.len(), journal.unreadable.len()), (1 + foreign_reads, 4 - foreign_reads), "{:?}", journal.unreadable);
        assert!(journal.unreadable.iter().all(|error| error.to_string().contains("journal entry ")), "{:?}", journal.unreadable);
        let report = check(&repo, &CheckOptions::default(), &Silent).unwrap();
        assert_eq!(report.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), vec!["log"; 4 - foreign_reads]);
        assert!(report.touched.is_empty());
    }
}

#[test]
fn the_oldest_go_by_number() {
    let bed = Bed::new(false);
    let repo = bed.open();
    (0..10).for_each(|n| {
        let _ = tell(&repo, n, &event(Operation::Prune));
    });
    assert_eq!((repo.trim_log(10).unwrap(), repo.trim_log(3).unwrap()), (0, 7));
    assert_eq!(times(&repo, &Query::default()), [7, 8, 9]);
    let listed = repo.backend().list(ObjectKind::Log).unwrap().map(|info| info.unwrap().key);
    assert!(listed.into_iter().all(|key| matches!(key, ObjectKey::Log { time_ns, .. } if time_ns >= 7)));
    assert_eq!((repo.trim_log(0).unwrap(), repo.list_log().unwrap().len()), (3, 0));
}

fn look(repo: &Repository, now: i64) -> Status {
    let options = StatusOptions { now_ns: now * SECOND, ..StatusOptions::default() };
    status(repo, &repo.refresh().unwrap(), &options, &Silent).unwrap()
}

#[test]
fn what_the_sources_are_said_to_be() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 50);
    let repo = bed.open();
    let take = |time| {
        step(&db, time as u32);
        back_up(&repo, &path, time)
    };
    let nothing = look(&repo, 0);
    assert!(nothing.sources.is_empty() && nothing.last_check.is_none());
    let (first, second) = (take(1000), take(2000).id);
    let source = &look(&repo, 2000).sources[0];
    assert_eq!((source.last_good.unwrap().id, source.snapshots, source.ahead), (second, 2, 0));
    assert_eq!((source.flagged_after.len(), source.last_verified, source.last_failure.is_some()), (0, None, false));

    // The clock was ahead once: the snapshot of then does not make the source look fresh.
    let ahead = take(2_000_000).id;
    let source = &look(&repo, 2000).sources[0];
    assert_eq!((source.last_good.unwrap().id, source.ahead, source.flagged_after.len()), (second, 1, 0));
    let nearly = 2_000_000 - AHEAD_MAX_NS / SECOND;
    assert_eq!(look(&repo, nearly).sources[0].last_good.unwrap().id, ahead);
    assert_eq!(look(&repo, nearly - 1).sources[0].last_good.unwrap().id, second);
    // This machine's clock is behind them all.
    let source = &look(&repo, 0).sources[0];
    assert_eq!((source.last_good, source.ahead), (None, 3));

    // Flags: the newest good one counts, what is flagged after it is named.
    try_mark(&repo, &ahead, MarkKind::Flag, "odd").unwrap();
    try_mark(&repo, &second, MarkKind::Flag, "odd").unwrap();
    let source = &look(&repo, 3000).sources[0];
    assert_eq!(source.last_good.unwrap().id, first.id);
    assert_eq!(
        source.flagged_after.iter().map(|one| (one.id, one.codes.concat())).collect::<Vec<_>>(),
        [(second, "odd".into()), (ahead, "odd".into())]
    );
    try_mark(&repo, &first.id, MarkKind::Flag, "odd").unwrap();
    assert_eq!(look(&repo, 3000).sources[0].last_good, None, "a source with only flagged snapshots has no good one");
    try_mark(&repo, &first.id, MarkKind::Accept, "").unwrap();
    assert_eq!(look(&repo, 3000).sources[0].last_good.unwrap().id, first.id);
}

#[test]
fn what_the_journal_proves() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 50);
    let repo = bed.open();
    let first = back_up(&repo, &path, 1000);
    step(&db, 1);
    let second = back_up(&repo, &path, 2000);
    let (id, source) = (first.id, first.record.source.clone());
    let with = |operation, outcome, snapshots: &[SnapshotId]| Event { outcome, snapshots: snapshots.to_vec(), ..event(operation) };
    let proof = |now| look(&repo, now).sources[0].last_verified.map(|proof| (proof.by, proof.snapshot, proof.time_ns / SECOND));
    tell(&repo, 2100 * SECOND, &with(Operation::Restore, Outcome::Failed, &[id]));
    tell(&repo, 2101 * SECOND, &with(Operation::Restore, Outcome::Done, &[SnapshotId([1; 32])]));
    assert_eq!(proof(3000), None, "it failed, or was of another source");
    tell(&repo, 2200 * SECOND, &with(Operation::Restore, Outcome::Done, &[id]));
    assert_eq!(proof(3000), Some((Operation::Restore, id, 2200)));
    tell(&repo, 2300 * SECOND, &with(Operation::Drill, Outcome::Done, &[second.id]));
    tell(&repo, 2400 * SECOND, &with(Operation::Drill, Outcome::Damaged, &[second.id]));
    assert_eq!(proof(3000), Some((Operation::Drill, second.id, 2300)), "the newest that went well");
    // Of a snapshot that is forgotten the entry names the source; of a flagged one nothing follows; the future proves nothing.
    let gone = SnapshotId([2; 32]);
    tell(&repo, 2500 * SECOND, &Event { source: Some(source.id), ..with(Operation::Drill, Outcome::Done, &[gone]) });
    assert_eq!(proof(3000), Some((Operation::Drill, gone, 2500)));
    tell(&repo, 9999 * SECOND, &with(Operation::Drill, Outcome::Done, &[id]));
    assert_eq!(proof(3000), Some((Operation::Drill, gone, 2500)));
    try_mark(&repo, &second.id, MarkKind::Flag, "odd").unwrap();
    tell(&repo, 2600 * SECOND, &with(Operation::Restore, Outcome::Done, &[second.id]));
    assert_eq!(proof(3000), Some((Operation::Drill, gone, 2500)));
    // Marks are made at 1000 s here: a check then is older than the drill, and counts if there is nothing else.
    let other = Bed::new(false);
    let repo = other.open();
    let id = back_up(&repo, &path, 1000).id;
    try_mark(&repo, &id, MarkKind::Verified, "").unwrap();
    let proof = look(&repo, 3000).sources[0].last_verified.unwrap();
    assert_eq!((proof.by, proof.time_ns), (Operation::Check, 1000 * SECOND));

    // Failures count after the last good snapshot, by identity, or by label and host where the files were not found.
    let failure = || look(&repo, 3000).sources[0].last_failure.as_ref().map(|entry| entry.time_ns / SECOND);
    let failed = |source| Event { source, ..with(Operation::Backup, Outcome::Failed, &[]) };
    tell(&repo, 999 * SECOND, &failed(Some(source.id)));
    assert_eq!(failure(), None);
    tell(&repo, 1001 * SECOND, &failed(Some(source.id)));
    assert_eq!(failure(), Some(1001));
    tell(&repo, 1002 * SECOND, &failed(None));
    assert_eq!(failure(), Some(1001));
    tell(&repo, 1003 * SECOND, &Event { facts: vec![(LABEL_FACT.into(), source.label)], ..failed(None) });
    assert_eq!(failure(), Some(1003));

    // The last check that came to an end.
    assert!(look(&repo, 3000).last_check.is_none());
    tell(&repo, 1100 * SECOND, &with(Operation::Check, Outcome::Damaged, &[]));
    tell(&repo, 1200 * SECOND, &with(Operation::Check, Outcome::Interrupted, &[]));
    let last = look(&repo, 3000).last_check.unwrap();
    assert_eq!((&last.outcome[..], last.time_ns / SECOND), ("damaged", 1100));
}
