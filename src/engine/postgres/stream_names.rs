//! Names of the streams of a dump.

use super::archive::TOC;

/// What the name of a dump ends with that is an archive.
pub const ARCHIVE_SUFFIX: &str = ".pgdump";
/// What stands in the names of the files of a dump that is a directory, after the database's name.
pub const DIRECTORY_INFIX: &str = ".pgdir/";

/// The database's part of a stream's name, if it belongs to a dump.
pub fn dumped_database(name: &[u8]) -> Option<&[u8]> {
    let archived = name.strip_suffix(ARCHIVE_SUFFIX.as_bytes());
    archived.or_else(|| split_directory(name).map(|(database, _)| database))
}

/// Whether this is a dump, or the table of contents of one that is a directory: there is one in each snapshot of a database.
pub fn is_dump(name: &[u8]) -> bool {
    name.ends_with(ARCHIVE_SUFFIX.as_bytes()) || split_directory(name).is_some_and(|(_, file)| file == TOC.as_bytes())
}

/// The database's part and the file's, if it belongs to a dump that is a directory.
pub fn split_directory(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let infix = DIRECTORY_INFIX.as_bytes();
    // In the database's part there is no `/`.
    let end = name.iter().position(|byte| *byte == b'/')?;
    let (dir, file) = name.split_at_checked(end + 1)?;
    Some((dir.strip_suffix(infix)?, file))
}

/// A database's name as a part of a stream's, which may hold no `/` and not begin with a dot.
pub(super) fn stream_name(database: &str) -> String {
    let plain = database.replace('%', "%25").replace('/', "%2F");
    match plain.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => plain,
    }
}
