//! Says which indexes and tables SQLite can judge here, without the application's collations and functions.
//!
//! If in doubt, less is judged: a finding that depends on the application must not be reported as damage.

use std::collections::{BTreeSet, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, Result};

use super::quoted;
use crate::engine::sqlite::errors::StandIns;

/// What the order of an index depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexKind {
    /// Stored values, compared byte by byte.
    Plain,
    /// A built-in collation or function, which an application can replace by its own.
    BuiltIn,
    /// A collation or function that only the application has.
    Application,
}

/// The schema of one database, and the names in it that only the application has.
pub(super) struct Schema<'c> {
    conn: &'c Connection,
    missing: StandIns,
    /// Tables with columns or constraints that call a function of the application.
    unjudged_tables: HashSet<String>,
    /// Indexes that were looked at already.
    kinds: HashMap<String, IndexKind>,
}

impl<'c> Schema<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Schema { conn, missing: StandIns::default(), unjudged_tables: HashSet::new(), kinds: HashMap::new() }
    }

    /// Makes stand-ins for all functions and collations that this statement needs and that are missing here.
    pub(super) fn find_missing(&mut self, sql: &str) -> Result<()> {
        let conn = self.conn;
        self.missing.run(conn, || conn.prepare(sql).map(drop))
    }

    /// Says what cannot be judged here, in lines for users, and notes the tables.
    pub(super) fn unjudged(&mut self) -> Result<Vec<String>> {
        if self.missing.is_empty() {
            return Ok(Vec::new());
        }
        let mut lines = Vec::new();
        for (table, sql) in self.tables()? {
            let functions = mentioned(&sql, &self.missing.functions);
            if !functions.is_empty() {
                lines.push(format!("what table {table} computes with {}", functions.join(", ")));
                self.unjudged_tables.insert(table.clone());
            }
            for index in self.indexes(&table)? {
                if self.kind_of_index(&index) == IndexKind::Application {
                    lines.push(format!("the order of index {index} of table {table}"));
                }
            }
        }
        let names: Vec<&str> = self.missing.collations.iter().chain(&self.missing.functions).map(String::as_str).collect();
        let only = format!("only its application has {}", names.join(", "));
        Ok(match lines.is_empty() {
            true => vec![only],
            false => lines.into_iter().map(|line| format!("{line}: {only}")).collect(),
        })
    }

    /// Whether the table of `table.column` calls a function of the application.
    pub(super) fn is_unjudged_table_of(&self, place: &str) -> bool {
        self.unjudged_tables
            .iter()
            .any(|table| place.strip_prefix(table.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }

    pub(super) fn kind_of_index(&mut self, name: &str) -> IndexKind {
        if let Some(kind) = self.kinds.get(name) {
            return *kind;
        }
        // If the index cannot be looked at, its findings become warnings: it may depend on the application.
        let kind = self.look_at_index(name).unwrap_or(IndexKind::BuiltIn);
        self.kinds.insert(name.to_owned(), kind);
        kind
    }

    /// The kind of the primary key of a table without rowids.
    pub(super) fn kind_of_key(&mut self, table: &str) -> IndexKind {
        let sql = format!("PRAGMA index_list({})", quoted(table));
        let key = || -> Result<Option<String>> {
            let mut statement = self.conn.prepare(&sql)?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, String>(1)?, row.get::<_, String>(3)?)))?;
            for row in rows {
                let (name, origin) = row?;
                if origin == "pk" {
                    return Ok(Some(name));
                }
            }
            Ok(None)
        };
        // As in `kind_of_index`.
        key().ok().flatten().map_or(IndexKind::BuiltIn, |name| self.kind_of_index(&name))
    }

    /// Finds out the kind of an index from its columns, and from the SQL of the index and of its table.
    fn look_at_index(&self, name: &str) -> Result<IndexKind> {
        let entry = "SELECT tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND name = ?1";
        let entry: Option<(String, Option<String>)> =
            self.conn.query_row(entry, [name], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        // The primary key of a table without rowids has no entry of its own.
        let table = match &entry {
            Some((table, _)) => Some(table.clone()),
            None => self
                .conn
                .query_row("SELECT tbl_name FROM sqlite_schema WHERE type = 'table' AND name = ?1", [name], |row| row.get(0))
                .optional()?,
        };
        let sql = entry.and_then(|(_, sql)| sql).unwrap_or_default();
        let table_sql: Option<String> = match &table {
            Some(table) => {
                let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";
                self.conn.query_row(sql, [table], |row| row.get(0)).optional()?
            }
            None => None,
        };
        let table_sql = table_sql.unwrap_or_default();
        let (mut is_plain, mut is_known) = (true, true);
        let mut computes = sql.to_lowercase().contains("where");
        let mut statement = self.conn.prepare(&format!("PRAGMA index_xinfo({})", quoted(name)))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (column, collation): (i64, Option<String>) = (row.get(1)?, row.get(4)?);
            let collation = collation.unwrap_or_default();
            is_plain &= collation.eq_ignore_ascii_case("binary");
            is_known &= !self.missing.collations.contains(&collation.to_lowercase());
            // -2 stands for an expression.
            computes |= column == -2;
        }
        computes |= table.map_or(Ok(false), |table| self.has_virtual_columns(&table))?;
        // A missing name in the SQL of the index counts. A missing function in the SQL of the table counts, too: a
        // generated column may call it. A missing collation there counts only if the index computes something from
        // columns.
        let all: BTreeSet<String> = self.missing.functions.union(&self.missing.collations).cloned().collect();
        is_known &= mentioned(&sql, &all).is_empty() && mentioned(&table_sql, &self.missing.functions).is_empty();
        is_known &= !computes || mentioned(&table_sql, &self.missing.collations).is_empty();
        Ok(match (is_known, is_plain && !computes) {
            (false, _) => IndexKind::Application,
            (true, false) => IndexKind::BuiltIn,
            (true, true) => IndexKind::Plain,
        })
    }

    /// Whether a table has generated columns that are not stored: they are computed at each check.
    fn has_virtual_columns(&self, table: &str) -> Result<bool> {
        let mut statement = self.conn.prepare(&format!("PRAGMA table_xinfo({})", quoted(table)))?;
        // `hidden` is 2 for these (<https://sqlite.org/pragma.html#pragma_table_xinfo>).
        let hidden: Vec<i64> = statement.query_map([], |row| row.get(6))?.collect::<Result<_>>()?;
        Ok(hidden.contains(&2))
    }

    fn tables(&self) -> Result<Vec<(String, String)>> {
        let mut statement = self.conn.prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    fn indexes(&self, table: &str) -> Result<Vec<String>> {
        let mut statement = self.conn.prepare(&format!("PRAGMA index_list({})", quoted(table)))?;
        statement.query_map([], |row| row.get(1))?.collect()
    }
}

/// The names of this set that a statement contains. A name inside another word counts, too; then less is judged.
fn mentioned(sql: &str, names: &BTreeSet<String>) -> Vec<String> {
    let sql = sql.to_lowercase();
    names.iter().filter(|name| sql.contains(name.as_str())).cloned().collect()
}
