//! Shortens delta chains whose middle links nobody needs but as links.
//!
//! If the versions between a chunk and the first needed version of its lineage are only links, the chunk is stored
//! once more, as a delta of that first version. The links are not needed then: of several copies of a chunk the walk
//! keeps the one with the lowest level. Nothing is deleted here, and the new copies are verified and durable before
//! packs are marked.

use super::needed::Needed;
use super::plan::PruneOptions;
use super::run::Run;
use crate::error::{Error, Result};
use crate::ops::number::{in_memory, index, wide};
use crate::store::format::PREFIX_LEN_MAX;
use crate::store::repo::{Reader, Repacker, Repository, StoredCopy};

/// Bytes that a copy of a chunk takes in a table, about: its id, its base, its row.
const ROW_BYTES: usize = 46;

/// A chunk, and the version that becomes its base.
struct Chain {
    chunk: StoredCopy,
    root: StoredCopy,
    /// Stored bytes of the chunk and of the links that can go, about.
    bytes: usize,
}

/// The chains that are worth shortening.
#[derive(Default)]
pub(super) struct Chains(Vec<Chain>);

impl Chains {
    /// Finds these chains. None if the links are a smaller share of the kept bytes than the allowed unused share, or
    /// if more would be written than allowed.
    pub(super) fn to_shorten(repo: &Repository, reader: &Reader, needed: &Needed, options: &PruneOptions) -> Result<Chains> {
        let mut chains = Chains::default();
        let mut all = 0u64;
        for pack in needed.packs() {
            let Some(rows) = needed.rows(pack) else { continue };
            let mut copies = repo.copies_in(pack)?;
            copies.retain(|copy| rows.contains(copy.row()));
            all += copies.iter().map(|copy| wide(frame_bytes(copy) + ROW_BYTES)).sum::<u64>();
            for chunk in copies.into_iter().filter(|copy| needed.is_reached(copy)) {
                chains.0.extend(chain_of(reader, needed, chunk)?);
            }
        }
        let too_much = options.repack_bytes_max.is_some_and(|most| chains.bytes() > most);
        let too_little = chains.bytes() * 1000 <= all * options.unused_max_permille.max(1);
        Ok(if too_much || too_little { Chains::default() } else { chains })
    }

    /// The number of chains.
    pub(super) fn count(&self) -> u64 {
        wide(self.0.len())
    }

    /// Stored bytes of their chunks and links, about.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|chain| wide(chain.bytes)).sum()
    }
}

impl Run<'_> {
    /// Stores these chunks with short chains, durably. Returns whether anything was stored. The links stay until a
    /// later sweep finds them not needed.
    pub(super) fn shorten(&mut self, reader: &Reader, Chains(chains): Chains) -> Result<bool> {
        if chains.is_empty() {
            return Ok(false);
        }
        self.monitor.phase("shortening chains", Some(wide(chains.len())));
        let mut repacker = Repacker::new(self.repo)?;
        let mut any = false;
        for chain in chains {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let (plain, root) = (reader.copy(&chain.chunk), reader.copy(&chain.root));
            self.monitor.advance(1);
            match (plain, root) {
                (Ok(plain), Ok(root)) => {
                    // A delta over more versions is larger. It must save at least a quarter, or it is not worth
                    // another copy.
                    let len_max = (chain.bytes * 3 / 4).saturating_sub(ROW_BYTES);
                    any |= repacker.store_delta(&chain.chunk, &plain, &chain.root, &root, len_max)?;
                }
                // A damaged chain is left as it is: it is not for a prune to mend.
                (Err(error), _) | (_, Err(error)) if error.is_damage() => {}
                (Err(error), _) | (_, Err(error)) => return Err(error),
            }
        }
        self.add_written(repacker)?;
        Ok(any)
    }
}

/// Follows the chain of a chunk down to a version that is needed for itself or stands on nothing. `None` if there is
/// no link between them.
fn chain_of(reader: &Reader, needed: &Needed, chunk: StoredCopy) -> Result<Option<Chain>> {
    let mut bytes = frame_bytes(&chunk) + ROW_BYTES;
    let mut root = chunk.clone();
    let mut links = 0;
    // Only plain chains: one base, used from its start to its end. A delta of moved content has several bases, and
    // none of them is "the older version".
    while let [slice] = root.frame().slices.as_slice()
        && slice.offset == 0
    {
        let bases = reader.bases_of(slice.base, root.frame().level)?;
        let Some(base) = bases.into_iter().find(|base| needed.rows(&base.pack()).is_some_and(|rows| rows.contains(base.row()))) else {
            break;
        };
        if slice.len != base.entry.plain_len || index(slice.len) > PREFIX_LEN_MAX {
            break;
        }
        debug_assert!(base.frame().level < root.frame().level, "levels fall along a chain, so this ends");
        root = base;
        if needed.is_reached(&root) || root.frame().level == 0 {
            break;
        }
        bytes += frame_bytes(&root) + ROW_BYTES;
        links += 1;
    }
    Ok((links > 0).then_some(Chain { chunk, root, bytes }))
}

/// The chunk's share of the bytes of its frame, about.
fn frame_bytes(copy: &StoredCopy) -> usize {
    let frame = copy.frame();
    in_memory(u64::from(frame.encoded_len) * u64::from(copy.entry.plain_len) / u64::from(frame.plain_len.max(1)))
}
