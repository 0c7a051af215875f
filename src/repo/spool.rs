//! Setting chunks aside while a capture is open, so that writers of the database wait only for reading and hashing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::random_salt;
use crate::crypto::{Keys, Sealer};
use crate::error::{Error, Result};
use crate::format::{Cipher, Kind, Malformed, ObjectHeader};
use crate::id::{ChunkId, RepositoryId};

/// Bytes that are kept in memory before the file is used.
const MEMORY_MAX: usize = 16 << 20;
/// Bytes after which the spool takes no more.
const SPOOL_MAX: u64 = 8 << 30;

/// Chunks that are to be stored later. What does not fit in memory goes to a nameless file, sealed with a key that is never written down.
pub struct Spool {
    file: File,
    sealer: Sealer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    memory: Vec<SetAside>,
    memory_bytes: usize,
    slots: Vec<Slot>,
    file_bytes: u64,
    sealed: u32,
}

/// A chunk that was set aside.
pub struct SetAside {
    /// Its id.
    pub id: ChunkId,
    /// Its plain bytes.
    pub plain: Vec<u8>,
    /// What stood in its place in the parent.
    pub predecessor: Option<ChunkId>,
}

struct Slot {
    offset: u64,
    len: usize,
    number: u32,
    id: ChunkId,
    predecessor: Option<ChunkId>,
}

impl Spool {
    /// A spool whose file lies in `dir` and has no name there, so that nothing is left of it whatever happens.
    pub fn new(dir: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::backend("write", format!("the spool in {}", dir.display()), e);
        let name = dir.join(format!(".spool-{}", crate::id::to_hex(random_salt()?.get(..8).unwrap_or_default())));
        std::fs::create_dir_all(dir).map_err(failed)?;
        let file = {
            use std::os::unix::fs::OpenOptionsExt;
            File::options().read(true).write(true).create_new(true).mode(0o600).open(&name).map_err(failed)?
        };
        std::fs::remove_file(&name).map_err(failed)?;
        let keys = Keys::encrypted(RepositoryId(random_salt()?), &random_salt()?);
        let header = ObjectHeader { kind: Kind::Pack, cipher: Cipher::Aes256Gcm, salt: random_salt()? };
        let sealer = keys.sealer(&header).map_err(|m| m.of("the spool"))?;
        Ok(Spool { file, sealer, state: Mutex::default() })
    }

    /// Sets a chunk aside; `false` when the spool is full and the chunk has to be stored at once.
    pub fn put(&self, id: ChunkId, plain: &[u8], predecessor: Option<ChunkId>) -> Result<bool> {
        let slot = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.memory_bytes + plain.len() <= MEMORY_MAX {
                state.memory_bytes += plain.len();
                state.memory.push(SetAside { id, plain: plain.to_vec(), predecessor });
                return Ok(true);
            }
            let len = plain.len() + Cipher::Aes256Gcm.overhead();
            if state.file_bytes + len as u64 > SPOOL_MAX {
                return Ok(false);
            }
            let slot = Slot { offset: state.file_bytes, len, number: state.sealed, id, predecessor };
            state.file_bytes += len as u64;
            state.sealed += 1;
            slot
        };
        let mut sealed = plain.to_vec();
        self.sealer.seal(slot.number, &mut sealed).map_err(|m: Malformed| m.of("the spool"))?;
        if self.file.write_all_at(&sealed, slot.offset).is_err() {
            // A full disk here is no failure: the chunk is stored at once instead.
            return Ok(false);
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).slots.push(slot);
        Ok(true)
    }

    /// Plain bytes that are set aside, for progress.
    pub fn plain_bytes(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let tags = u64::from(state.sealed) * Cipher::Aes256Gcm.overhead() as u64;
        state.memory_bytes as u64 + state.file_bytes.saturating_sub(tags)
    }

    /// Takes back one chunk, in no particular order; `None` when nothing is left.
    pub fn take(&self) -> Result<Option<SetAside>> {
        let slot = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(chunk) = state.memory.pop() {
                return Ok(Some(chunk));
            }
            match state.slots.pop() {
                Some(slot) => slot,
                None => return Ok(None),
            }
        };
        let mut plain = vec![0; slot.len];
        self.file.read_exact_at(&mut plain, slot.offset).map_err(|e| Error::backend("read", "the spool", e))?;
        self.sealer.open(slot.number, &mut plain).map_err(|m: Malformed| m.of("the spool"))?;
        Ok(Some(SetAside { id: slot.id, plain, predecessor: slot.predecessor }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_set_aside_beyond_memory() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        let chunk = |n: u32| n.to_le_bytes().repeat(16 << 10);
        (0..800).for_each(|n| assert!(spool.put(ChunkId([0; 32]), &chunk(n), None).unwrap()));
        let mut back: Vec<u32> = Vec::new();
        while let Some(aside) = spool.take().unwrap() {
            let n = u32::from_le_bytes(*aside.plain.first_chunk().unwrap());
            assert!(aside.plain == chunk(n));
            back.push(n);
        }
        back.sort_unstable();
        assert_eq!(back, (0..800).collect::<Vec<_>>());
    }
}
