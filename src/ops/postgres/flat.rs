//! A file beside its `checksums.txt`, as `sha256sum` of GNU coreutils writes it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aws_lc_rs::digest;

use crate::error::{Error, Result};
use crate::id::to_hex;
use crate::progress::Monitor;

/// The file with the checksums.
const CHECKSUMS_NAME: &str = "checksums.txt";
/// Most bytes of it that are read.
const CHECKSUMS_LEN_MAX: u64 = 64 << 20;
/// Bytes that are hashed at once.
const BLOCK_LEN: usize = 1 << 20;

/// Whether there is a checksum for this file; then it holds.
pub(super) fn is_as_recorded(path: &Path, file: &File, len: u64, monitor: &dyn Monitor) -> Result<bool> {
    let list = path.with_file_name(CHECKSUMS_NAME);
    let text = match std::fs::metadata(&list) {
        Ok(found) if found.len() > CHECKSUMS_LEN_MAX => {
            return Err(Error::source(&list, format!("is larger than {CHECKSUMS_LEN_MAX} bytes")));
        }
        Ok(_) => std::fs::read(&list).map_err(|e| Error::source(&list, format!("cannot be read: {e}")))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::source(&list, format!("cannot be read: {e}"))),
    };
    let Some(recorded) = path.file_name().and_then(|name| recorded(&text, name)) else { return Ok(false) };
    monitor.phase("verifying", Some(len));
    match sha256(path, file, monitor)?.eq_ignore_ascii_case(&recorded) {
        true => Ok(true),
        false => Err(Error::corrupt(path.display().to_string(), format!("it is not what {CHECKSUMS_NAME} says; nothing was changed"))),
    }
}

/// The digits of the checksum of a file.
fn recorded(text: &[u8], name: &OsStr) -> Option<String> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // Names with a backslash or a line end are escaped, and their lines begin with a backslash.
        let (is_escaped, line) = line.strip_prefix(b"\\").map_or((false, line), |rest| (true, rest));
        let (digits, rest) = line.split_at_checked(64)?;
        let named = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"))?;
        let named = named.strip_prefix(b"./").unwrap_or(named);
        let matches = if is_escaped { unescape(named)? == name.as_bytes() } else { named == name.as_bytes() };
        matches.then(|| String::from_utf8_lossy(digits).into_owned())
    })
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(plain)
}

fn sha256(path: &Path, file: &File, monitor: &dyn Monitor) -> Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut buffer, mut offset) = (vec![0; BLOCK_LEN], 0);
    loop {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(to_hex(context.finish().as_ref())),
            Ok(got) => {
                context.update(buffer.get(..got).unwrap_or_default());
                offset += got as u64;
                monitor.advance(got as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::source(path, format!("cannot be read: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_name() {
        let (one, two) = ("0a".repeat(32), "0B".repeat(32));
        let text = format!("{one}  other\n{two} *./db.pgdump\r\n\\{one}  a\\\\b\nx\n");
        assert_eq!(recorded(text.as_bytes(), OsStr::new("db.pgdump")), Some(two));
        assert_eq!(recorded(text.as_bytes(), OsStr::new("a\\b")), Some(one));
        assert_eq!(recorded(text.as_bytes(), OsStr::new("b")), None);
    }
}
