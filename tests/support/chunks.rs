//! Snapshots put together from chunks, with references of the test's own choice.

use icecore::id::SourceId;
use icecore::recorded::{EntryKind, SourceKind};
use icecore::store::format::record;
use icecore::store::format::snapshot::{SnapshotRecord, SnapshotStats, SourceRef, StreamEntry, StreamRoot};
use icecore::store::repo::{ChunkWriter, Committed, NewChunk, Reference, Repository, SessionOptions, TreeCursor, TreeWriter, WriteSession};

/// A snapshot of one stream, `db`, of these chunks. What others have stored counts only as far as the catalog knows it already.
pub fn commit(repo: &Repository, chunks: &[(Vec<u8>, Reference)]) -> Committed {
    let session = WriteSession::begin(repo, &SessionOptions::default()).unwrap();
    let mut writer = session.writer().unwrap();
    let root = put_stream(&session, &mut writer, chunks);
    let entry = record::encode(&StreamEntry { name: b"db".to_vec(), kind: EntryKind::File, root, meta: None, tables: Vec::new() }).unwrap();
    let listing = put_stream(&session, &mut writer, &[(entry, Reference::default())]);
    writer.flush().unwrap();
    drop(writer);
    session.commit(draft(listing, root.len)).unwrap()
}

/// Stores a stream of these chunks.
pub fn put_stream(session: &WriteSession, writer: &mut ChunkWriter<'_>, chunks: &[(Vec<u8>, Reference)]) -> StreamRoot {
    let mut no_parent = TreeCursor::new(session.reader(), None);
    let mut stream = TreeWriter::new();
    for (plain, reference) in chunks {
        let id = session.repository().keys().chunk_id(plain);
        writer.put(&[NewChunk { id, plain, references: vec![reference.clone()] }]).unwrap();
        stream.push(id, plain.len() as u32, writer, &mut no_parent).unwrap();
    }
    stream.finish(writer, &mut no_parent).unwrap()
}

/// The record of a snapshot with this listing. Its other fields do not matter.
pub fn draft(listing: StreamRoot, logical_bytes: u64) -> SnapshotRecord {
    SnapshotRecord {
        time_ns: 1,
        duration_us: 0,
        host: "test".into(),
        user: String::new(),
        tool: String::new(),
        source: SourceRef { id: SourceId([0; 32]), kind: SourceKind::FILES, label: String::new() },
        parent: None,
        tags: Vec::new(),
        flags: Vec::new(),
        accepted: Vec::new(),
        listing,
        entries: 1,
        logical_bytes,
        packs: Vec::new(),
        stats: SnapshotStats::default(),
        written_ns: 1,
        facts: Vec::new(),
    }
}
