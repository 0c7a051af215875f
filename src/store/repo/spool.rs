//! Setting chunks aside while a capture is open. So writers of the database wait only while pages are read and hashed, not while they are stored.
//!
//! A spool is bounded. If it is full or its disk is, chunks are stored at once instead; that is slower but never an error. Nothing of it can be
//! read later: its file has no name, and is sealed with a key that exists only in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::random_salt;
use crate::error::{Error, Result};
use crate::id::RepositoryId;
use crate::store::crypto::{Keys, Sealer};
use crate::store::format::{Cipher, Kind, Malformed, ObjectHeader};
use crate::store::repo::u64_from;

/// The most bytes in the file of a spool.
const SPOOL_MAX: u64 = 8 << 30;

/// Chunks that will be stored later, each with the data `T` that its storing needs. Chunks that do not fit in memory go to the file.
pub struct Spool<T> {
    file: Option<(File, Sealer)>,
    file_max: u64,
    memory_max: usize,
    state: Mutex<State<T>>,
}

struct State<T> {
    chunks: Vec<(T, Held)>,
    memory_bytes: usize,
    file_bytes: u64,
    sealed: u32,
}

/// The place of the bytes of a chunk that was set aside.
pub struct Held(Place);

enum Place {
    Memory(Vec<u8>),
    File { offset: u64, len: usize, number: u32 },
}

impl<T> Spool<T> {
    /// A spool that keeps up to `memory_max` bytes in memory. Its file lies in `dir`, but has no name there, so nothing stays after a
    /// crash. If no file can be made, the spool is full when its memory is. Then chunks are stored at once, and writers of the database
    /// wait for that.
    pub fn new(dir: &Path, memory_max: usize) -> Result<Self> {
        let Ok(file) = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir)) else {
            return Ok(Spool::in_memory(memory_max));
        };
        let keys = Keys::encrypted(RepositoryId(random_salt()?), &random_salt()?);
        let header = ObjectHeader { kind: Kind::Pack, cipher: Cipher::Aes256Gcm, salt: random_salt()? };
        let sealer = keys.sealer(&header).map_err(|m| m.of("the spool"))?;
        Ok(Spool { file: Some((file, sealer)), ..Spool::in_memory(memory_max) })
    }

    /// A spool without a file. It is full when its memory is.
    pub fn in_memory(memory_max: usize) -> Self {
        let state = State { chunks: Vec::new(), memory_bytes: 0, file_bytes: 0, sealed: 0 };
        Spool { file: None, file_max: SPOOL_MAX, memory_max, state: Mutex::new(state) }
    }

    /// The same spool, with at most `file_max` bytes in its file.
    pub fn with_file_max(self, file_max: u64) -> Self {
        Spool { file_max, ..self }
    }

    /// Whether it has a file, and so takes more than fits in memory.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Sets a chunk aside. `false` if the spool is full: then the chunk must be stored at once.
    pub fn put(&self, chunk: T, plain: &[u8]) -> Result<bool> {
        let (offset, len, number) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            // Memory first, because it costs no sealing and no disk.
            if state.memory_bytes + plain.len() <= self.memory_max {
                state.memory_bytes += plain.len();
                state.chunks.push((chunk, Held(Place::Memory(plain.to_vec()))));
                return Ok(true);
            }
            let len = plain.len() + Cipher::Aes256Gcm.overhead();
            if self.file.is_none() || state.file_bytes + u64_from(len) > self.file_max {
                return Ok(false);
            }
            // The place in the file is reserved under the lock. Sealing and writing, which take longer, are done without it.
            let place = (state.file_bytes, len, state.sealed);
            state.file_bytes += u64_from(len);
            // Numbers are never used again, also not after a rewind: two texts sealed with one key and number would betray each other.
            state.sealed += 1;
            place
        };
        let Some((file, sealer)) = &self.file else { return Ok(false) };
        let mut sealed = plain.to_vec();
        sealer.seal(number, &mut sealed).map_err(|m: Malformed| m.of("the spool"))?;
        if file.write_all_at(&sealed, offset).is_err() {
            // A full disk is not an error here: the chunk is stored at once instead.
            return Ok(false);
        }
        let held = Held(Place::File { offset, len, number });
        self.state.lock().unwrap_or_else(PoisonError::into_inner).chunks.push((chunk, held));
        Ok(true)
    }

    /// Whether nothing is set aside.
    pub fn is_empty(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).chunks.is_empty()
    }

    /// Takes all chunks out, in about the order in which they were put. Their bytes in the file stay until a chunk is put after [`Spool::rewind`].
    pub fn take_all(&self) -> Vec<(T, Held)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.memory_bytes = 0;
        std::mem::take(&mut state.chunks)
    }

    /// Uses the file again from its start. Chunks that were taken out can then not be read any more.
    pub fn rewind(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).file_bytes = 0;
    }

    /// The plain bytes of a chunk.
    pub fn read(&self, held: Held) -> Result<Vec<u8>> {
        match held.0 {
            Place::Memory(plain) => Ok(plain),
            Place::File { .. } => self.read_again(&held),
        }
    }

    /// The plain bytes of a chunk, which may be read again later.
    pub fn read_again(&self, held: &Held) -> Result<Vec<u8>> {
        match held.0 {
            Place::Memory(ref plain) => Ok(plain.clone()),
            Place::File { offset, len, number } => {
                let (file, sealer) = self.file.as_ref().ok_or_else(|| Error::bug("a chunk lies in a spool without a file"))?;
                let mut plain = vec![0; len];
                file.read_exact_at(&mut plain, offset).map_err(|e| Error::backend("read", "the spool", e))?;
                sealer.open(number, &mut plain).map_err(|m: Malformed| m.of("the spool"))?;
                Ok(plain)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_set_aside_beyond_memory() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path(), 16 << 20).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        let chunk = |n: u32| n.to_le_bytes().repeat(16 << 10);
        (0..800).for_each(|n| assert!(spool.put(n, &chunk(n)).unwrap()));
        let mut back: Vec<u32> = Vec::new();
        for (n, held) in spool.take_all() {
            assert!(spool.read(held).unwrap() == chunk(n));
            back.push(n);
        }
        back.sort_unstable();
        assert_eq!(back, (0..800).collect::<Vec<_>>());
    }
}
