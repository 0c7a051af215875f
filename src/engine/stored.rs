//! How an engine reads a snapshot: the trait that `ops` implements over the store. So engines do not depend on the
//! store.

use std::io::BufRead;

use crate::error::{Error, Result};
use crate::recorded::{EntryKind, SourceKind, TableContent};

/// One stream of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub name: Vec<u8>,
    /// Its kind.
    pub kind: EntryKind,
    /// Its length in bytes.
    pub len: u64,
    /// The tables of a database at the capture, if they were recorded.
    pub tables: Vec<TableContent>,
}

/// The streams of one snapshot.
pub trait Stored: Send + Sync {
    /// The kind of the snapshot's source.
    fn kind(&self) -> &SourceKind;

    /// All its streams, in the order of the listing.
    fn streams(&self) -> &[StreamInfo];

    /// The facts of its record, by name.
    fn facts(&self) -> &[(String, String)];

    /// Whether the repository is encrypted, so that only someone with the passphrase can have changed the snapshot.
    fn is_sealed(&self) -> bool;

    /// The bytes of a stream from this offset on. Every byte is verified. A read error contains an [`Error`]
    /// (`io::Error::downcast`).
    ///
    /// # Errors
    /// [`Error::NoSuch`] if there is no such stream; else as reading the repository.
    fn open(&self, name: &[u8], offset: u64) -> Result<Box<dyn BufRead + '_>>;
}

/// The stream with this name.
pub fn find<'s>(stored: &'s dyn Stored, name: &[u8]) -> Option<&'s StreamInfo> {
    stored.streams().iter().find(|stream| stream.name == name)
}

/// Reads a short stream into memory.
///
/// # Errors
/// [`Error::Corrupt`] if it has more than `len_max` bytes, which no writer stores. Else as [`Stored::open`].
pub(in crate::engine) fn read_all(stored: &dyn Stored, stream: &StreamInfo, len_max: u64) -> Result<Vec<u8>> {
    let name = String::from_utf8_lossy(&stream.name);
    // Before anything is allocated: the length comes from a record.
    if stream.len > len_max {
        return Err(Error::corrupt(name, format!("it has {} bytes, and at most {len_max} are read", stream.len)));
    }
    let mut bytes = Vec::new();
    let mut input = stored.open(&stream.name, 0)?;
    std::io::Read::read_to_end(&mut input, &mut bytes).map_err(|e| error_in(e, &name))?;
    Ok(bytes)
}

/// The [`Error`] inside a read error of a stored stream.
pub(in crate::engine) fn error_in(e: std::io::Error, name: &str) -> Error {
    e.downcast::<Error>().unwrap_or_else(|e| Error::source(name, format!("cannot be read: {e}")))
}
