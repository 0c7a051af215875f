//! A few nodes that name each other many times stand for more than there is.

use icecore::ops::check::{CheckOptions, check};
use icecore::ops::prune::{PruneOptions, plan};
use icecore::progress::Silent;
use icecore::recorded::EntryKind;
use icecore::store::format::NODE_FANOUT;
use icecore::store::format::node::{Child, Node};
use icecore::store::format::record;
use icecore::store::format::snapshot::{SnapshotRecord, StreamEntry, StreamRoot};
use icecore::store::repo::{NewChunk, Reader, Reference, SessionOptions, WriteSession};

use super::bed::{Bed, back_up, make_database};

/// A snapshot whose listing has the same thousand entries 10^12 times, in a handful of nodes.
fn endless(bed: &Bed) -> StreamRoot {
    let repo = bed.open();
    let path = bed.path("db.sqlite");
    make_database(&path, 20);
    let id = back_up(&repo, &path, 1).id;
    let record = repo.refresh().unwrap().snapshots.into_iter().find(|(found, _)| *found == id).unwrap().1;
    let session = WriteSession::begin(&repo, &SessionOptions::default()).unwrap();
    let mut writer = session.writer().unwrap();
    let mut put = |plain: &[u8]| {
        let id = repo.keys().chunk_id(plain);
        writer.put(&[NewChunk { id, plain, references: vec![Reference::default()] }]).unwrap();
        id
    };
    let empty = StreamRoot { len: 0, levels: 0, top: None };
    let entry =
        |n: u32| StreamEntry { name: n.to_be_bytes().to_vec(), kind: EntryKind::Directory, root: empty, meta: None, tables: Vec::new() };
    let bytes: Vec<u8> = (0..1000).flat_map(|n| record::encode(&entry(n)).unwrap()).collect();
    let mut child = Child { id: put(&bytes), len: bytes.len() as u64 };
    let mut levels = 0;
    while child.len < 1 << 45 {
        levels += 1;
        let node = Node { level: levels, children: vec![child; NODE_FANOUT] };
        child = Child { id: put(&node.encode()), len: child.len * NODE_FANOUT as u64 };
    }
    writer.flush().unwrap();
    drop(writer);
    let listing = StreamRoot { len: child.len, levels, top: Some(child.id) };
    session.commit(SnapshotRecord { listing, entries: child.len / 20, time_ns: 2, ..record }).unwrap();
    listing
}

#[test]
fn a_listing_ends_where_a_part_comes_again() {
    let bed = Bed::new(false);
    let listing = endless(&bed);
    let repo = bed.open();
    let error = Reader::new(&repo).listing(&listing, &Silent).unwrap_err();
    assert!(error.to_string().contains("a part twice"), "{error}");
    let counted = Reader::new(&repo).entries(&listing).unwrap().filter(Result::is_ok).count();
    assert_eq!(counted, 1000, "all that are there");
    let report = check(&repo, &CheckOptions::read_all(), &Silent).unwrap();
    assert!(report.is_damaged());
    let options = PruneOptions { grace_ns: 0, now_ns: 1 << 60, host: "test".into(), unused_max_permille: 50, repack_bytes_max: None };
    assert!(plan(&repo, &options, &Silent).unwrap_err().is_damage());
}
