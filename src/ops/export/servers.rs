//! Exports of PostgreSQL databases: what their tables held goes into the manifest.

use super::manifest::{Manifest, NameInfo, TableInfo};
use crate::engine::postgres::streams::{ARCHIVE_SUFFIX, is_dump, split_directory};
use crate::engine::postgres::tables::{self, Tables};
use crate::error::Result;
use crate::ops::postgres::read_tables;
use crate::recorded::SourceKind;
use crate::store::format::snapshot::{SnapshotRecord, StreamEntry};
use crate::store::repo::Repository;

/// What `kind` says of a dump.
const DUMP_KIND: &str = "pgdump";
/// What it says of the files of a dump that is a directory.
const DIRECTORY_KIND: &str = "pgdir";
/// The kind of the blocks that are tables.
const TABLE_DATA: &str = "TABLE DATA";

/// Takes the evidence of a dump out of what becomes a file: the manifest says the same, and a restore of the dump reads it anew.
pub(super) fn take_tables(repo: &Repository, record: &SnapshotRecord, listing: &mut Vec<StreamEntry>) -> Result<Option<Tables>> {
    let is_evidence = |entry: &StreamEntry| record.source.kind == SourceKind::Postgres && entry.name == tables::STREAM.as_bytes();
    let Some(len) = listing.iter().find(|entry| is_evidence(entry)).map(|entry| entry.root.len) else { return Ok(None) };
    let held = read_tables(repo, record, len)?;
    listing.retain(|entry| !is_evidence(entry));
    Ok(Some(held))
}

/// Says of the dump, or of its table of contents, what its tables held.
pub(super) fn describe(manifest: &mut Manifest, held: Option<Tables>) {
    let Some(held) = held else { return };
    for file in &mut manifest.files {
        let name = file.name.name.as_bytes();
        let (kind, tables) = (dump_kind(name).unwrap_or(file.kind), if is_dump(name) { table_infos(&held) } else { Vec::new() });
        (file.kind, file.tables) = (kind, tables);
    }
}

/// What the tables of a dump held.
pub(in crate::ops) fn table_infos(held: &Tables) -> Vec<TableInfo> {
    let tables = held.blocks.iter().filter(|block| block.kind == TABLE_DATA);
    tables.map(|block| TableInfo { name: NameInfo::of(block.name.as_bytes()), rows: block.rows, content: block.sum.to_string() }).collect()
}

/// What `kind` says of a stream of a PostgreSQL snapshot, if it belongs to its dump.
pub(in crate::ops) fn dump_kind(name: &[u8]) -> Option<&'static str> {
    match name.ends_with(ARCHIVE_SUFFIX.as_bytes()) {
        true => Some(DUMP_KIND),
        false => split_directory(name).map(|_| DIRECTORY_KIND),
    }
}
