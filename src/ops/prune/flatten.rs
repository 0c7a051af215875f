//! Shortening the chains of what stays: where the versions between a chunk and the first one of its lineage are of no use but as links, the chunk is made
//! a delta of the first one directly. The links are not needed then, as of several copies the one of the lowest level is kept.

use super::needed::Needed;
use super::plan::PruneOptions;
use super::run::Run;
use crate::error::{Error, Result};
use crate::store::format::PREFIX_LEN_MAX;
use crate::store::repo::{Reader, Repacker, Repository, StoredCopy};

/// Bytes in a table for a copy of a chunk, about: the id, the base, the row.
const ROW_BYTES: usize = 46;

/// A chunk and what it can be made a delta of.
struct Chain {
    chunk: StoredCopy,
    root: StoredCopy,
    /// Stored bytes of the chunk and of the links that it would need no more.
    bytes: usize,
}

/// The chains that are worth shortening.
#[derive(Default)]
pub(super) struct Chains(Vec<Chain>);

impl Chains {
    /// Finds them; none where links are no more of what is kept than may be of no use.
    pub(super) fn to_shorten(repo: &Repository, reader: &Reader, needed: &Needed, options: &PruneOptions) -> Result<Chains> {
        let mut chains = Chains::default();
        let mut all = 0u64;
        for pack in needed.packs() {
            let Some(rows) = needed.rows(pack) else { continue };
            let mut copies = repo.copies_in(pack)?;
            copies.retain(|copy| rows.contains(copy.row()));
            all += copies.iter().map(|copy| (frame_bytes(copy) + ROW_BYTES) as u64).sum::<u64>();
            for chunk in copies.into_iter().filter(|copy| needed.is_reached(copy)) {
                chains.0.extend(chain_of(reader, needed, chunk)?);
            }
        }
        let too_much = options.repack_bytes_max.is_some_and(|most| chains.bytes() > most);
        let too_little = chains.bytes() * 1000 <= all * options.unused_max_permille.max(1);
        Ok(if too_much || too_little { Chains::default() } else { chains })
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Stored bytes of their chunks and links, about.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|chain| chain.bytes as u64).sum()
    }
}

impl Run<'_> {
    /// Writes what can be shortened anew, durably; whether there was anything. The links are not deleted by this.
    pub(super) fn shorten(&mut self, reader: &Reader, Chains(chains): Chains) -> Result<bool> {
        if chains.is_empty() {
            return Ok(false);
        }
        self.monitor.phase("shortening chains", Some(chains.len() as u64));
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
                    let len_max = (chain.bytes * 3 / 4).saturating_sub(ROW_BYTES);
                    any |= repacker.store_delta(&chain.chunk, &plain, &chain.root, &root, len_max)?;
                }
                // What is damaged stays as it is: there is nothing to gain.
                (Err(error), _) | (_, Err(error)) if error.is_damage() => {}
                (Err(error), _) | (_, Err(error)) => return Err(error),
            }
        }
        self.add_written(repacker)?;
        Ok(any)
    }
}

/// The chain of a chunk, if there are links between it and the first version.
fn chain_of(reader: &Reader, needed: &Needed, chunk: StoredCopy) -> Result<Option<Chain>> {
    let mut bytes = frame_bytes(&chunk) + ROW_BYTES;
    let mut root = chunk.clone();
    let mut links = 0;
    while let [slice] = root.frame().slices.as_slice()
        && slice.offset == 0
    {
        let bases = reader.bases_of(slice.base, root.frame().level)?;
        let Some(base) = bases.into_iter().find(|base| needed.rows(&base.pack()).is_some_and(|rows| rows.contains(base.row()))) else {
            break;
        };
        if slice.len != base.entry.plain_len || slice.len as usize > PREFIX_LEN_MAX {
            break;
        }
        root = base;
        if needed.is_reached(&root) || root.frame().level == 0 {
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
