//! Writes files that others may read at any time.
//! A file is complete under its name, or not there; and it is durable when `write` returns. Links to files are
//! replaced, not followed. Directories, devices and pipes are never replaced.

use std::fs::{Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use icecore::fs::disk::{Disk, RealDisk};

/// Writes a file under a name that nobody can guess, then gives it its own. A link of that name is replaced, not followed. Devices and pipes are never
/// replaced: root would take them from everybody. `mode` is subject to the umask.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if path.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no file"));
    }
    let is_file_or_link =
        |meta: &Metadata| meta.is_file() || meta.is_symlink() && std::fs::metadata(path).map_or(true, |target| target.is_file());
    if std::fs::symlink_metadata(path).is_ok_and(|meta| !is_file_or_link(&meta)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file, and is not replaced by one"));
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Programs that read the directory select names by their end, or skip hidden files.
    let mut file = tempfile::Builder::new()
        .prefix(".icecore-")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(above)
        .map_err(without_path)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|failed| failed.error)?;
    RealDisk.sync_dir(above)
}

/// The error of the system. The one of `tempfile` names the temporary file, and callers name the file themselves.
fn without_path(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|wrapped| wrapped.source()).and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.and_then(io::Error::raw_os_error).map_or(error, io::Error::from_raw_os_error)
}
