//! What a repository holds and what it costs.

use crate::backend::ObjectKind;
use crate::error::Result;
use crate::repo::Repository;

/// Sums over a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Listed snapshots.
    pub snapshots: u64,
    /// Bytes that all of them would take as plain copies.
    pub logical_bytes: u64,
    /// Bytes stored, all objects together.
    pub stored_bytes: u64,
    /// Packs, and their bytes.
    pub packs: u64,
    /// See `packs`.
    pub pack_bytes: u64,
    /// Chunks, every copy counted.
    pub chunks: u64,
    /// New chunks of all snapshots: plain bytes, and encoded bytes by encoding.
    pub plain_bytes: u64,
    /// See `plain_bytes`.
    pub raw_bytes: u64,
    /// See `plain_bytes`.
    pub zstd_bytes: u64,
    /// See `plain_bytes`.
    pub delta_bytes: u64,
    /// Encoded bytes of tree nodes.
    pub node_bytes: u64,
}

/// Adds everything up; reads no chunk.
pub fn stats(repo: &Repository) -> Result<Stats> {
    let refreshed = repo.refresh()?;
    let mut sums = Stats { snapshots: refreshed.snapshots.len() as u64, ..Stats::default() };
    for (_, snapshot) in &refreshed.snapshots {
        sums.logical_bytes += snapshot.logical_bytes;
        sums.plain_bytes += snapshot.stats.new_plain_bytes;
        sums.raw_bytes += snapshot.stats.raw_bytes;
        sums.zstd_bytes += snapshot.stats.zstd_bytes;
        sums.delta_bytes += snapshot.stats.delta_bytes;
        sums.node_bytes += snapshot.stats.node_bytes;
    }
    for kind in ObjectKind::ALL {
        for info in repo.backend().list(kind)? {
            let info = info?;
            sums.stored_bytes += info.size;
            if kind == ObjectKind::Pack {
                sums.packs += 1;
                sums.pack_bytes += info.size;
            }
        }
    }
    sums.chunks = repo.on_catalog(|local| local.packs())?.iter().map(|known| u64::from(known.chunks)).sum();
    Ok(sums)
}
