//! Exports of PostgreSQL databases: what their tables held goes into the manifest.

use super::manifest::{Manifest, NameInfo, TableInfo};
use crate::error::Result;
use crate::format::snapshot::{SnapshotRecord, SourceKind, StreamEntry};
use crate::ops::postgres::read_tables;
use crate::repo::Repository;
use crate::source::postgres::tables::{self, Tables};

/// What names of dumps end with.
const DUMP_SUFFIX: &str = ".pgdump";
/// What `kind` says of a dump.
const DUMP_KIND: &str = "pgdump";
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

/// Says of the dump what its tables held.
pub(super) fn describe(manifest: &mut Manifest, held: Option<Tables>) {
    let dump = manifest.files.iter_mut().find(|file| file.name.name.ends_with(DUMP_SUFFIX));
    let (Some(held), Some(dump)) = (held, dump) else { return };
    dump.kind = DUMP_KIND;
    dump.tables = table_infos(&held);
}

/// What the tables of a dump held.
pub(in crate::ops) fn table_infos(held: &Tables) -> Vec<TableInfo> {
    let tables = held.blocks.iter().filter(|block| block.kind == TABLE_DATA);
    tables.map(|block| TableInfo { name: NameInfo::of(block.name.as_bytes()), rows: block.rows, content: block.sum.to_string() }).collect()
}

/// Whether a stream of a PostgreSQL snapshot is its dump.
pub(in crate::ops) fn is_dump(name: &[u8]) -> bool {
    name.ends_with(DUMP_SUFFIX.as_bytes())
}
