//! Temporary files beside a destination, into which the new bytes are written before they take its name.
//!
//! Guarantee: only the owner can read one until its attributes are set, and it is removed if it is not put in place.
//! Free space is checked and reserved before the first byte is written.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::target::{Named, Target, failed};
use super::{Fill, Placement};
use crate::error::{Error, Result};
use crate::fs::disk::Disk;
use crate::id::to_hex;

/// Free space that must remain: for directory entries and the file system's own structures.
const SPACE_MARGIN_BYTES: u64 = 1 << 20;

/// A file beside its destination, with a hidden name. Dropping it removes it, unless it was put in place.
pub(in crate::engine) struct Temp<'a> {
    disk: &'a dyn Disk,
    pub place: Named,
    pub file: File,
    placed: bool,
}

impl<'a> Temp<'a> {
    /// An empty one that only its owner can read.
    pub fn create(disk: &'a dyn Disk, target: &Target) -> Result<Self> {
        let place = target.beside(&hidden_name(target)?)?;
        match disk.create_new(place.held(), 0o600) {
            Ok(file) => Ok(Temp { disk, place, file, placed: false }),
            Err(e) => Err(failed(&target.path, "make a temporary file beside it", e)),
        }
    }

    /// Makes its bytes and attributes durable.
    pub fn sync(&self) -> Result<()> {
        self.disk.sync_file(&self.file, self.place.held()).map_err(|e| failed(&self.place.path, "make it durable", e))
    }

    /// Gives it its name and replaces the file that has that name. The caller syncs the directory.
    pub fn rename(mut self, to: &Named) -> io::Result<()> {
        self.disk.rename(self.place.held(), to.held())?;
        self.placed = true;
        Ok(())
    }

    /// Gives it a name that no file has. If one has it, the error is of kind `AlreadyExists`.
    pub fn rename_new(&mut self, to: &Named) -> io::Result<()> {
        rename_new(self.disk, &self.place, to)?;
        self.placed = true;
        Ok(())
    }
}

/// Gives a file a name that no file has. If the system or the file system has no such call, this is a plain rename: all
/// callers have just seen that the name is free.
pub(in crate::engine) fn rename_new(disk: &dyn Disk, from: &Named, to: &Named) -> io::Result<()> {
    let (from, to) = (from.held(), to.held());
    match disk.rename_new(from, to) {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => disk.rename(from, to),
        outcome => outcome,
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.placed {
            // If it stays it does no harm. The caller reports the error that has led here.
            let _ = self.disk.remove_file(self.place.held());
        }
    }
}

impl<'a> Placement<'a> {
    /// Fails if so many bytes do not fit into a directory. The directory may not exist yet.
    ///
    /// # Errors
    /// [`Error::Destination`] if its file system, or that of the nearest existing directory above, does not have that
    /// much free space.
    pub fn refuse_if_full(&self, dir: &Path, needed_bytes: u64) -> Result<()> {
        let there =
            dir.ancestors().map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above }).find(|above| above.exists());
        there.map_or(Ok(()), |there| check_free_space_in(there, dir, needed_bytes))
    }

    /// Writes a new file of `len_bytes` bytes beside the target. `holes` of these bytes take no space. It is not
    /// durable yet. Free space is checked first, also for `extra_bytes` that the caller will need in the same file
    /// system.
    pub(in crate::engine) fn write_temp(
        &self,
        target: &Target,
        len_bytes: u64,
        holes: u64,
        extra_bytes: u64,
        fill: &Fill<'_>,
    ) -> Result<Temp<'a>> {
        check_free_space(target, len_bytes.saturating_sub(holes).saturating_add(extra_bytes))?;
        let temp = Temp::create(self.disk, target)?;
        reserve(&temp.file, target, len_bytes, holes)?;
        fill(&temp.file)?;
        if self.monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let written = temp.file.metadata().map_err(|e| failed(&temp.place.path, "read its size", e))?.len();
        if written != len_bytes {
            return Err(Error::destination(&temp.place.path, format!("{written} bytes were written instead of {len_bytes}")));
        }
        Ok(temp)
    }
}

/// A unique hidden name beside the target, with 64 random bits.
pub(in crate::engine) fn hidden_name(target: &Target) -> Result<OsString> {
    Ok(target.hidden(&format!(".icecore-restore-{}", to_hex(&random_number(&target.path)?.to_be_bytes()))))
}

fn random_number(path: &Path) -> Result<u64> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| failed(path, "get a random name", io::Error::other(e.to_string())))?;
    Ok(u64::from_be_bytes(random))
}

/// Hidden names for many files: a random number, then the numbers after it.
pub(in crate::engine) struct HiddenNames(AtomicU64);

impl HiddenNames {
    pub fn new(root: &Path) -> Result<Self> {
        random_number(root).map(|first| HiddenNames(AtomicU64::new(first)))
    }

    /// A unique hidden name beside the target.
    pub fn beside(&self, target: &Target) -> OsString {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        target.hidden(&format!(".icecore-restore-{}", to_hex(&number.to_be_bytes())))
    }
}

/// Fails early if the file system does not have that much free space.
fn check_free_space(target: &Target, needed: u64) -> Result<()> {
    check_free_space_in(target.open_dir()?.itself(), &target.path, needed)
}

fn check_free_space_in(dir: &Path, path: &Path, needed: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| failed(path, "ask for free space", e.into()))?;
    // Some virtual file systems report no sizes. There, writing fails if they are full.
    if stat.f_blocks == 0 {
        return Ok(());
    }
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed.saturating_add(SPACE_MARGIN_BYTES) {
        let detail = format!(
            "not enough free space: {needed} bytes are needed (and {SPACE_MARGIN_BYTES} to spare), {free} are free; nothing was changed"
        );
        return Err(Error::destination(path, detail));
    }
    Ok(())
}

/// Reserves the space before the first byte is written, if the file system can do that. A file with holes gets its
/// space as it is written.
fn reserve(file: &File, target: &Target, len_bytes: u64, holes: u64) -> Result<()> {
    if len_bytes == 0 {
        return Ok(());
    }
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    if holes == 0 {
        take_space(file, target, len_bytes)?;
    }
    file.set_len(len_bytes).map_err(|e| failed(&target.path, &format!("make a file of {len_bytes} bytes for it"), e))
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn take_space(file: &File, target: &Target, len_bytes: u64) -> Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len_bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => Ok(()),
        Err(e) => Err(failed(&target.path, &format!("reserve {len_bytes} bytes for it"), e.into())),
    }
}
