//! Makes and recognizes the names of a dump's streams.
//!
//! Guarantee: a database's name becomes one part of a path, without `/` and without a dot at its start. Different
//! databases have different names, because `%` is escaped, too. Snapshots store these names, so they must not change.

use super::archive::TOC;

/// The end of the name of a dump in the custom format.
pub const ARCHIVE_SUFFIX: &str = ".pgdump";
/// The text between the database's name and the file's name, for dumps in the directory format.
pub const DIRECTORY_INFIX: &str = ".pgdir/";

/// The database's part of a stream's name, if the stream belongs to a dump.
pub fn dumped_database(name: &[u8]) -> Option<&[u8]> {
    let archived = name.strip_suffix(ARCHIVE_SUFFIX.as_bytes());
    archived.or_else(|| split_directory(name).map(|(database, _)| database))
}

/// Whether this is a dump in the custom format, or the table of contents of one in the directory format. Each snapshot
/// of a database has exactly one.
pub fn is_dump(name: &[u8]) -> bool {
    name.ends_with(ARCHIVE_SUFFIX.as_bytes()) || split_directory(name).is_some_and(|(_, file)| file == TOC.as_bytes())
}

/// The database's part and the file's part of a stream's name, if it belongs to a dump in the directory format.
pub fn split_directory(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let infix = DIRECTORY_INFIX.as_bytes();
    // The database's part has no `/`: `stream_name` escapes it.
    let end = name.iter().position(|byte| *byte == b'/')?;
    let (dir, file) = name.split_at_checked(end + 1)?;
    Some((dir.strip_suffix(infix)?, file))
}

/// A database's name as a part of a stream's name. A `/` and a dot at the start are escaped, since the stream becomes a
/// file in an export.
pub(super) fn stream_name(database: &str) -> String {
    let plain = database.replace('%', "%25").replace('/', "%2F");
    match plain.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => plain,
    }
}
