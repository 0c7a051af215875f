//! Tests of faults that callers cannot cause: an encoder that makes wrong bytes of a chunk, and a snapshot that is too large.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use super::{Kind, NewChunk, PREFIXES_LEN, Reference, claim, prepare};
use crate::fs::disk::RealDisk;
use crate::store::backend::{Backend, LocalBackend, ObjectKind};
use crate::store::codec::IS_FAULTY;
use crate::store::format::key::KdfCost;
use crate::store::repo::{InitOptions, OpenOptions, Repository, SessionOptions, WriteSession};

fn repository(dir: &std::path::Path) -> (Arc<LocalBackend>, Repository) {
    let backend = Arc::new(LocalBackend::create(&dir.join("repo"), Arc::new(RealDisk)).unwrap());
    Repository::init(&*backend, &InitOptions { passphrase: None, cost: KdfCost { memory_kib: 8, passes: 1, lanes: 1 }, parity_percent: 0 })
        .unwrap();
    let passphrase = || Ok(zeroize::Zeroizing::new(String::new()));
    let options = OpenOptions { passphrase: &passphrase, cache_dir: dir.join("cache"), threads: 1, trust: Default::default() };
    let repo = Repository::open(backend.clone(), &options).unwrap();
    (backend, repo)
}

/// Puts chunks, the last one with a faulty encoder. Returns the result, and how many packs there are afterwards.
fn put_with_a_fault(plains: &[Vec<u8>]) -> (bool, usize) {
    let dir = tempfile::tempdir().unwrap();
    let (backend, repo) = repository(dir.path());
    let mut predecessor = None;
    let mut refused = false;
    for (number, plain) in plains.iter().enumerate() {
        let session = WriteSession::begin(&repo, &SessionOptions::default()).unwrap();
        let mut writer = session.writer().unwrap();
        let id = repo.keys().chunk_id(plain);
        IS_FAULTY.set(number + 1 == plains.len());
        let reference = Reference::to(predecessor);
        let result = writer.put(&[NewChunk { id, plain, references: vec![reference] }]).and_then(|()| writer.flush());
        IS_FAULTY.set(false);
        drop(writer);
        refused = match result {
            Ok(()) => session.packer().finish().is_err(),
            Err(error) => error.is_damage() && session.guarded(|| Ok(())).is_err(),
        };
        repo.list_all_packs().unwrap();
        predecessor = Some(id);
    }
    (refused, backend.list(ObjectKind::Pack).unwrap().count())
}

fn text(lines: std::ops::Range<u32>) -> Vec<u8> {
    lines.flat_map(|line| format!("a line, the number {line}\n").into_bytes()).collect()
}

#[test]
fn a_chunk_that_does_not_decode_to_itself_is_never_stored() {
    assert_eq!(put_with_a_fault(&[text(0..500)]), (true, 0));
}

#[test]
fn a_delta_that_does_not_decode_to_its_chunk_is_never_stored() {
    let mut changed = text(0..500);
    changed[5000] ^= 1;
    changed[9000] ^= 1;
    for changed in [changed, [text(0..100), b"something new".to_vec(), text(100..500)].concat()] {
        assert_eq!(put_with_a_fault(&[text(0..500), changed]), (true, 1));
    }
}

#[test]
fn a_node_that_does_not_decode_to_itself_is_never_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (backend, repo) = repository(dir.path());
    let session = WriteSession::begin(&repo, &SessionOptions::default()).unwrap();
    let mut writer = session.writer().unwrap();
    IS_FAULTY.set(true);
    let refused = writer.put_node(&text(0..500), None).is_err();
    IS_FAULTY.set(false);
    assert!(refused && session.guarded(|| Ok(())).is_err(), "the session takes nothing more");
    drop(writer);
    assert_eq!(backend.list(ObjectKind::Pack).unwrap().count(), 0);
}

#[test]
fn more_packs_than_a_record_can_name_are_refused_when_the_first_of_them_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_, repo) = repository(dir.path());
    let mut session = WriteSession::begin(&repo, &SessionOptions::default()).unwrap();
    session.packer_mut().limit(2);
    let mut writer = session.writer().unwrap();
    let mut stored = 0_u64;
    let error = loop {
        // Random enough that it is not compressed.
        let plain: Vec<u8> = (0..4096_u64).flat_map(|n| *blake3::hash(&(stored * 4096 + n).to_le_bytes()).as_bytes()).collect();
        let id = repo.keys().chunk_id(&plain);
        match writer.put(&[NewChunk { id, plain: &plain, references: Vec::new() }]) {
            Ok(()) => stored += plain.len() as u64 / 4096,
            Err(error) => break error,
        }
        assert!(stored < 1 << 20, "nothing stops it");
    };
    assert!(error.to_string().contains("one backup adds at most 1"), "{error}");
    assert!(session.guarded(|| Ok(())).is_err(), "it takes nothing more");
}

/// However many chunks are stored together, the prefixes in memory are bounded; every chunk is still stored.
#[test]
fn prefixes_in_memory_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let (_, repo) = repository(dir.path());
    let chunk = |number: u32, last: u8| [number.to_le_bytes().repeat(16 << 10), vec![last]].concat();
    let put = |last: u8, before: Option<u8>, look: &dyn Fn(&WriteSession, &[NewChunk<'_>])| {
        let plains: Vec<Vec<u8>> = (0..600).map(|number| chunk(number, last)).collect();
        let reference = |number: u32| Reference::to(before.map(|before| repo.keys().chunk_id(&chunk(number, before))));
        let mut chunks = Vec::new();
        for (number, plain) in (0..).zip(&plains) {
            chunks.push(NewChunk { id: repo.keys().chunk_id(plain), plain, references: vec![reference(number)] });
        }
        look(&WriteSession::begin(&repo, &SessionOptions::default()).unwrap(), &chunks);
    };
    put(1, None, &|session, chunks| {
        let mut writer = session.writer().unwrap();
        writer.put(chunks).unwrap();
        writer.flush().unwrap();
        drop(writer);
        session.packer().finish().unwrap();
    });
    repo.list_all_packs().unwrap();
    put(2, Some(1), &|session, chunks| {
        let mut claimed = claim(session, chunks, Kind::Chunk).unwrap().into();
        let mut sums = Vec::new();
        loop {
            let prepared = prepare(session, &mut claimed, 1).unwrap();
            if prepared.is_empty() {
                break;
            }
            let prefixes = prepared.iter().map(|(_, _, first)| first.as_ref().unwrap().1.len());
            sums.push((prepared.len(), prefixes.sum::<usize>()));
        }
        assert!(sums.len() > 2 && sums.iter().all(|(_, bytes)| *bytes <= PREFIXES_LEN), "{sums:?}");
        assert_eq!(sums.iter().map(|(count, _)| count).sum::<usize>(), chunks.len());
    });
}
