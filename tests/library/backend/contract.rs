//! What every backend keeps, as functions that take a fresh, empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use icecore::Error;
use icecore::id::{ContentId, KeyId, LogId, MarkId, PackId, SnapshotId, SourceTag};
use icecore::store::backend::{Backend, BackendExt, ObjectKey, ObjectKind, Replica, SetAside, WriteMode};

pub const KINDS: [ObjectKind; 10] = ObjectKind::ALL;

pub fn pack(byte: u8) -> ObjectKey {
    ObjectKey::Pack(PackId([byte; 32]))
}

/// The source that these are of.
const SOURCE: SourceTag = SourceTag([0xab; 8]);

pub fn snapshot(byte: u8) -> ObjectKey {
    ObjectKey::Snapshot { source: SOURCE, id: SnapshotId([byte; 32]) }
}

pub fn pending(byte: u8) -> ObjectKey {
    ObjectKey::Pending { source: SOURCE, id: SnapshotId([byte; 32]) }
}

pub fn log(time_ns: i64, id: u8) -> ObjectKey {
    ObjectKey::Log { time_ns, id: LogId([id; 32]) }
}

pub fn mark(of: u8, byte: u8) -> ObjectKey {
    ObjectKey::Mark { snapshot: SnapshotId([of; 32]), id: MarkId([byte; 32]) }
}

/// One key of each shape; two packs share their first byte, and one id is used in several kinds.
pub fn keys_of_all_shapes() -> Vec<ObjectKey> {
    let mut sibling = [7; 32];
    sibling[31] = 8;
    vec![
        ObjectKey::Config(Replica::First),
        ObjectKey::Config(Replica::Second),
        ObjectKey::Key(KeyId([7; 32]), Replica::First),
        ObjectKey::Key(KeyId([7; 32]), Replica::Second),
        ObjectKey::Key(KeyId([9; 32]), Replica::First),
        pack(7),
        ObjectKey::Pack(PackId(sibling)),
        pack(0xff),
        pending(7),
        snapshot(7),
        ObjectKey::Snapshot { source: SourceTag([0xcd; 8]), id: SnapshotId([7; 32]) },
        mark(7, 1),
        mark(7, 2),
        mark(8, 1),
        ObjectKey::Forgotten(SnapshotId([7; 32])),
        ObjectKey::Tombstone(PackId([7; 32])),
        log(0, 1),
        log(7, 1),
        log(7, 2),
        log(i64::MAX, 1),
        ObjectKey::Quarantined { kind: SetAside::Pack, id: [7; 32], content: ContentId([8; 32]) },
        ObjectKey::Quarantined { kind: SetAside::Snapshot, id: [7; 32], content: ContentId([8; 32]) },
    ]
}

/// All objects of a backend with their sizes; each must be listed once.
pub fn list_all(backend: &dyn Backend) -> BTreeMap<ObjectKey, u64> {
    let mut found = BTreeMap::new();
    for kind in KINDS {
        for info in backend.list(kind).unwrap() {
            let info = info.unwrap();
            assert_eq!(info.key.kind(), kind);
            assert_eq!(found.insert(info.key, info.size), None, "{} is listed twice", info.key);
        }
    }
    let names: Vec<ObjectKey> = KINDS.into_iter().flat_map(|kind| backend.names(kind).unwrap()).map(Result::unwrap).collect();
    assert_eq!((names.len(), names.into_iter().collect::<BTreeSet<_>>()), (found.len(), found.keys().copied().collect()));
    found
}

/// The kind of an I/O error; any other error fails the test.
pub fn io_kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    match result {
        Err(Error::Backend { source, .. }) => source.kind(),
        other => panic!("not a backend error: {other:?}"),
    }
}

pub fn an_empty_backend_lists_nothing(backend: &dyn Backend) {
    assert_eq!(list_all(backend), BTreeMap::new());
    for key in keys_of_all_shapes() {
        assert_eq!(backend.stat(&key).unwrap(), None);
        assert_eq!(backend.read_if_there(&key, u64::MAX).unwrap(), None);
        assert_eq!(io_kind(backend.read(&key, None)), ErrorKind::NotFound);
        assert_eq!(io_kind(backend.read(&key, Some(0..1))), ErrorKind::NotFound);
    }
}

pub fn what_is_written_is_listed_and_read(backend: &dyn Backend) {
    let mut expected = BTreeMap::new();
    for (number, key) in keys_of_all_shapes().into_iter().enumerate() {
        let bytes = format!("{key} number {number}");
        backend.write(&key, &[bytes.as_bytes()], WriteMode::CreateNew).unwrap();
        expected.insert(key, bytes);
        let sizes: BTreeMap<ObjectKey, u64> = expected.iter().map(|(key, bytes)| (*key, bytes.len() as u64)).collect();
        assert_eq!(list_all(backend), sizes, "a write that returned is in every later listing");
    }
    for (key, bytes) in &expected {
        assert_eq!(backend.stat(key).unwrap(), Some(bytes.len() as u64));
        assert_eq!(backend.read(key, None).unwrap(), bytes.as_bytes());
    }
}

pub fn parts_are_joined(backend: &dyn Backend) {
    let large: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    let parts: [&[u8]; 5] = [b"head", b"", &large, b"x", b"tail"];
    backend.write(&pack(1), &parts, WriteMode::CreateNew).unwrap();
    assert_eq!(backend.read(&pack(1), None).unwrap(), parts.concat());
}

pub fn an_empty_object_is_an_object(backend: &dyn Backend) {
    for (key, parts) in [(snapshot(1), &[][..]), (snapshot(2), &[&b""[..]][..])] {
        backend.write(&key, parts, WriteMode::CreateNew).unwrap();
        assert_eq!(backend.stat(&key).unwrap(), Some(0));
        assert_eq!(backend.read(&key, None).unwrap(), b"");
        assert_eq!(backend.read(&key, Some(0..0)).unwrap(), b"");
        assert_eq!(io_kind(backend.read(&key, Some(0..1))), ErrorKind::UnexpectedEof);
    }
    assert_eq!(list_all(backend).len(), 2);
}

pub fn ranges_are_exact(backend: &dyn Backend) {
    let bytes: Vec<u8> = (0..=255).collect();
    backend.write(&pack(1), &[&bytes], WriteMode::CreateNew).unwrap();
    for start in (0..=256u64).step_by(16) {
        for end in start..=256 {
            let expected = &bytes[start as usize..end as usize];
            assert_eq!(backend.read(&pack(1), Some(start..end)).unwrap(), expected, "{start}..{end}");
        }
    }
}

pub fn a_range_past_the_end_is_an_error(backend: &dyn Backend) {
    backend.write(&pack(1), &[&[5; 100]], WriteMode::CreateNew).unwrap();
    for range in [0..101, 99..101, 100..101, 101..101, 101..102, 5000..6000] {
        assert_eq!(io_kind(backend.read(&pack(1), Some(range.clone()))), ErrorKind::UnexpectedEof, "{range:?}");
    }
}

pub fn hostile_ranges_are_errors(backend: &dyn Backend) {
    backend.write(&pack(1), &[&[5; 100]], WriteMode::CreateNew).unwrap();
    // Nothing could allocate these: asking for the memory first would end the process.
    let huge = [0..u64::MAX, 1..u64::MAX, 100..u64::MAX, u64::MAX - 1..u64::MAX, u64::MAX..u64::MAX, 0..1 << 62, 0..1 << 46];
    for range in huge {
        assert_eq!(io_kind(backend.read(&pack(1), Some(range.clone()))), ErrorKind::UnexpectedEof, "{range:?}");
    }
    for (start, end) in [(50, 20), (u64::MAX, 0), (1, 0)] {
        assert_eq!(io_kind(backend.read(&pack(1), Some(Range { start, end }))), ErrorKind::InvalidInput, "{start}..{end}");
    }
}

pub fn create_new_never_replaces(backend: &dyn Backend) {
    for key in keys_of_all_shapes() {
        backend.write(&key, &[b"first"], WriteMode::CreateNew).unwrap();
        assert_eq!(io_kind(backend.write(&key, &[b"second"], WriteMode::CreateNew)), ErrorKind::AlreadyExists);
        assert_eq!(backend.read(&key, None).unwrap(), b"first");
    }
}

pub fn one_of_sixteen_creators_wins(backend: &dyn Backend) {
    for round in 0..8 {
        for key in [pending(round), pack(round)] {
            race(&[backend; 16], &key);
        }
    }
}

/// Each of these backends, all of one place, creates the object at the same moment: one succeeds, and its bytes are there.
pub fn race(backends: &[&dyn Backend], key: &ObjectKey) {
    let barrier = Barrier::new(backends.len());
    let create = |number: usize| {
        let bytes = vec![number as u8; 1000 + number];
        barrier.wait();
        backends[number].write(key, &[&bytes], WriteMode::CreateNew).map(|()| bytes)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..backends.len()).map(|number| scope.spawn(move || create(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (winners, losers): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(winners.len(), 1, "exactly one creator of {key} wins");
    losers.into_iter().for_each(|loser| assert_eq!(io_kind(loser), ErrorKind::AlreadyExists));
    assert_eq!(Some(backends[0].read(key, None).unwrap()), winners.into_iter().next().unwrap().ok());
}

pub fn replace_creates_and_replaces(backend: &dyn Backend) {
    for key in keys_of_all_shapes() {
        for bytes in [&b"long first bytes"[..], b"short", b""] {
            backend.write(&key, &[bytes], WriteMode::Replace).unwrap();
            assert_eq!(backend.read(&key, None).unwrap(), bytes);
        }
    }
}

pub fn readers_see_a_replaced_object_whole(backend: &dyn Backend) {
    let key = ObjectKey::Config(Replica::First);
    let version = |number: u8| vec![number; 20_000 + usize::from(number) * 100];
    backend.write(&key, &[&version(0)], WriteMode::CreateNew).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let last = done.load(Ordering::Acquire);
                    let bytes = backend.read(&key, None).unwrap();
                    assert!(bytes == version(bytes[0]), "{} bytes are of no version", bytes.len());
                    let part = backend.read(&key, Some(10..20_000)).unwrap();
                    assert!(part.iter().all(|byte| *byte == part[0]), "a range mixes versions");
                    if last {
                        break;
                    }
                }
            });
        }
        for number in 1..=100 {
            backend.write(&key, &[&version(number)[..5000], &version(number)[5000..]], WriteMode::Replace).unwrap();
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(backend.read(&key, None).unwrap(), version(100));
}

pub fn delete_removes_once_and_for_all(backend: &dyn Backend) {
    for key in keys_of_all_shapes() {
        backend.delete(&[key]).unwrap();
        backend.write(&key, &[b"bytes"], WriteMode::CreateNew).unwrap();
    }
    let keys = keys_of_all_shapes();
    for (number, key) in keys.iter().enumerate() {
        backend.delete(&[*key]).unwrap();
        backend.delete(&[*key]).unwrap();
        assert_eq!(backend.stat(key).unwrap(), None);
        assert_eq!(io_kind(backend.read(key, None)), ErrorKind::NotFound);
        assert_eq!(list_all(backend).len(), keys.len() - number - 1, "nothing else goes with it");
    }
    backend.write(&keys[0], &[b"again"], WriteMode::CreateNew).unwrap();
}

pub fn concurrent_writers_do_not_disturb_each_other(backend: &dyn Backend) {
    let key = |writer: u8, number: u8| {
        let mut id = [writer; 32];
        id[0] = number % 3; // Many of them meet in one place.
        id[1] = number;
        ObjectKey::Pack(PackId(id))
    };
    thread::scope(|scope| {
        for writer in 0..8 {
            scope.spawn(move || {
                for number in 0..12 {
                    backend.write(&key(writer, number), &[&[writer; 100], &[number; 100]], WriteMode::CreateNew).unwrap();
                    let listed = backend.list(ObjectKind::Pack).unwrap().map(Result::unwrap);
                    assert_eq!(listed.filter(|info| info.key == key(writer, number) && info.size == 200).count(), 1);
                }
            });
        }
    });
    assert_eq!(list_all(backend).len(), 8 * 12);
    for (writer, number) in (0..8).flat_map(|writer| (0..12).map(move |number| (writer, number))) {
        assert_eq!(backend.read(&key(writer, number), None).unwrap(), [[writer; 100], [number; 100]].concat());
    }
}

pub fn settle_takes_any_objects_that_are_there(backend: &dyn Backend) {
    backend.settle(&[]).unwrap();
    for key in keys_of_all_shapes() {
        backend.write(&key, &[b"bytes"], WriteMode::CreateNew).unwrap();
    }
    backend.settle(&keys_of_all_shapes()).unwrap();
    backend.settle(&[pack(7), pack(7)]).unwrap();
    assert_eq!(list_all(backend).len(), keys_of_all_shapes().len());
}
