//! Finds a part of a snapshot by name: a directory with everything below it, or one stream.
//!
//! A file can have several names (hard links): the first is the stream, and the others refer to it. A part of a
//! snapshot must be complete by itself, so a link out of it is replaced by the stream.

use std::collections::HashMap;

use super::near::near;
use crate::error::{Error, Result};
use crate::recorded::{EntryKind, FileMeta};
use crate::store::format::snapshot::StreamEntry;

/// A directory of a snapshot as a listing of its own.
#[derive(Debug)]
pub(super) struct Subtree {
    /// The attributes of the directory, if they were recorded.
    pub meta: Option<FileMeta>,
    /// The entries below it, with names relative to it. A file whose first name is outside becomes a stream here.
    pub entries: Vec<StreamEntry>,
}

/// A name as a listing has it. Users may add slashes at the end to say that they mean a directory.
pub(super) fn trimmed(name: &[u8]) -> &[u8] {
    let len = name.iter().rposition(|&c| c != b'/').map_or(0, |last| last + 1);
    name.get(..len).unwrap_or_default()
}

/// Whether this is the name of a directory: one with an entry, or one that only the names below it imply.
pub fn is_directory(listing: &[StreamEntry], name: &[u8]) -> bool {
    let name = trimmed(name);
    !name.is_empty()
        && listing.iter().any(|entry| entry.name == name && entry.kind == EntryKind::Directory || below(&entry.name, name).is_some())
}

/// The directory of this name as a listing of its own; `None` if there is none.
pub(super) fn subtree(listing: &[StreamEntry], name: &[u8]) -> Option<Subtree> {
    let name = trimmed(name);
    if !is_directory(listing, name) {
        return None;
    }
    let meta = listing.iter().find(|entry| entry.name == name).and_then(|entry| entry.meta.clone());
    let mut entries: Vec<StreamEntry> = Vec::new();
    // For each file whose first name is outside: its first name inside, to which further ones refer.
    let mut moved: HashMap<&[u8], Vec<u8>> = HashMap::new();
    for entry in listing {
        let Some(short) = below(&entry.name, name).map(<[u8]>::to_vec) else { continue };
        // A link stays a link as long as some name inside has the bytes.
        let entry = match &entry.kind {
            EntryKind::HardLink(other) => match (below(other, name), moved.get(other.as_slice())) {
                (Some(here), _) => StreamEntry { kind: EntryKind::HardLink(here.to_vec()), ..entry.clone() },
                (None, Some(first)) => StreamEntry { kind: EntryKind::HardLink(first.clone()), ..entry.clone() },
                // The first name inside. The entry outside has the bytes.
                (None, None) => {
                    moved.insert(other, short.clone());
                    listing.iter().find(|first| first.name == *other).unwrap_or(entry).clone()
                }
            },
            _ => entry.clone(),
        };
        entries.push(StreamEntry { name: short, ..entry });
    }
    Some(Subtree { meta, entries })
}

/// The entry with the bytes of this name. For a further name of a file that is the entry of its first name.
///
/// # Errors
/// [`Error::NoSuch`] if there is no such name; [`Error::InvalidArgument`] if it has no bytes: a directory or a
/// symbolic link.
pub(super) fn with_bytes<'l>(listing: &'l [StreamEntry], name: &[u8]) -> Result<&'l StreamEntry> {
    let shown = String::from_utf8_lossy(name);
    let find = |name: &[u8]| listing.iter().find(|entry| entry.name == name);
    let found = find(name).and_then(|entry| match &entry.kind {
        EntryKind::HardLink(first) => find(first),
        _ => Some(entry),
    });
    match found.map(|entry| (&entry.kind, entry)) {
        Some((EntryKind::Sqlite(_) | EntryKind::File, entry)) => Ok(entry),
        Some((EntryKind::Symlink(target), _)) => {
            let target = String::from_utf8_lossy(target);
            Err(Error::InvalidArgument(format!("{shown} is a symbolic link to {target}, which has no bytes of its own")))
        }
        _ if is_directory(listing, name) => {
            Err(Error::InvalidArgument(format!("{shown} is a directory; `restore SNAP {shown}=DIR` gives back all that is in it")))
        }
        _ => {
            let near = near(name, listing.iter().map(|entry| entry.name.as_slice()), "it has");
            Err(Error::NoSuch { detail: format!("the snapshot has no stream `{shown}`; {near}") })
        }
    }
}

/// The rest of a name after a directory that it is below.
fn below<'n>(name: &'n [u8], dir: &[u8]) -> Option<&'n [u8]> {
    name.strip_prefix(dir)?.strip_prefix(b"/").filter(|rest| !rest.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::format::snapshot::StreamRoot;

    fn entry(name: &str, kind: EntryKind) -> StreamEntry {
        let root = StreamRoot { len: 0, levels: 0, top: None };
        StreamEntry { name: name.into(), kind, root, meta: None, tables: Vec::new() }
    }

    #[test]
    fn links_out_of_a_directory_get_their_bytes() {
        let link = |to: &str| EntryKind::HardLink(to.into());
        let listing = [
            entry("a/first", EntryKind::File),
            entry("ab", EntryKind::File),
            entry("b", EntryKind::Directory),
            entry("b/1", link("a/first")),
            entry("b/2", link("a/first")),
            entry("b/own", EntryKind::File),
            entry("b/sub/3", link("b/own")),
        ];
        let names = |name: &str| -> Option<Vec<(String, EntryKind)>> {
            let entries = subtree(&listing, name.as_bytes())?.entries.into_iter();
            Some(entries.map(|entry| (String::from_utf8(entry.name).unwrap(), entry.kind)).collect())
        };
        let own = |name: &str, kind| (name.to_owned(), kind);
        let expected = vec![own("1", EntryKind::File), own("2", link("1")), own("own", EntryKind::File), own("sub/3", link("own"))];
        assert_eq!(names("b"), Some(expected.clone()));
        assert_eq!(names("b//"), Some(expected));
        assert_eq!(names("a"), Some(vec![own("first", EntryKind::File)]), "without an entry of its own");
        for none in ["ab", "", "/", "c", "b/1", "b/su"] {
            assert_eq!(names(none), None, "{none}");
        }
        assert_eq!(with_bytes(&listing, b"b/2").unwrap().name, b"a/first");
        assert!(matches!(with_bytes(&listing, b"b/sub"), Err(Error::InvalidArgument(text)) if text.contains("directory")));
        assert!(matches!(with_bytes(&listing, b"b/x"), Err(Error::NoSuch { .. })));
    }
}
