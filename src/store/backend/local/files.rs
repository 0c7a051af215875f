//! Looking at the files of a repository: the entries of a directory, the bytes of a file. Anything may have the name of an object: a link, a pipe, a
//! directory. Only regular files count, and nothing here waits for or follows anything else.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::names::{parse_name, shard_name};
use super::{failed, is_absent};
use crate::error::Result;
use crate::store::backend::{ObjectInfo, ObjectKey, ObjectKind};

/// What to find out about a directory entry besides its name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Look {
    /// Whether it is a file. Most file systems say this with the name. Sizes are 0.
    Type,
    /// Its size, too.
    Size,
}

/// The objects of one kind among the entries of a directory.
pub(super) fn objects_of(
    directory: PathBuf,
    entries: fs::ReadDir,
    kind: ObjectKind,
    look: Look,
) -> impl Iterator<Item = Result<ObjectInfo>> {
    entries.filter_map(move |entry| {
        let found = entry.and_then(|entry| object_of(&directory, &entry, kind, look)).transpose()?;
        Some(found.map_err(failed("list", &directory)))
    })
}

/// The object of a directory entry. `None` for a foreign entry, and for one that has just been removed.
fn object_of(directory: &Path, entry: &fs::DirEntry, kind: ObjectKind, look: Look) -> io::Result<Option<ObjectInfo>> {
    let Some(key) = entry.file_name().to_str().and_then(|name| parse_name(kind, directory, name)) else { return Ok(None) };
    // A pack in the directory of another first byte would be listed, but never found by its name.
    if let ObjectKey::Pack(id) = key
        && directory.file_name() != Some(shard_name(&id).as_ref())
    {
        return Ok(None);
    }
    let found = match look {
        Look::Type => entry.file_type().map(|found| (found.is_file(), 0)),
        Look::Size => entry.metadata().map(|found| (found.is_file(), found.len())),
    };
    match found {
        Ok((is_file, size)) => Ok(is_file.then_some(ObjectInfo { key, size })),
        Err(cause) if is_absent(&cause) => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn no_file() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "is not a regular file")
}

/// Finds out why a file could not be opened. Anything but a regular file in the place of an object is damage, also a link or a socket. If a
/// directory on the way is not a directory, the object is missing.
fn why_not_opened(path: &Path, cause: io::Error) -> io::Error {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => no_file(),
        Err(absent) if is_absent(&absent) => ErrorKind::NotFound.into(),
        _ => cause,
    }
}

/// Reads a file or a range of it. Memory is taken only after the range is known to lie in the file.
pub(super) fn read_file(path: &Path, range: Option<Range<u64>>) -> io::Result<Vec<u8>> {
    // Anything may have the name of an object. Opening a pipe must not wait for its writer, and links are not followed.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let opened = File::options().read(true).custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?).open(path);
    let file = opened.map_err(|cause| why_not_opened(path, cause))?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(no_file());
    }
    let range = range.unwrap_or(0..found.len());
    let Some(wanted) = range.end.checked_sub(range.start) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the range ends before it starts"));
    };
    if range.end > found.len() {
        let detail = format!("bytes {} to {} were asked for, but the file has {} bytes", range.start, range.end, found.len());
        return Err(io::Error::new(ErrorKind::UnexpectedEof, detail));
    }
    let wanted = usize::try_from(wanted).map_err(|_| ErrorKind::OutOfMemory)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(wanted).map_err(|_| ErrorKind::OutOfMemory)?;
    let mut offset = range.start;
    while bytes.len() < wanted {
        let read = rustix::io::retry_on_intr(|| rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut bytes), offset))?;
        // The file was cut while it was read.
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // At most `wanted`, which came from 64 bits.
        offset += read as u64;
    }
    bytes.truncate(wanted);
    Ok(bytes)
}
