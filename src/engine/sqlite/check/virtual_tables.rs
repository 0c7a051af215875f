//! Checks virtual tables, one after the other. A table whose module or tokenizer only the application has must not stop
//! the others.

use std::path::Path;

use rusqlite::Connection;

use super::{Work, lines_of, open_immutable, quoted};
use crate::engine::sqlite::check::classes::{Class, classify};

impl Work {
    /// Asks each virtual table to check itself. The ordinary tables that hold their data were checked before.
    pub(super) fn virtual_tables(&mut self, path: &Path, opened: &dyn Fn(&Connection)) -> rusqlite::Result<()> {
        let conn = open_immutable(path)?;
        opened(&conn);
        self.set_up(&conn)?;
        // Skips entries that cannot be parsed. They were reported before.
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
        // The check would silently skip a table whose module is missing. This statement fails, and its error names the
        // module.
        conn.prepare(&format!("SELECT 1 FROM {}", quoted(name)))?;
        let mut statement = conn.prepare(&format!("PRAGMA integrity_check({})", quoted(name)))?;
        let texts: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        // A full-text index with `content=` has its rows in a table of the application. Only the application knows
        // whether they agree, so findings are warnings.
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
