//! The directory format of pg_dump (`-Fd -Z0`), as `pg_backup_directory.c` in PostgreSQL's sources writes it: a table
//! of contents, `toc.dat`, and a file with COPY text for each table. Large objects have a list and a file each.
//!
//! pg_dump names the files by dump ids, which all change when any object is created. Here they get the names of their
//! tables, in the directory and in its table of contents. So a table's file has the same name in each dump, and its
//! stream finds its predecessor.

use std::collections::HashSet;
use std::io::BufRead;

use super::input::Input;
use super::row_sum::Rows;
use super::toc::{self, Layout};
use super::{Archive, Entry, RowSum, Unreadable, Wanted};

/// Longest file name without its ending, in bytes. File systems take 255.
const NAME_LEN_MAX: usize = 200;
/// In a longer name, this many hexadecimal digits of a hash replace the end.
const NAME_HASH_DIGITS: usize = 32;

/// Reads a directory's table of contents. It must be the whole file.
///
/// # Errors
/// [`Unreadable`] if it is not a table of contents, the files are compressed, or two entries name the same file.
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

/// The name for the file with a table's data: `SCHEMA.TABLE.dat`. In both parts `%`, `.`, `/` and control characters
/// are written as `%` and two hexadecimal digits. A very long name ends with a hash. The name never equals one that
/// pg_dump makes, which has a single dot.
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

/// The table of contents with other file names, each given with the index of its entry. All other bytes stay. `None` if
/// `archive` was not read from these bytes.
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

/// Writes a string: its length, as a sign and `int_len` bytes in little-endian order, and the text.
fn put_string(out: &mut Vec<u8>, text: &str, int_len: u8) {
    // usize fits u64 on every platform. A name has at most `NAME_LEN_MAX` bytes, so one byte would do.
    let len = (text.len() as u64).to_le_bytes();
    out.push(0);
    out.extend(len.iter().copied().chain(std::iter::repeat(0)).take(usize::from(int_len)));
    out.extend_from_slice(text.as_bytes());
}

/// Reads the file with a table's data. The rows go to `take` in pieces, followed by the line that ends them, as
/// pg_restore sends them.
///
/// # Errors
/// [`Unreadable`] if the file is incomplete or `take` fails.
pub fn table_rows(
    input: impl BufRead,
    entry: &Entry,
    take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Result<(u64, RowSum), Unreadable> {
    let mut input = Input::new(input);
    if !entry.is_copy {
        return input.malformed(format!("the data of {} is not in the format of COPY: dump without --inserts", entry.full_name()));
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
        (Ok(()), false) => input.malformed(format!("the data of {} does not end with the line that marks its end", entry.full_name())),
    }
}

/// The hash of a large object: of its number and content.
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

/// Reads a file to its end without parsing it.
///
/// # Errors
/// [`Unreadable`] if reading fails.
pub fn pass(input: impl BufRead) -> Result<(), Unreadable> {
    Input::new(input).pass_rest(|_| true)
}

/// Reads a list of large objects: their numbers and files. A file must have its object's number in its name.
///
/// # Errors
/// [`Unreadable`] if it is not such a list.
pub fn large_objects(text: &[u8]) -> Result<Vec<(u32, String)>, Unreadable> {
    let mut objects = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let parsed = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix('\n')).and_then(|line| line.split_once(' '));
        let object = parsed.and_then(|(number, file)| Some((number.parse().ok()?, file)));
        match object {
            Some((number, file)) if number != 0 && file == format!("blob_{number}.dat") => objects.push((number, file.to_owned())),
            _ => return Err(Unreadable { offset, detail: "this line is not one of a list of large objects".to_owned() }),
        }
        // usize fits u64 on every platform.
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
