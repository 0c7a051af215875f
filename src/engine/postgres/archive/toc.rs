//! Parses the header and the table of contents of a dump, for both formats.
//!
//! Only names, dependencies and wanted statements are kept, and their total size has a limit, so a hostile archive
//! cannot fill the memory.

use std::io::BufRead;

use super::input::Input;
use super::{Archive, Entry, Section, Unreadable};

/// The name of the table of contents.
pub const TOC: &str = "toc.dat";

/// Whether a file of a dump, other than its table of contents, can have this name. Names that lead out of the directory
/// are refused.
pub fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | ".." | TOC) && !name.contains(['/', '\0'])
}

/// Versions 1.14 (PostgreSQL 12 to 15), 1.15 (16) and 1.16 (17 and 18).
const MINOR_VERSIONS: std::ops::RangeInclusive<u8> = 14..=16;
/// The first version with the compression's algorithm in place of its level.
const WITH_ALGORITHM: u8 = 15;
/// The first version with `relkind` in entries.
const WITH_RELKIND: u8 = 16;
/// `archCustom`.
const CUSTOM: u8 = 1;
/// `archTar`. The table of contents of a directory has this too (`_CloseArchive` of `pg_backup_directory.c`), since
/// both formats name a file for data.
const FILES: u8 = 3;
/// The state of an entry without data.
const NO_DATA: u8 = 3;
/// Most bytes that are kept: enough for some million entries.
const KEPT_BYTES_MAX: u64 = 512 << 20;
/// Most dependencies of one entry: they alone would reach that limit.
const DEPENDENCIES_MAX: usize = 64 << 20;
/// The memory for an entry without its names.
const ENTRY_BYTES: u64 = 256;

/// The layout of a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// All in one file.
    Custom,
    /// A file for each table.
    Directory,
}

/// Reads up to the first block of data.
pub(super) fn read<R: BufRead>(input: &mut Input<R>, layout: Layout, wanted: super::Wanted<'_>) -> Result<Archive, Unreadable> {
    for expected in *b"PGDMP" {
        if input.byte()? != expected {
            return input.malformed(format!("this is not an archive of pg_dump's {} format", layout.word()));
        }
    }
    let (major, minor_version, _revision) = (input.byte()?, input.byte()?, input.byte()?);
    if major != 1 || !MINOR_VERSIONS.contains(&minor_version) {
        return input.malformed(format!("the archive's version {major}.{minor_version} is not known"));
    }
    input.int_len = input.byte()?;
    input.offset_len = input.byte()?;
    if !(1..=8).contains(&input.int_len) || !(1..=8).contains(&input.offset_len) {
        return input.malformed("the archive has numbers of an impossible size");
    }
    if input.byte()? != if layout == Layout::Custom { CUSTOM } else { FILES } {
        return input.malformed(format!("the archive is not of the {} format", layout.word()));
    }
    let compression = if minor_version >= WITH_ALGORITHM { i64::from(input.byte()?) } else { input.int()? };
    if compression != 0 {
        return input.malformed("the archive is compressed; make it with pg_dump -Z0");
    }
    // The time of the dump: seconds to years, and daylight saving time.
    for _ in 0..7 {
        input.int()?;
    }
    let mut text = || Ok(input.string()?.unwrap_or_default());
    let (database, server_version, dump_version) = (text()?, text()?, text()?);
    let entries = entries(input, (minor_version, layout), wanted)?;
    let widths = (input.int_len, input.offset_len);
    Ok(Archive { minor_version, database, server_version, dump_version, entries, blocks: Vec::new(), data_offset: 0, len: 0, widths })
}

impl Layout {
    fn word(self) -> &'static str {
        match self {
            Layout::Custom => "custom",
            Layout::Directory => "directory",
        }
    }
}

/// The format's minor version, and the layout.
type Variant = (u8, Layout);

fn entries<R: BufRead>(input: &mut Input<R>, variant: Variant, wanted: super::Wanted<'_>) -> Result<Vec<Entry>, Unreadable> {
    let count = input.int()?;
    let mut entries = Vec::new();
    let mut ids = std::collections::HashSet::new();
    let mut kept = 0;
    for _ in 0..count {
        let entry = entry(input, variant, wanted)?;
        if entry.dump_id <= 0 || !ids.insert(entry.dump_id) {
            return input.malformed(format!("an entry has the number {}, which it cannot have", entry.dump_id));
        }
        let names = [
            entry.file.as_ref().map_or(0, String::len),
            entry.kind.len(),
            entry.schema.as_ref().map_or(0, String::len),
            entry.name.len(),
            entry.owner.len(),
        ];
        let sql = [&entry.definition, &entry.copy_statement, &entry.tablespace].into_iter().flatten().map(String::len);
        // usize fits u64 on every platform.
        kept += names.into_iter().chain(sql).sum::<usize>() as u64 + 8 * entry.dependencies.len() as u64 + ENTRY_BYTES;
        if kept > KEPT_BYTES_MAX {
            return input.malformed("the table of contents is too large");
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry<R: BufRead>(input: &mut Input<R>, (minor_version, layout): Variant, wanted: super::Wanted<'_>) -> Result<Entry, Unreadable> {
    let dump_id = input.int()?;
    input.int()?; // Whether pg_dump had data for it. The last field says so too.
    input.skip_string()?; // The oid of the catalog,
    input.skip_string()?; // and of the object in it.
    let name = input.string()?.unwrap_or_default();
    let kind = input.string()?.unwrap_or_default();
    let section = match input.int()? {
        2 => Some(Section::PreData),
        3 => Some(Section::Data),
        4 => Some(Section::PostData),
        _ => None,
    };
    let is_wanted = wanted(&kind, &name);
    let mut hasher = blake3::Hasher::new();
    let (_, definition) = input.sql(&mut hasher, is_wanted)?;
    input.skip_string()?; // How to drop it.
    let (is_copy, copy_statement) = input.sql(&mut hasher, is_wanted)?;
    let schema = input.string()?.filter(|schema| !schema.is_empty());
    let tablespace = input.string()?.filter(|tablespace| !tablespace.is_empty());
    input.skip_string()?; // Its access method.
    if minor_version >= WITH_RELKIND {
        input.int()?;
    }
    let owner = input.string()?.unwrap_or_default();
    input.skip_string()?; // WITH OIDS, which no longer exists.
    // A list of strings that ends with null.
    let mut dependencies = Vec::new();
    while let Some(number) = input.string()? {
        match number.parse() {
            Ok(number) if dependencies.len() < DEPENDENCIES_MAX => dependencies.push(number),
            _ => return input.malformed("an entry has a dependency that is not a number, or too many"),
        }
    }
    let (file_at, mut file) = (input.offset, None);
    let has_data = match layout {
        Layout::Custom => input.data_state()? != NO_DATA,
        Layout::Directory => {
            file = file_name(input)?;
            file.is_some()
        }
    };
    let digest = *hasher.finalize().as_bytes();
    Ok(Entry {
        dump_id,
        kind,
        section,
        schema,
        name,
        owner,
        tablespace,
        has_data,
        file,
        file_at,
        is_copy,
        dependencies,
        definition,
        copy_statement,
        digest,
    })
}

/// The name of a file with data. It must not lead out of the directory.
fn file_name<R: BufRead>(input: &mut Input<R>) -> Result<Option<String>, Unreadable> {
    let Some(name) = input.string()?.filter(|name| !name.is_empty()) else { return Ok(None) };
    match is_file_name(&name) {
        true => Ok(Some(name)),
        false => input.malformed(format!("{name:?} cannot be the name of a file with data")),
    }
}
