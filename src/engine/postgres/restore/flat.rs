//! Compares a dump that is a plain file with its line in the `checksums.txt` beside it, as `icecore export` writes one.
//!
//! Guarantee: a file that differs from its checksum is refused before anything is changed. Without a line for the file
//! nothing is compared, and the caller warns. A pipe or device in place of `checksums.txt` is refused.
//! Relies on the caller to notice if the file changes later.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fs::beneath;
use crate::fs::sha256sums::{self as sums, CHECKSUMS_LEN_MAX, CHECKSUMS_NAME};
use crate::progress::Monitor;

/// Compares a file with its recorded checksum. `false` if none is recorded; a file that differs is an error.
pub(super) fn is_as_recorded(path: &Path, file: &File, len: u64, monitor: &dyn Monitor) -> Result<bool> {
    let list = path.with_file_name(CHECKSUMS_NAME);
    let unreadable = |e: io::Error| Error::source(&list, format!("cannot be read: {e}"));
    // `open_file` refuses FIFOs and devices: another user who may write beside the dump could put one there.
    let mut text = Vec::new();
    match beneath::open_file(&list) {
        Ok(file) => file.take(CHECKSUMS_LEN_MAX + 1).read_to_end(&mut text).map_err(unreadable)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(unreadable(e)),
    };
    if u64::try_from(text.len()).is_ok_and(|len| len > CHECKSUMS_LEN_MAX) {
        return Err(Error::source(&list, format!("is larger than {CHECKSUMS_LEN_MAX} bytes")));
    }
    let wrong = |line| {
        Error::corrupt(list.display().to_string(), format!("line {line} is not a checksum as sha256sum writes it; nothing was changed"))
    };
    let sums = sums::parse(&text).map_err(wrong)?;
    let recorded = path.file_name().and_then(|name| sums.into_iter().find(|(known, _)| known == name.as_bytes()));
    let Some((_, recorded)) = recorded else { return Ok(false) };
    monitor.phase("verifying", Some(len));
    let (_, found) = sums::read_hashed(file, monitor, &mut |_, _| Ok(())).map_err(|error| error.of(path))?;
    match found == recorded {
        true => Ok(true),
        false => Err(Error::corrupt(
            path.display().to_string(),
            format!("it does not have the checksum in {CHECKSUMS_NAME}; nothing was changed"),
        )),
    }
}
