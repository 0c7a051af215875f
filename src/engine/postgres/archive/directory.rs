//! The directory format of pg_dump (`-Fd -Z0`): a table of contents, `toc.dat`, and a file for each table, as COPY text; for large objects a list and
//! a file each (`pg_backup_directory.c` in PostgreSQL's sources).
//!
//! pg_dump names the files by numbers of the dump, which all change when any object is made. Here they get the names of their tables, in the
//! directory and in its table of contents, so that a table's file has the same name in each dump and whoever looks sees what it is.

use std::collections::HashSet;
use std::io::BufRead;

use super::input::Input;
use super::row_sum::Rows;
use super::toc::{self, Layout};
use super::{Archive, Entry, RowSum, Unreadable, Wanted};

/// Most bytes of a file's name that is made here; the longest that file systems take has 255.
const NAME_LEN_MAX: usize = 200;
/// Hexadecimal digits of a hash in place of the end of a longer one.
const NAME_HASH_DIGITS: usize = 32;

/// Reads a directory's table of contents, which ends where its file does.
///
/// # Errors
/// [`Unreadable`] if it is none, the files are compressed, or two entries have the same one.
pub fn read(input: impl BufRead, wanted: Wanted<'_>) -> Result<Archive, Unreadable> {
    let mut input = Input::new(input);
    let mut archive = toc::read(&mut input, Layout::Directory, wanted)?;
    archive.len = input.offset;
    if input.byte_or_end()?.is_some() {
        return input.malformed("the table of contents goes on after its end");
    }
    let mut seen = HashSet::new();
    match archive.entries.iter().filter_map(|entry| entry.file.as_ref()).find(|file| !seen.insert(*file)) {
        Some(file) => input.malformed(format!("two entries have the file {file}")),
        None => Ok(archive),
    }
}

/// The name that the file with a table's data gets: schema and table with a dot between, and `.dat`. In both `%`, `.`, `/` and control characters are
/// written as `%` and two hexadecimal digits. Of very long names the end is a hash. No number of pg_dump's looks like it.
pub fn table_file(entry: &Entry) -> Option<String> {
    let schema = entry.schema.as_ref().filter(|_| entry.kind == "TABLE DATA")?;
    let name = format!("{}.{}", escape(schema), escape(&entry.name));
    if name.len() <= NAME_LEN_MAX {
        return Some(format!("{name}.dat"));
    }
    let hash = blake3::hash(name.as_bytes()).to_hex();
    let end = (0..=NAME_LEN_MAX - NAME_HASH_DIGITS).rev().find(|end| name.is_char_boundary(*end))?;
    Some(format!("{}~{}.dat", name.get(..end)?, hash.get(..NAME_HASH_DIGITS)?))
}

fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '%' | '.' | '/' | '\0'..='\x1f' | '\x7f' => out.push_str(&format!("%{:02X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// The same table of contents with other names of files, each by its entry's place; nothing else is touched. `None` if the bytes are not those that
/// `archive` was read from.
pub fn rename_files(bytes: &[u8], archive: &Archive, names: &[(usize, String)]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + 64 * names.len());
    let mut done = 0;
    for (index, name) in names {
        let entry = archive.entries.get(*index)?;
        let at = usize::try_from(entry.file_at).ok()?;
        out.extend_from_slice(bytes.get(done..at)?);
        put_string(&mut out, name, archive.widths.0);
        done = at + 1 + usize::from(archive.widths.0) + entry.file.as_ref()?.len();
    }
    out.extend_from_slice(bytes.get(done..)?);
    Some(out)
}

/// A length, as a sign and `int_len` bytes with the lowest first, and the text.
fn put_string(out: &mut Vec<u8>, text: &str, int_len: u8) {
    let len = (text.len() as u64).to_le_bytes();
    out.push(0);
    out.extend(len.iter().copied().chain(std::iter::repeat(0)).take(usize::from(int_len)));
    out.extend_from_slice(text.as_bytes());
}

/// Reads the file with a table's data. The rows go to `take`, in pieces, followed by the line that ends them, as pg_restore sends them.
///
/// # Errors
/// [`Unreadable`] if the file is not whole; what `take` gives ends it.
pub fn table_rows(
    input: impl BufRead,
    entry: &Entry,
    take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Result<(u64, RowSum), Unreadable> {
    let mut input = Input::new(input);
    if !entry.is_copy {
        return input.malformed(format!("the data of {} is not for COPY", entry.full_name()));
    }
    let (mut rows, mut failed) = (Rows::default(), Ok(()));
    input.pass_rest(|piece| {
        rows.take(piece);
        failed = take(piece);
        failed.is_ok()
    })?;
    match (failed, rows.is_complete()) {
        (Err(detail), _) => input.malformed(detail),
        (Ok(()), true) => Ok((rows.rows, rows.sum)),
        (Ok(()), false) => input.malformed(format!("the data of {} has no proper end", entry.full_name())),
    }
}

/// The hash of a large object, as it is summed.
///
/// # Errors
/// [`Unreadable`] if reading fails.
pub fn large_object(input: impl BufRead, number: u32) -> Result<blake3::Hash, Unreadable> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    Input::new(input).pass_rest(|piece| {
        hasher.update(piece);
        true
    })?;
    Ok(hasher.finalize())
}

/// Reads what is only to be passed on.
///
/// # Errors
/// [`Unreadable`] if reading fails.
pub fn pass(input: impl BufRead) -> Result<(), Unreadable> {
    Input::new(input).pass_rest(|_| true)
}

/// Reads a list of large objects: their numbers and files. A file belongs to the number that it has in its name.
///
/// # Errors
/// [`Unreadable`] if it is none.
pub fn large_objects(text: &[u8]) -> Result<Vec<(u32, String)>, Unreadable> {
    let mut objects = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let parsed = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix('\n')).and_then(|line| line.split_once(' '));
        let object = parsed.and_then(|(number, file)| Some((number.parse().ok()?, file)));
        match object {
            Some((number, file)) if number != 0 && file == format!("blob_{number}.dat") => objects.push((number, file.to_owned())),
            _ => return Err(Unreadable { offset, detail: "this is no list of large objects".to_owned() }),
        }
        offset += line.len() as u64;
    }
    Ok(objects)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::is_file_name;
    use super::*;

    #[test]
    fn lists_of_large_objects_are_read_and_nothing_else() {
        let list = large_objects(b"17 blob_17.dat\n4000000000 blob_4000000000.dat\n").unwrap();
        assert_eq!(list, [(17, "blob_17.dat".to_owned()), (4_000_000_000, "blob_4000000000.dat".to_owned())]);
        assert_eq!(large_objects(b"").unwrap(), []);
        for wrong in ["17", "17 blob_17.dat", "17 blob_18.dat\n", "0 blob_0.dat\n", "17 ../blob_17.dat\n", "\n", "x blob_x.dat\n"] {
            assert!(large_objects(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_files_stay_in_their_directory() {
        assert!(is_file_name("12.dat") && is_file_name("public.t.dat"));
        for wrong in ["", ".", "..", "toc.dat", "../x", "/etc/passwd", "a\0b"] {
            assert!(!is_file_name(wrong), "{wrong}");
        }
    }
}
