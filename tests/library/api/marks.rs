//! What marks make of snapshots.

use std::fs;

use icecore::id::SnapshotId;
use icecore::store::format::mark::MarkKind::{self, Accept, Damaged, Flag, Protect, Tag, Unprotect, Untag, Verified};
use icecore::store::repo::Repository;

use super::support::{Bed, back_up, make_database, protect, step, try_mark};

/// Codes of flags, tags, and whether it is protected.
fn state(repo: &Repository, id: &SnapshotId) -> (Vec<String>, Vec<String>, bool) {
    let refreshed = repo.refresh().unwrap();
    assert!(refreshed.damage.is_empty(), "{:?}", refreshed.damage);
    let record = &refreshed.snapshots.iter().find(|(found, _)| found == id).unwrap().1;
    let is_protected = refreshed.marks.get(id).is_some_and(|marks| marks.protection().is_some());
    (record.flags.iter().map(|flag| flag.code.clone()).collect(), record.tags.clone(), is_protected)
}

/// A mark with its code; then flags, tags and protection as they are after it.
type Step<'a> = (MarkKind, &'a str, &'a [&'a str], &'a [&'a str], bool);

#[test]
fn the_newest_of_a_sort_wins() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    drop(make_database(&path, 50));
    let repo = bed.open();
    let id = back_up(&repo, &path, 1).id;
    let script: &[Step] = &[
        (Flag, "a", &["a"], &[], false),
        (Flag, "b", &["a", "b"], &[], false),
        (Flag, "a", &["b", "a"], &[], false),
        (Protect, "", &["b", "a"], &[], true),
        (Accept, "", &[], &[], true),
        (Flag, "c", &["c"], &[], true),
        (Tag, "x", &["c"], &["x"], true),
        (Tag, "y", &["c"], &["x", "y"], true),
        (Unprotect, "", &["c"], &["x", "y"], false),
        (Untag, "x", &["c"], &["y"], false),
        (Damaged, "", &["c", "stored-damage"], &["y"], false),
        (Verified, "", &["c"], &["y"], false),
        (Damaged, "pack", &["c", "pack"], &["y"], false),
        (Accept, "", &[], &["y"], false),
    ];
    // All with one clock that stands still: a mark comes after those that its writer has seen.
    for (kind, code, flags, tags, is_protected) in script {
        assert!(!try_mark(&repo, &id, *kind, code).unwrap().is_being_forgotten);
        let (found_flags, found_tags, found) = state(&repo, &id);
        assert_eq!(
            (found_flags, found_tags, found),
            (flags.iter().map(|f| f.to_string()).collect(), tags.iter().map(|t| t.to_string()).collect(), *is_protected),
            "{kind:?}"
        );
        assert_eq!(state(&bed.open_as("repo", "another cache", 1), &id).0.len(), flags.len());
    }
    let refreshed = repo.refresh().unwrap();
    assert_eq!(refreshed.marks[&id].accepted.len(), 3, "{:?}", refreshed.marks[&id].accepted);
    assert_eq!(refreshed.marks[&id].health().unwrap().kind, Damaged);
    for (kind, code) in [(Flag, ""), (Tag, ""), (Protect, "x"), (Accept, "x")] {
        assert!(matches!(try_mark(&repo, &id, kind, code), Err(icecore::Error::InvalidArgument(_))));
    }
    assert!(matches!(try_mark(&repo, &SnapshotId([7; 32]), Protect, ""), Err(icecore::Error::NotFound { .. })));
}

/// What is flagged is what the next one is most like. What is damaged in the repository may lack what the next one would inherit.
#[test]
fn the_newest_snapshot_is_the_parent_whatever_its_flags_unless_it_is_damaged() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 500);
    let repo = bed.open();
    back_up(&repo, &path, 1);
    step(&db, 1);
    let second = back_up(&repo, &path, 2).id;
    try_mark(&repo, &second, Flag, "by-user").unwrap();
    let third = back_up(&repo, &path, 3);
    assert_eq!(third.record.parent, Some(second));
    try_mark(&repo, &third.id, Damaged, "").unwrap();
    assert_eq!(back_up(&repo, &path, 4).record.parent, Some(second));
    let fourth = repo.refresh().unwrap().snapshots.pop().unwrap().0;
    try_mark(&repo, &fourth, Damaged, "").unwrap();
    try_mark(&repo, &fourth, Accept, "").unwrap();
    assert_eq!(back_up(&repo, &path, 5).record.parent, Some(second), "that it is accepted brings nothing back");
    try_mark(&repo, &fourth, Verified, "").unwrap();
    let fifth = repo.refresh().unwrap().snapshots.pop().unwrap().0;
    try_mark(&repo, &fifth, Damaged, "").unwrap();
    assert_eq!(back_up(&repo, &path, 6).record.parent, Some(fourth));
}

#[test]
fn marks_that_cannot_be_read_are_reported_and_keep_their_snapshot() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    drop(make_database(&path, 50));
    let repo = bed.open();
    let (first, second) = (back_up(&repo, &path, 1).id, back_up(&repo, &path, 2).id);
    protect(&repo, &first);
    let dir = bed.path("repo/marks").join(first.to_string());
    let file = fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    // A mark on another snapshot, put where it does not belong; then a changed byte.
    let elsewhere = bed.path("repo/marks").join(second.to_string());
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join(file.file_name().unwrap()), &bytes).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, &bytes).unwrap();
    let refreshed = repo.refresh().unwrap();
    assert_eq!(refreshed.snapshots.len(), 2);
    let said: Vec<String> = refreshed.damage.iter().map(ToString::to_string).collect();
    assert!(
        said.len() == 2 && said[0].contains("hash of") && said[1].contains(&format!("a mark on another snapshot, {first}")),
        "{said:?}"
    );
    assert_eq!([first, second].map(|id| refreshed.marks[&id].unreadable), [1, 1]);
    let third = back_up(&repo, &path, 3).id;
    let report = super::support::forget(&repo, &[first, third], false);
    assert!(report.forgotten.is_empty());
    assert_eq!(super::support::forget(&repo, &[first], true).forgotten, [first]);
    assert!(fs::read_dir(&dir).unwrap().next().is_none(), "the marks go with their snapshot");
    let check = icecore::ops::check::check(&repo, &Default::default(), &icecore::progress::Silent).unwrap();
    assert_eq!(check.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), ["mark"]);
}
