//! Virtual tables, each asked by itself: one whose module or tokenizer is the application's says nothing about the others.

use std::path::Path;

use rusqlite::Connection;

use super::{Work, lines_of, open_immutable, quoted};
use crate::engine::sqlite::check::classes::{Class, classify};

impl Work {
    /// Has each virtual table check itself. The ordinary tables below them have been checked as such.
    pub(super) fn virtual_tables(&mut self, path: &Path, opened: &dyn Fn(&Connection)) -> rusqlite::Result<()> {
        let conn = open_immutable(path)?;
        opened(&conn);
        self.set_up(&conn)?;
        // What cannot be parsed has been told of.
        conn.execute_batch("PRAGMA writable_schema=ON")?;
        let tables: Vec<(String, String)> = {
            let mut statement =
                conn.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND rootpage = 0 AND sql IS NOT NULL")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?
        };
        for (name, sql) in tables {
            if let Err(error) = self.virtual_table(&conn, &name, &sql) {
                self.failed(&format!("virtual table {name}: "), &error);
            }
        }
        Ok(())
    }

    fn virtual_table(&mut self, conn: &Connection, name: &str, sql: &str) -> rusqlite::Result<()> {
        // The check passes over tables without a module; this names the module.
        conn.prepare(&format!("SELECT 1 FROM {}", quoted(name)))?;
        let mut statement = conn.prepare(&format!("PRAGMA integrity_check({})", quoted(name)))?;
        let texts: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        // A full-text index over rows that the application keeps elsewhere is right when the application says so.
        let is_external = sql.to_lowercase().split_once("content").is_some_and(|(_, rest)| rest.trim_start().starts_with('='));
        for line in texts.iter().flat_map(|text| lines_of(text)) {
            match classify(line) {
                Class::Fine => {}
                Class::NotJudged => self.not_checked.add(line.to_owned()),
                _ if is_external => self.warnings.add(line.to_owned()),
                _ => self.damage.add(line.to_owned()),
            }
        }
        Ok(())
    }
}
