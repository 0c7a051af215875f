//! Which tables of a database have losses, when some of its bytes are lost. The file is only read.

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

/// Memory that the structural check may take: enough for 50 GB in pages of 4 KiB.
const INSPECTOR_BYTES_MAX: usize = 64 << 20;
/// Bytes that are read at once; a multiple of every page size.
const READ_BYTES: u64 = 1 << 20;
/// Tables and indexes that are named.
const OBJECTS_MAX: usize = 100;
/// Findings that are given of each, and of what belongs to none.
const FINDINGS_MAX: usize = 10;

/// What is lost of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Losses {
    /// Why it cannot be told which tables have losses.
    pub untold: Option<String>,
    /// The tables and indexes with losses, by name.
    #[serde(rename = "damaged")]
    pub objects: Vec<Object>,
    /// How many more there are.
    pub more: u64,
    /// What belongs to no table: the list of free pages, for one.
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

/// What the schema says of a root page.
struct Named {
    root: Root,
    name: String,
    table: String,
}

/// Runs the structure check on a database that has lost these ranges. `page_size` is what was recorded.
///
/// # Errors
/// [`Error::Destination`] when the file cannot be read; [`Error::Cancelled`].
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
            Limit::Unread(_) => "its pages are not those that its header counts",
            Limit::Header => "SQLite does not take its header",
        }),
    }
}

enum Inspected {
    Read(Box<StructureInspector>),
    /// Why not.
    Not(String),
}

/// Shows all pages to the inspector that are not lost.
fn inspect(path: &Path, page_size: u32, lost: &[Range<u64>], monitor: &dyn Monitor) -> Result<Inspected> {
    let unreadable = |e: std::io::Error| Error::destination(path, format!("cannot be read again: {e}"));
    let file = beneath::open_file(path).map_err(unreadable)?;
    let len = file.metadata().map_err(unreadable)?.len();
    let page = u64::from(page_size);
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

/// The tables and indexes that have pages.
fn schema(path: &Path) -> rusqlite::Result<Vec<Named>> {
    let conn = open_immutable(path)?;
    conn.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY")?;
    read_schema(&conn).or_else(|_| {
        // Without the entries that only its application understands, the rest of the schema loads.
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
    // Pages that name each other would give entries without end.
    let pages: u32 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    rows.take(pages.saturating_add(1) as usize).collect()
}

fn by_object(named: &[Named], problems: &[super::structure::Problem], trees: &BTreeMap<u32, u64>) -> Losses {
    let findings = |root: u32| {
        let of_root = problems.iter().filter(move |problem| problem.root == root);
        of_root.take(FINDINGS_MAX).map(|problem| format!("page {}: {}", problem.page, problem.detail)).collect::<Vec<_>>()
    };
    let names: BTreeMap<u32, &Named> = named.iter().map(|named| (named.root.page, named)).collect();
    let object = |(root, count): (&u32, &u64)| {
        let (name, table) = match names.get(root) {
            Some(named) => (named.name.clone(), named.table.clone()),
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
