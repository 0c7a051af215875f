//! Listings are sorted, and their chunks hold whole entries.

use std::collections::HashSet;

use icecore::id::ChunkId;
use icecore::progress::Silent;
use icecore::recorded::{EntryKind, SourceKind};
use icecore::store::format::record;
use icecore::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use icecore::store::repo::{Committed, Reader, Reference, Repository, SessionOptions, WriteSession};

use super::chunks::{commit, draft, put_stream};
use super::support::Bed;

fn entry(name: &str) -> StreamEntry {
    let root = StreamRoot { len: 0, levels: 0, top: None };
    StreamEntry { name: name.as_bytes().to_vec(), kind: EntryKind::Directory, root, meta: None, tables: Vec::new() }
}

/// A snapshot whose listing has these chunks.
fn listing(repo: &Repository, chunks: &[Vec<u8>]) -> SnapshotRecord {
    let session = WriteSession::begin(repo, &SessionOptions::default()).unwrap();
    let mut writer = session.writer().unwrap();
    let chunks: Vec<(Vec<u8>, Reference)> = chunks.iter().map(|plain| (plain.clone(), Reference::default())).collect();
    let listing = put_stream(&session, &mut writer, &chunks);
    writer.flush().unwrap();
    drop(writer);
    session.commit(draft(listing, 0)).unwrap().record
}

fn encoded(names: &[&str]) -> Vec<u8> {
    names.iter().flat_map(|name| record::encode(&entry(name)).unwrap()).collect()
}

#[test]
fn what_is_not_sorted_is_refused() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let reader = Reader::new(&repo);
    let names = |chunks: &[Vec<u8>]| reader.listing(&listing(&repo, chunks).listing, &Silent).map(|entries| entries.len());
    assert_eq!(names(&[encoded(&["a", "a/b"]), encoded(&["c"])]).unwrap(), 3);
    for (chunks, says) in [
        (vec![encoded(&["b", "a"])], "not sorted"),
        (vec![encoded(&["a", "a"])], "not sorted"),
        (vec![encoded(&["a", "c"]), encoded(&["b"])], "not sorted"),
        (vec![encoded(&["a"]), encoded(&["b"]), encoded(&["a"])], "a part twice"),
        (vec![encoded(&["a"]), b"no entry".to_vec()], "does not consist of entries"),
    ] {
        let error = names(&chunks).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains(says), "{error}");
    }
}

/// What is known is passed over unread; what is left is complete.
#[test]
fn known_parts_are_passed_over() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let reader = Reader::new(&repo);
    let halves = encoded(&["n"]);
    let chunks = [encoded(&["a", "b"]), encoded(&["c"]), halves[..3].to_vec(), halves[3..].to_vec(), encoded(&["z"])];
    let record = listing(&repo, &chunks);
    let parts: Vec<(Option<ChunkId>, usize)> =
        reader.parts(&record.listing).unwrap().map(|part| part.map(|part| (part.chunk(), part.entries.len())).unwrap()).collect();
    let id = |number: usize| Some(repo.keys().chunk_id(&chunks[number]));
    assert_eq!(parts, [(id(0), 2), (id(1), 1), (None, 1), (id(4), 1)]);
    let known: HashSet<ChunkId> = [id(0), id(4)].into_iter().flatten().collect();
    let mut rest = reader.parts(&record.listing).unwrap();
    let mut names = Vec::new();
    while let Some(part) = rest.next_besides(&mut |chunk| known.contains(chunk)) {
        names.extend(part.unwrap().entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()));
    }
    assert_eq!(names, ["c", "n"]);
}

/// A snapshot of a kind that this program has no engine for is listed, checked, restored, drilled and exported as bytes.
#[test]
fn a_source_of_an_unknown_kind_is_bytes() {
    let bed = Bed::new(true);
    let repo = bed.open();
    let Committed { id, record } = commit(&repo, &[(b"of the future".to_vec(), Reference::default())]);
    let session = WriteSession::begin(&repo, &SessionOptions { parent: Some((id, record.source.id)) }).unwrap();
    let mut source = record.source.clone();
    source.kind = SourceKind::named("oracle-9").unwrap();
    let future = session.commit(SnapshotRecord { source, time_ns: 5, ..record }).unwrap();
    drop(repo);
    let repo = bed.open();
    let refreshed = repo.refresh().unwrap();
    assert!(refreshed.damage.is_empty(), "{:?}", refreshed.damage);
    let listed = refreshed.snapshots.iter().find(|(id, _)| *id == future.id).unwrap();
    assert_eq!(listed.1.source.kind.name(), "oracle-9");
    let mut bytes = Vec::new();
    icecore::ops::restore::dump(&repo, &listed.1, b"db", &mut bytes, &Silent).unwrap();
    assert_eq!(bytes, b"of the future");
    let report = icecore::ops::check::check(&repo, &icecore::ops::check::CheckOptions::read_all(), &Silent).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(!icecore::engine::of(&listed.1.source.kind).needs_server());
}

#[test]
fn names_of_kinds_are_bounded() {
    for name in ["sqlite", "a", "pg-18", &"x".repeat(32)] {
        assert_eq!(SourceKind::named(name).unwrap().name(), name);
    }
    for name in ["", "Sqlite", "a b", "a\n", "\u{e9}", &"x".repeat(33)] {
        assert_eq!(SourceKind::named(name), None, "{name}");
    }
}
