//! Says which tables of a database have losses, when some of its bytes are lost.
//!
//! It runs the structure check of the capture over the file, tells it which pages are lost, and groups the findings by
//! the tables and indexes of the schema. The file is only read. It relies on a first page that is not lost: without the
//! schema no page has a name.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::Connection;

use super::check::open_immutable;
use super::structure::{Level, Limit, Root, StructureInspector, StructureReport, TreeKind};
use crate::error::{Error, Result};
use crate::fs::beneath;
use crate::progress::Monitor;

/// Memory that the structure check may take: enough for 50 GB in pages of 4 KiB.
const INSPECTOR_BYTES_MAX: usize = 64 << 20;
/// Bytes that are read at once: a multiple of every page size.
const READ_BYTES: u64 = 1 << 20;
/// The most tables and indexes that are named.
const OBJECTS_MAX: usize = 100;
/// The most findings that are given for each of them, and for pages that belong to none.
const FINDINGS_MAX: usize = 10;

/// The losses of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Losses {
    /// Why it is not known which tables have losses.
    pub untold: Option<String>,
    /// The tables and indexes with losses, by name.
    #[serde(rename = "damaged")]
    pub objects: Vec<Object>,
    /// How many more there are.
    pub more: u64,
    /// Findings that belong to no table, for example in the list of free pages.
    pub others: Vec<String>,
}

/// A table or an index with losses.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// The table that it belongs to; its own name if it is a table.
    pub table: String,
    /// How many findings there are.
    pub count: u64,
    /// The first of them.
    pub findings: Vec<String>,
}

/// A root page with its names from the schema.
struct Named {
    root: Root,
    name: String,
    table: String,
}

/// Runs the structure check on a database that has lost these ranges of bytes, sorted. `page_size` was recorded at the
/// capture.
///
/// # Errors
/// [`Error::Destination`] if the file cannot be read; [`Error::Cancelled`].
pub(crate) fn losses(path: &Path, page_size: u32, lost: &[Range<u64>], monitor: &dyn Monitor) -> Result<Losses> {
    let untold = |why: &str| Ok(Losses { untold: Some(why.to_owned()), ..Losses::default() });
    if !(512..=65_536).contains(&page_size) || !page_size.is_power_of_two() {
        return untold("it has no pages");
    }
    if lost.first().is_some_and(|first| first.start < u64::from(page_size)) {
        return untold("its first page is lost, with the start of the schema");
    }
    let report = match inspect(path, page_size, lost, monitor)? {
        Inspected::Not(why) => return untold(&why),
        Inspected::Read(inspector) => match schema(path) {
            Ok(named) => {
                let roots: Vec<Root> = named.iter().map(|named| named.root).collect();
                (inspector.finish(Some(&roots)), named)
            }
            Err(error) => return untold(&format!("its schema cannot be read: {error}")),
        },
    };
    match report {
        (StructureReport { level: Level::Full, problems, trees, .. }, named) => Ok(by_object(&named, &problems, &trees)),
        (StructureReport { level: Level::PagesOnly(limit), .. }, _) => untold(match limit {
            Limit::Memory | Limit::Pages => "it is too large to look at the links between its pages",
            Limit::Unread(_) => "its pages do not fit its header",
            Limit::Header => "SQLite does not accept its header",
        }),
    }
}

/// The result of [`inspect`].
enum Inspected {
    Read(Box<StructureInspector>),
    /// Why the pages could not be inspected.
    Not(String),
}

/// Shows all pages to the inspector, and says which ones are lost.
fn inspect(path: &Path, page_size: u32, lost: &[Range<u64>], monitor: &dyn Monitor) -> Result<Inspected> {
    let unreadable = |e: std::io::Error| Error::destination(path, format!("cannot be read again: {e}"));
    let file = beneath::open_file(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    let page = u64::from(page_size);
    // At most READ_BYTES or one page, so the casts in this function keep every value.
    let mut bytes = vec![0; READ_BYTES.min(len) as usize];
    let mut header = vec![0; page.min(len) as usize];
    file.read_exact_at(&mut header, 0).map_err(unreadable)?;
    if (len / page) > u64::from(u32::MAX) {
        return Ok(Inspected::Not("it has too many pages".to_owned()));
    }
    let inspector = StructureInspector::new(&header, len / page, INSPECTOR_BYTES_MAX);
    let mut lost = lost.iter().peekable();
    let mut offset = 0;
    while offset < len {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let part = bytes.get_mut(..READ_BYTES.min(len - offset) as usize).unwrap_or_default();
        file.read_exact_at(part, offset).map_err(unreadable)?;
        for (at, page_bytes) in (offset..).step_by(page_size as usize).zip(part.chunks_exact(page_size as usize)) {
            // Both pages and lost ranges come in order, so ranges that end before this page are done with.
            while lost.next_if(|range| range.end <= at).is_some() {}
            match lost.peek().is_some_and(|range| range.start < at + page) {
                true => inspector.lost(at / page + 1),
                false => inspector.page(at / page + 1, page_bytes),
            }
        }
        offset += part.len() as u64;
    }
    Ok(Inspected::Read(Box::new(inspector)))
}

/// The tables and indexes that have pages, by the schema.
fn schema(path: &Path) -> rusqlite::Result<Vec<Named>> {
    let conn = open_immutable(path)?;
    conn.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY")?;
    read_schema(&conn).or_else(|_| {
        // With this setting SQLite skips the entries that only the application understands, and loads the rest.
        conn.execute_batch("PRAGMA writable_schema=ON")?;
        read_schema(&conn)
    })
}

fn read_schema(conn: &Connection) -> rusqlite::Result<Vec<Named>> {
    let mut statement = conn.prepare("SELECT rootpage, type, name, tbl_name FROM sqlite_schema WHERE rootpage > 0")?;
    let text = |row: &rusqlite::Row<'_>, column: usize| -> rusqlite::Result<String> {
        Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes().unwrap_or_default()).into_owned())
    };
    let rows = statement.query_map([], |row| {
        let kind = if text(row, 1)? == "index" { TreeKind::Index } else { TreeKind::Any };
        Ok(Named { root: Root { page: row.get(0)?, kind }, name: text(row, 2)?, table: text(row, 3)? })
    })?;
    // A bound, since pages that refer to each other would give entries without end.
    let pages: u32 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    rows.take(pages.saturating_add(1) as usize).collect()
}

/// Groups the problems by the table or index in whose tree they were met.
fn by_object(named: &[Named], problems: &[super::structure::Problem], trees: &BTreeMap<u32, u64>) -> Losses {
    let findings = |root: u32| {
        let of_root = problems.iter().filter(move |problem| problem.root == root);
        of_root.take(FINDINGS_MAX).map(|problem| format!("page {}: {}", problem.page, problem.detail)).collect::<Vec<_>>()
    };
    let names: BTreeMap<u32, &Named> = named.iter().map(|named| (named.root.page, named)).collect();
    let object = |(root, count): (&u32, &u64)| {
        let (name, table) = match names.get(root) {
            Some(named) => (named.name.clone(), named.table.clone()),
            // The tree of page 1 is the schema itself; it has no entry in it.
            None => ("sqlite_schema".to_owned(), "sqlite_schema".to_owned()),
        };
        Object { name, table, count: *count, findings: findings(*root) }
    };
    let mut objects: Vec<Object> = trees.iter().map(object).collect();
    objects.sort_by(|one, other| (&one.table, &one.name).cmp(&(&other.table, &other.name)));
    let more = objects.len().saturating_sub(OBJECTS_MAX) as u64;
    objects.truncate(OBJECTS_MAX);
    Losses { untold: None, objects, more, others: findings(0) }
}
