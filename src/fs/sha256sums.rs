//! `checksums.txt`: SHA-256 of each file, one line each, as `sha256sum` of GNU coreutils writes and `sha256sum -c` reads it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use aws_lc_rs::digest;

use crate::error::{Error, Result};
use crate::id::to_hex;
use crate::progress::Monitor;

/// The file that has the checksums, in an export's directory.
pub const CHECKSUMS_NAME: &str = "checksums.txt";

/// Longest `checksums.txt` that is read, in bytes: about half a million files.
pub const CHECKSUMS_LEN_MAX: u64 = 64 << 20;

/// Bytes that are read and hashed at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Length and hashes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHash {
    /// Its length in bytes.
    pub len: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// BLAKE3 of its content, without a key.
    pub blake3: [u8; 32],
}

/// Hashes while bytes pass by.
trait Digest {
    fn update(&mut self, bytes: &[u8]);
}

/// SHA-256 alone.
struct Sha256(digest::Context);

impl Digest for Sha256 {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl Sha256 {
    fn new() -> Self {
        Sha256(digest::Context::new(&digest::SHA256))
    }

    fn finish(self) -> [u8; 32] {
        let mut sha256 = [0; 32];
        // SHA-256 has 32 bytes, so both sides have the same length.
        self.0.finish().as_ref().iter().zip(&mut sha256).for_each(|(from, to)| *to = *from);
        sha256
    }
}

/// Both hashes of a file.
struct Both(Sha256, blake3::Hasher);

impl Digest for Both {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
        self.1.update(bytes);
    }
}

/// Reads a file and returns its length and both hashes.
pub(crate) fn hash_file(file: &File, monitor: &dyn Monitor) -> Result<FileHash, ReadError> {
    let mut both = Both(Sha256::new(), blake3::Hasher::new());
    let len = read_through(file, &mut both, monitor, &mut |_, _| Ok(()))?;
    Ok(FileHash { len, sha256: both.0.finish(), blake3: *both.1.finalize().as_bytes() })
}

/// Reads a file, gives each piece with its offset to `each`, and returns its length and SHA-256.
pub(crate) fn read_hashed(
    file: &File,
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<(u64, [u8; 32]), ReadError> {
    let mut sha256 = Sha256::new();
    let len = read_through(file, &mut sha256, monitor, each)?;
    Ok((len, sha256.finish()))
}

/// Reads a file from its start to its end and returns its length.
fn read_through(
    file: &File,
    digest: &mut dyn Digest,
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<u64, ReadError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut len = 0;
    let mut input = file;
    loop {
        if monitor.cancelled() {
            return Err(ReadError::Other(Error::Cancelled));
        }
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(len),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(ReadError::Read(e)),
        };
        let piece = buffer.get(..count).ok_or_else(|| ReadError::Other(Error::bug("more was read than there was room for")))?;
        each(len, piece).map_err(ReadError::Other)?;
        digest.update(piece);
        // usize fits u64 on every platform.
        let count = count as u64;
        len += count;
        monitor.advance(count);
    }
}

/// Why [`read_hashed`] stopped.
pub(crate) enum ReadError {
    /// The file cannot be read.
    Read(io::Error),
    /// `each` failed, or the user has stopped it.
    Other(Error),
}

impl ReadError {
    pub(crate) fn of(self, path: &Path) -> Error {
        match self {
            ReadError::Read(e) => Error::source(path, format_args!("cannot be read: {e}")),
            ReadError::Other(error) => error,
        }
    }
}

/// One line with its newline. As in coreutils, a name with a backslash or a line end is escaped, and then the line
/// begins with a backslash.
pub(crate) fn line(name: &[u8], sha256: &[u8; 32]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\\' => escaped.extend_from_slice(b"\\\\"),
            b'\n' => escaped.extend_from_slice(b"\\n"),
            b'\r' => escaped.extend_from_slice(b"\\r"),
            _ => escaped.push(byte),
        }
    }
    let start: &[u8] = if escaped.len() > name.len() { b"\\" } else { b"" };
    [start, to_hex(sha256).as_bytes(), b"  ", &escaped, b"\n"].concat()
}

/// The name of a file and its SHA-256.
pub(crate) type NamedSum = (Vec<u8>, [u8; 32]);

/// Parses the text of a `checksums.txt`. The error is the number of the first malformed line, counted from 1.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<NamedSum>, usize> {
    let mut sums = Vec::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            sums.push(parse_line(line).ok_or(number + 1)?);
        }
    }
    Ok(sums)
}

fn parse_line(line: &[u8]) -> Option<NamedSum> {
    let (escaped, line) = line.strip_prefix(b"\\").map_or((false, line), |rest| (true, rest));
    let (hex, rest) = line.split_at_checked(64)?;
    let sha256 = data_encoding::HEXLOWER_PERMISSIVE.decode(hex).ok()?.try_into().ok()?;
    // After the checksum come two blanks, or a blank and the `*` of binary mode.
    let name = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *")).filter(|name| !name.is_empty())?;
    let name = if escaped { unescape(name)? } else { name.to_vec() };
    let name = name.strip_prefix(b"./").map(<[u8]>::to_vec).unwrap_or(name);
    Some((name, sha256))
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match (byte, byte == b'\\') {
            (_, true) => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            (byte, false) => byte,
        });
    }
    Some(plain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_coreutils_writes_them() {
        let names: [&[u8]; 5] = [b"memory.db", b"a b", b"a\\b", b"a\nb\r", b"\xff"];
        for name in names {
            let line = line(name, &[0xab; 32]);
            assert_eq!(parse(&line).unwrap(), [(name.to_vec(), [0xab; 32])]);
        }
        assert!(line(b"a\nb", &[1; 32]).starts_with(b"\\0101"));
        let hex = "0C".repeat(32);
        assert_eq!(parse(format!("{hex} *./x\r\n\n").as_bytes()).unwrap(), [(b"x".to_vec(), [12; 32])]);
    }

    #[test]
    fn what_is_no_checksum_is_named() {
        let good = "00".repeat(32) + "  a\n";
        let wrong = [
            "x",
            "00  a",
            &"0g".repeat(32),
            &("00".repeat(32) + " a"),
            &("00".repeat(32) + "  "),
            &("\\".to_owned() + &"00".repeat(32) + "  a\\x"),
        ];
        for text in wrong {
            assert_eq!(parse(format!("{good}{text}\n").as_bytes()), Err(2), "{text:?}");
        }
    }
}
