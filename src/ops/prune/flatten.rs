//! Shortening the chains of what stays: where the versions between a chunk and the first one of its lineage are of no use but as links, the chunk is made
//! a delta of the first one directly. The links are not needed then, as of several copies the one of the lowest level is kept.

use super::live::Live;
use super::{PruneOptions, PruneReport};
use crate::error::{Error, Result};
use crate::format::PREFIX_LEN_MAX;
use crate::progress::Monitor;
use crate::repo::{Reader, Repacker, Repository, StoredCopy};

/// Bytes in a table for a copy of a chunk, about: the id, the base, the row.
const ROW_BYTES: usize = 46;

/// A chunk and what it can be made a delta of.
struct Chain {
    chunk: StoredCopy,
    root: StoredCopy,
    /// Stored bytes of the chunk and of the links that it would need no more.
    bytes: usize,
}

/// Writes what can be shortened anew, durably; whether there was anything. The links are not deleted by this.
pub(super) fn flatten(
    repo: &Repository,
    reader: &Reader,
    live: &Live<'_>,
    options: &PruneOptions,
    monitor: &dyn Monitor,
    report: &mut PruneReport,
) -> Result<bool> {
    let mut chains = Vec::new();
    let (mut needed, mut links) = (0u64, 0u64);
    for pack in live.packs() {
        let Some(rows) = live.rows(pack) else { continue };
        let copies = repo.copies_in(pack)?;
        needed += copies.iter().filter(|copy| rows.contains(copy.row())).map(|copy| (frame_bytes(copy) + ROW_BYTES) as u64).sum::<u64>();
        for chunk in copies.into_iter().filter(|copy| rows.contains(copy.row()) && live.is_reached(copy)) {
            if let Some(chain) = chain_of(reader, live, chunk)? {
                links += chain.bytes as u64;
                chains.push(chain);
            }
        }
    }
    // It is worth it where links are more of what is kept than may be of no use.
    if links * 1000 <= needed * options.unused_max_permille.max(1) || options.repack_bytes_max.is_some_and(|most| links > most) {
        return Ok(false);
    }
    monitor.phase("shortening chains", Some(chains.len() as u64));
    let mut repacker = Repacker::new(repo)?;
    let mut any = false;
    for chain in chains {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let (plain, root) = (reader.copy(&chain.chunk)?, reader.copy(&chain.root)?);
        let len_max = (chain.bytes * 3 / 4).saturating_sub(ROW_BYTES);
        any |= repacker.store_delta(&chain.chunk, &plain, &chain.root, &root, len_max)?;
        monitor.advance(1);
    }
    let written = repacker.finish()?;
    report.written += written.len() as u64;
    report.written_bytes += written.iter().map(|pack| pack.size).sum::<u64>();
    Ok(any)
}

/// The chain of a chunk, if there are links between it and the first version.
fn chain_of(reader: &Reader, live: &Live<'_>, chunk: StoredCopy) -> Result<Option<Chain>> {
    let mut bytes = frame_bytes(&chunk) + ROW_BYTES;
    let mut root = chunk.clone();
    let mut links = 0;
    while let [slice] = root.frame().slices.as_slice()
        && slice.offset == 0
    {
        let bases = reader.bases_of(slice.base, root.frame().level)?;
        let Some(base) = bases.into_iter().find(|base| live.rows(&base.pack()).is_some_and(|rows| rows.contains(base.row()))) else {
            break;
        };
        if slice.len != base.entry.plain_len || slice.len as usize > PREFIX_LEN_MAX {
            break;
        }
        root = base;
        if live.is_reached(&root) || root.frame().level == 0 {
            break;
        }
        bytes += frame_bytes(&root) + ROW_BYTES;
        links += 1;
    }
    Ok((links > 0).then_some(Chain { chunk, root, bytes }))
}

/// The bytes of the frame that are the chunk's, about.
fn frame_bytes(copy: &StoredCopy) -> usize {
    let frame = copy.frame();
    (u64::from(frame.encoded_len) * u64::from(copy.entry.plain_len) / u64::from(frame.plain_len.max(1))) as usize
}
