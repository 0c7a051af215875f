//! What is special about PostgreSQL snapshots once they are stored: which streams are dumps, what they are called, and
//! the rows of their tables.

use std::path::Path;

use super::restore::{evidence_of, read_tables};
use super::stream_names::{ARCHIVE_SUFFIX, is_dump, split_directory};
use super::tables::Tables;
use crate::engine::drill::{CheckReport, NamedAssertion};
use crate::engine::stored::{Stored, StreamInfo};
use crate::engine::{Comparison, Engine, Evidence, TableInspection};
use crate::error::Result;
use crate::progress::Monitor;
use crate::recorded::{EntryKind, SourceKind};

/// The word for a dump in the custom format.
const DUMP_WORD: &str = "pgdump";
/// The word for the files of a dump in the directory format.
const DIRECTORY_WORD: &str = "pgdir";
/// The word for any other stream.
const FILE_WORD: &str = "file";
/// The kind of blocks that are tables.
const TABLE_DATA: &str = "TABLE DATA";

/// Dumps of a PostgreSQL database, or of a cluster's globals.
pub struct PostgresEngine;

impl Engine for PostgresEngine {
    fn kind(&self) -> SourceKind {
        SourceKind::POSTGRES
    }

    fn is_of_host(&self) -> bool {
        false
    }

    fn comparison(&self) -> Comparison {
        Comparison::Programs
    }

    fn needs_server(&self) -> bool {
        true
    }

    fn has_files(&self) -> bool {
        false
    }

    fn is_database(&self, name: &[u8], _kind: &EntryKind) -> bool {
        is_dump(name)
    }

    fn stream_word(&self, name: &[u8], _kind: &EntryKind) -> &'static str {
        match name.ends_with(ARCHIVE_SUFFIX.as_bytes()) {
            true => DUMP_WORD,
            false => split_directory(name).map_or(FILE_WORD, |_| DIRECTORY_WORD),
        }
    }

    fn evidence(&self, stored: &dyn Stored) -> Result<Option<Evidence>> {
        let stream = evidence_of(stored).map(|stream| stream.name.clone());
        Ok(read_tables(stored)?.zip(stream).map(|(held, stream)| Evidence { stream, tables: table_inspections(&held) }))
    }

    /// Checks nothing, as dumps are drilled on a server.
    fn verify(&self, _: &Path, _: &[StreamInfo], _: &[NamedAssertion], _: usize, _: &dyn Monitor) -> Result<Vec<CheckReport>> {
        Ok(Vec::new())
    }
}

fn table_inspections(held: &Tables) -> Vec<TableInspection> {
    let tables = held.blocks.iter().filter(|block| block.kind == TABLE_DATA);
    tables
        .map(|block| TableInspection { name: block.name.clone().into_bytes(), rows: block.rows, content: block.sum.to_string() })
        .collect()
}
