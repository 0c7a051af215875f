//! Reads the extended attributes of files and directories, with access control lists.
//!
//! Guarantee: all attributes of a file come from the same file, the one of the given metadata, and are sorted by name.
//! The file is never opened for reading, because closing it would drop SQLite's locks on it in this process.
//! Relies on Linux: on other systems no extended attributes are stored. Values are read through `/proc/self/fd`.

use std::fs::Metadata;
use std::io;
use std::path::Path;

use super::stamp::meta_of;
use crate::recorded::{Attribute, FileMeta};

/// The attributes of a file, with the extended ones. A symbolic link's own extended attributes are not stored.
///
/// The file is not opened for reading: closing it would drop the locks that SQLite holds on it in this process.
///
/// # Errors
/// If the extended attributes cannot be read or are more than a snapshot stores. Then [`narrow`] gives the rest.
pub(crate) fn seen(path: &Path, metadata: &Metadata) -> io::Result<FileMeta> {
    let attributes = match metadata.is_symlink() {
        true => Vec::new(),
        false => read(path, metadata)?,
    };
    Ok(FileMeta { attributes, ..meta_of(metadata) })
}

/// The attributes of a file whose access control list is not known. The mode has only the owner's rights, as the list
/// may give others fewer than the mode says.
pub(crate) fn narrow(metadata: &Metadata) -> FileMeta {
    let meta = meta_of(metadata);
    FileMeta { mode: meta.mode & !0o077, ..meta }
}

#[cfg(target_os = "linux")]
fn read(path: &Path, metadata: &Metadata) -> io::Result<Vec<Attribute>> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{Mode, OFlags, fstat};

    // Most files have none, and then one call is enough.
    if linux::kept_names(path)?.is_empty() {
        return Ok(Vec::new());
    }
    // Through a descriptor, so that all attributes are of one file. It must be the file of `metadata`: the path may
    // lead to another one by now.
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&file)?;
    // The types of these fields differ between architectures; all are unsigned and have at most 64 bits.
    if super::stamp::FileState::of(metadata).id() != (stat.st_dev as u64, stat.st_ino as u64) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "another file took its place"));
    }
    linux::values(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// Other systems have other names and lists. They are not stored.
#[cfg(not(target_os = "linux"))]
fn read(_path: &Path, _metadata: &Metadata) -> io::Result<Vec<Attribute>> {
    Ok(Vec::new())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CString;
    use std::io;
    use std::path::Path;

    use rustix::fs::{getxattr, listxattr, llistxattr};
    use rustix::io::Errno;

    use crate::recorded::{ATTRIBUTE_LEN_MAX, ATTRIBUTES_LEN_MAX, ATTRIBUTES_MAX, Attribute};

    /// The longest list of names (Linux: XATTR_LIST_MAX).
    const LIST_LEN_MAX: usize = 64 << 10;

    /// The first length of the buffer. It is enough for most files.
    const SHORT: usize = 512;

    /// The names of those attributes of a file or link itself that are stored.
    pub(super) fn kept_names(path: &Path) -> io::Result<Vec<CString>> {
        names_in(&match sized(LIST_LEN_MAX, |buffer| llistxattr(path, buffer)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            listed => listed?,
        })
    }

    /// The attributes of a file that are stored, read through the link to its descriptor.
    pub(super) fn values(link: &Path) -> io::Result<Vec<Attribute>> {
        let names = names_in(&sized(LIST_LEN_MAX, |buffer| listxattr(link, buffer))?)?;
        let mut attributes = Vec::with_capacity(names.len());
        let mut bytes = 0;
        for name in names {
            let value = match sized(ATTRIBUTE_LEN_MAX, |buffer| getxattr(link, &name, buffer)) {
                // It was removed after it was listed.
                Err(Errno::NODATA) => continue,
                value => value?,
            };
            bytes += name.as_bytes().len() + value.len();
            attributes.push(Attribute { name: name.into_bytes(), value });
        }
        if attributes.len() > ATTRIBUTES_MAX || bytes > ATTRIBUTES_LEN_MAX {
            let text = format!("{} with {bytes} bytes are more than are stored", attributes.len());
            return Err(io::Error::other(text));
        }
        // Records have them sorted by name.
        attributes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(attributes)
    }

    fn names_in(list: &[u8]) -> io::Result<Vec<CString>> {
        let kept = list.split(|&byte| byte == 0).filter(|name| Attribute::is_kept(name));
        kept.map(|name| CString::new(name).map_err(io::Error::other)).collect()
    }

    /// The bytes that a call writes into a buffer. If the short buffer is not enough, the longest is tried.
    fn sized(longest: usize, call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
        let mut buffer = vec![0; SHORT];
        let len = match call(&mut buffer) {
            Err(Errno::RANGE) => {
                buffer.resize(longest, 0);
                call(&mut buffer)?
            }
            len => len?,
        };
        buffer.truncate(len);
        Ok(buffer)
    }
}
