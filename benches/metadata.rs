//! What a snapshot costs beside its data: `cargo bench --bench metadata`.
//!
//! A stream of each size is simulated: its tree is written through the engine, its chunks are ids without data. Then 1,000 pages at random places change,
//! each in a chunk of its own, three times. Metadata is everything that is stored but the encoded chunks: nodes, tables, headers, padding, the record.
#![allow(clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::sync::Arc;

use common::rng::Rng;
use icecore::fs::disk::RealDisk;
use icecore::id::{ChunkId, SourceId};
use icecore::recorded::{EntryKind, SourceKind};
use icecore::store::backend::local::LocalBackend;
use icecore::store::format::key::KdfCost;
use icecore::store::format::record;
use icecore::store::format::snapshot::{SnapshotRecord, SnapshotStats, SourceRef, StreamEntry, StreamRoot};
use icecore::store::repo::{
    ChunkWriter, Committed, InitOptions, NewChunk, OpenOptions, Repository, SessionOptions, TreeCursor, TreeWriter, WriteSession,
};
use zeroize::Zeroizing;

/// Bytes in a chunk.
const CHUNK_LEN: u32 = 64 << 10;
/// Changed pages in a step.
const CHANGES: usize = 1000;

fn main() -> common::Result<()> {
    println!("| stream | chunks | metadata of the first snapshot | of a step of {CHANGES} changed pages | a changed page |");
    println!("|---|--:|--:|--:|--:|");
    for (name, bytes) in [("100 MB", 100_000_000u64), ("10 GB", 10_000_000_000), ("1 TiB (simulated)", 1 << 40)] {
        let dir = tempfile::tempdir()?;
        let repo = open(dir.path())?;
        let chunks = bytes.div_ceil(u64::from(CHUNK_LEN));
        let mut ids: Vec<u64> = (0..chunks).collect();
        let mut rng = Rng::new(1, "metadata");
        let (first, mut root) = snapshot(&repo, &ids, &[], None)?;
        let mut steps = Vec::new();
        for step in 1..=3u64 {
            let changed: Vec<u64> = (0..CHANGES).map(|_| rng.below(chunks)).collect();
            changed.iter().for_each(|at| ids[*at as usize] = step << 48 | at);
            let (committed, next) = snapshot(&repo, &ids, &changed, Some(root))?;
            root = next;
            steps.push(metadata(&repo, &committed)?);
        }
        steps.sort_unstable();
        println!("| {name} | {chunks} | {} | {} | {} |", metadata(&repo, &first)?, steps[1], steps[1] / CHANGES as u64);
    }
    Ok(())
}

fn open(dir: &std::path::Path) -> common::Result<Repository> {
    let backend = Arc::new(LocalBackend::create(&dir.join("repo"), Arc::new(RealDisk))?);
    let passphrase = || Ok(Zeroizing::new("bench".to_string()));
    let cost = KdfCost { memory_kib: 8, passes: 1, lanes: 1 };
    Repository::init(&*backend, &InitOptions { passphrase: Some(passphrase()?), cost, parity_percent: 0 })?;
    Ok(Repository::open(
        backend,
        &OpenOptions { passphrase: &passphrase, cache_dir: dir.join("cache"), threads: 4, trust: Default::default() },
    )?)
}

/// Writes the tree of these chunks, and of those that changed a little data, so that they have rows in tables.
fn snapshot(repo: &Repository, ids: &[u64], changed: &[u64], parent: Option<StreamRoot>) -> common::Result<(Committed, StreamRoot)> {
    let session = WriteSession::begin(repo, &SessionOptions::default())?;
    let mut writer = session.writer()?;
    for at in changed {
        let number = ids[*at as usize];
        let plain = number.to_le_bytes().repeat(CHUNK_LEN as usize / 8);
        writer.put(&[NewChunk { id: id_of(repo, number), plain: &plain, references: Vec::new() }])?;
    }
    let root = tree(&session, &mut writer, ids.iter().map(|number| (id_of(repo, *number), CHUNK_LEN)), parent)?;
    let entry = record::encode(&StreamEntry { name: b"memory.db".to_vec(), kind: EntryKind::File, root, meta: None, tables: Vec::new() })?;
    let listing_id = repo.keys().chunk_id(&entry);
    writer.put(&[NewChunk { id: listing_id, plain: &entry, references: Vec::new() }])?;
    let listing = tree(&session, &mut writer, [(listing_id, entry.len() as u32)].into_iter(), None)?;
    writer.flush()?;
    drop(writer);
    Ok((session.commit(draft(listing, root.len))?, root))
}

/// A chunk that is only simulated has any id; one that is stored has its own.
fn id_of(repo: &Repository, number: u64) -> ChunkId {
    match number >> 48 {
        0 => ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        _ => repo.keys().chunk_id(&number.to_le_bytes().repeat(CHUNK_LEN as usize / 8)),
    }
}

fn tree(
    session: &WriteSession,
    writer: &mut ChunkWriter<'_>,
    chunks: impl Iterator<Item = (ChunkId, u32)>,
    parent: Option<StreamRoot>,
) -> common::Result<StreamRoot> {
    let mut parent = TreeCursor::new(session.reader(), parent);
    let mut tree = TreeWriter::new();
    for (id, len) in chunks {
        tree.push(id, len, writer, &mut parent)?;
    }
    Ok(tree.finish(writer, &mut parent)?)
}

fn metadata(repo: &Repository, committed: &Committed) -> common::Result<u64> {
    let stats = committed.record.stats;
    let record: u64 = repo.backend().stat(&repo.snapshot_key(&committed.id, &committed.record.source.id))?.ok_or("the record is gone")?;
    Ok(stats.pack_bytes - stats.raw_bytes - stats.zstd_bytes - stats.delta_bytes + record)
}

fn draft(listing: StreamRoot, logical_bytes: u64) -> SnapshotRecord {
    SnapshotRecord {
        time_ns: 1_793_880_000_000_000_000,
        duration_us: 1_000_000,
        host: "db-1".into(),
        user: "mia".into(),
        tool: "icecore".into(),
        source: SourceRef { id: SourceId([0; 32]), kind: SourceKind::FILES, label: "/srv/memory.db".into() },
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
