//! Prefixes of deltas that wait for bases which are not decoded yet. They wait in memory while there is room, then in a file of the caller.
//!
//! After a VACUUM a delta takes its prefix from places all over the old file, so nearly all prefixes wait until the last base is decoded. If they do
//! not fit in memory and there is no file, the work is done in parts, and each part decodes most of the bases again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FallocateFlags;

use crate::error::{Error, Result};
use crate::store::repo::u64_from;

/// Bytes of prefixes that stay in memory even if there is a file.
const MEMORY_MAX: usize = 24 << 20;
/// The most bytes that are in the file at the same time.
const SPILL_MAX: u64 = 1 << 30;

/// Scratch space after the end of the restored file. It has the file's permissions, so plain bytes are as protected there as the result.
#[derive(Debug, Clone, Copy)]
pub struct Spill<'f> {
    file: &'f File,
    end: u64,
}

impl<'f> Spill<'f> {
    /// Scratch space from `end` on. After each use the file is cut to `end` bytes.
    pub fn past(file: &'f File, end: u64) -> Self {
        Spill { file, end }
    }

    /// Reserves so many bytes, and says whether there is room. Writing into reserved space cannot fail because the file system is full.
    pub(super) fn reserve(&self, bytes: u64) -> Result<bool> {
        if bytes > SPILL_MAX {
            return Ok(false);
        }
        let reserved = rustix::fs::fallocate(self.file, FallocateFlags::empty(), self.end, bytes).is_ok();
        if !reserved {
            self.give_back()?;
        }
        Ok(reserved)
    }

    pub(super) fn give_back(&self) -> Result<()> {
        self.file.set_len(self.end).map_err(failed)
    }
}

/// Where prefixes wait.
#[derive(Default)]
pub(super) struct Waiting<'f> {
    spill: Option<Spill<'f>>,
    /// Bytes in memory. They are counted only if there is a file.
    in_memory: AtomicUsize,
    /// Bytes in the file.
    in_file: AtomicU64,
}

/// A prefix, as far as it is known.
#[derive(Default)]
pub(super) enum Prefix {
    #[default]
    Empty,
    /// All of it came from one base. The delta is decoded next.
    Whole(Vec<u8>),
    /// Some of it is there, in memory.
    Parts(Vec<u8>),
    /// Some of it is in the file, from this place on.
    Spilled(u64),
}

impl<'f> Waiting<'f> {
    pub(super) fn new(spill: Option<Spill<'f>>) -> Self {
        Waiting { spill, ..Waiting::default() }
    }

    /// Puts one part of a prefix of `len` bytes into its place. If a damaged base gives no bytes, the part is left out; the chunk then does not match
    /// its id.
    pub(super) fn put(&self, prefix: &Mutex<Prefix>, len: usize, place: usize, part: &[u8]) -> Result<()> {
        debug_assert!(place + part.len() <= len, "the plan has verified that the part lies in its prefix");
        let mut prefix = prefix.lock().unwrap_or_else(PoisonError::into_inner);
        // The usual case: one base is the whole prefix. It is decoded next and need not be counted.
        if part.len() == len {
            *prefix = Prefix::Whole(part.to_vec());
            return Ok(());
        }
        if matches!(*prefix, Prefix::Empty) {
            *prefix = self.room(len);
        }
        match (&mut *prefix, &self.spill) {
            (Prefix::Parts(bytes), _) => {
                if let Some(to) = bytes.get_mut(place..place + part.len()) {
                    to.copy_from_slice(part);
                }
                Ok(())
            }
            (Prefix::Spilled(at), Some(spill)) => spill.file.write_all_at(part, *at + u64_from(place)).map_err(failed),
            _ => Ok(()),
        }
    }

    fn room(&self, len: usize) -> Prefix {
        // Without a file the caller has bounded the memory before the work began.
        let Some(spill) = &self.spill else { return Prefix::Parts(vec![0; len]) };
        if self.in_memory.fetch_add(len, Ordering::Relaxed) + len <= MEMORY_MAX {
            return Prefix::Parts(vec![0; len]);
        }
        // No room in memory: the reservation is taken back, and the prefix gets a range of its own in the file.
        self.in_memory.fetch_sub(len, Ordering::Relaxed);
        Prefix::Spilled(spill.end + self.in_file.fetch_add(u64_from(len), Ordering::Relaxed))
    }

    /// Takes a prefix of `len` bytes out and frees its memory.
    pub(super) fn take(&self, prefix: &Mutex<Prefix>, len: usize) -> Result<Vec<u8>> {
        match (std::mem::take(&mut *prefix.lock().unwrap_or_else(PoisonError::into_inner)), &self.spill) {
            (Prefix::Whole(bytes), _) | (Prefix::Parts(bytes), None) => Ok(bytes),
            (Prefix::Parts(bytes), Some(_)) => {
                self.in_memory.fetch_sub(bytes.len(), Ordering::Relaxed);
                Ok(bytes)
            }
            (Prefix::Spilled(at), Some(spill)) => {
                let mut bytes = vec![0; len];
                spill.file.read_exact_at(&mut bytes, at).map_err(failed)?;
                Ok(bytes)
            }
            (Prefix::Empty | Prefix::Spilled(_), _) => Ok(Vec::new()),
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::backend("use", "the end of the restored file", error)
}
