//! Setting chunks aside while a capture is open, so that writers of the database wait only for reading and hashing.

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

/// Bytes after which the spool takes no more.
const SPOOL_MAX: u64 = 8 << 30;

/// Chunks that are to be stored later, each with what is to be known of it then. What does not fit in memory goes to a nameless file, sealed with a key
/// that is never written down.
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

/// Where the bytes of a chunk are that was set aside.
pub struct Held(Place);

enum Place {
    Memory(Vec<u8>),
    File { offset: u64, len: usize, number: u32 },
}

impl<T> Spool<T> {
    /// A spool that keeps up to `memory_max` bytes in memory. Its file lies in `dir` and has no name there, so that nothing is left of it whatever happens.
    /// Where no file can be, it is full when its memory is: then chunks are stored at once, and who writes to the database waits for that.
    pub fn new(dir: &Path, memory_max: usize) -> Result<Self> {
        let Ok(file) = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir)) else {
            return Ok(Spool::in_memory(memory_max));
        };
        let keys = Keys::encrypted(RepositoryId(random_salt()?), &random_salt()?);
        let header = ObjectHeader { kind: Kind::Pack, cipher: Cipher::Aes256Gcm, salt: random_salt()? };
        let sealer = keys.sealer(&header).map_err(|m| m.of("the spool"))?;
        Ok(Spool { file: Some((file, sealer)), ..Spool::in_memory(memory_max) })
    }

    /// One without a file: it is full when its memory is.
    pub fn in_memory(memory_max: usize) -> Self {
        let state = State { chunks: Vec::new(), memory_bytes: 0, file_bytes: 0, sealed: 0 };
        Spool { file: None, file_max: SPOOL_MAX, memory_max, state: Mutex::new(state) }
    }

    /// The same, that puts at most so many bytes into its file.
    pub fn with_file_max(self, file_max: u64) -> Self {
        Spool { file_max, ..self }
    }

    /// Whether it takes more than fits in memory.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Sets a chunk aside; `false` when the spool is full and the chunk has to be stored at once.
    pub fn put(&self, chunk: T, plain: &[u8]) -> Result<bool> {
        let (offset, len, number) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.memory_bytes + plain.len() <= self.memory_max {
                state.memory_bytes += plain.len();
                state.chunks.push((chunk, Held(Place::Memory(plain.to_vec()))));
                return Ok(true);
            }
            let len = plain.len() + Cipher::Aes256Gcm.overhead();
            if self.file.is_none() || state.file_bytes + u64_from(len) > self.file_max {
                return Ok(false);
            }
            let place = (state.file_bytes, len, state.sealed);
            state.file_bytes += u64_from(len);
            state.sealed += 1;
            place
        };
        let Some((file, sealer)) = &self.file else { return Ok(false) };
        let mut sealed = plain.to_vec();
        sealer.seal(number, &mut sealed).map_err(|m: Malformed| m.of("the spool"))?;
        if file.write_all_at(&sealed, offset).is_err() {
            // A full disk here is no failure: the chunk is stored at once instead.
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

    /// Takes all chunks back, about in the order in which they were put. Their bytes stay until the next chunk is put after [`Spool::rewind`].
    pub fn take_all(&self) -> Vec<(T, Held)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.memory_bytes = 0;
        std::mem::take(&mut state.chunks)
    }

    /// Uses the file again from its start: nothing that was taken is needed any more.
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

    /// The same, where the bytes are needed again later.
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
