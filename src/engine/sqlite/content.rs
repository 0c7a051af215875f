//! Sums up the content of the tables of a database, in numbers that do not depend on where the rows lie.
//!
//! Each table has its number of rows, and the sum, modulo 2^256, of the BLAKE3 hashes of its rows in the canonical form
//! below. A VACUUM or a reload of a dump does not change these numbers; a lost, changed or doubled row does.
//! `store-format.md` ("TableContent") specifies the form.
//!
//! A row is its columns in the order of the table, without generated columns that are not stored. A column begins with
//! the number of its type in one byte (<https://sqlite.org/c3ref/c_blob.html>: 1 integer, 2 float, 3 text, 4 blob, 5
//! null). Then follows an integer as 8 bytes, a float as the 8 bytes of IEEE 754, text (as UTF-8) or a blob as its
//! length in 8 bytes and its bytes, and nothing for null. Everything is little-endian.
//!
//! All tables with pages of their own are summed up. So the tables below a full-text index count, and the index itself
//! does not. The schema counts, too, under the name `sqlite_schema` and without its page numbers.
//!
//! The database is not trusted: no function that its schema names runs, and rows, tables and lengths are bounded.

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};

use super::errors::{StandIns, message};
use crate::engine::row_sum::RowSum;
use crate::recorded::{CONTENT_TABLES_MAX, TableContent};

/// The longest row that is read, in bytes. A row is in memory as a whole, perhaps twice.
const ROW_BYTES_MAX: i32 = 16 << 20;

/// The name of the schema as a table. The page numbers in it are left out, because a VACUUM changes them.
const SCHEMA: &str = "sqlite_schema";

/// Why there are no numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoContent {
    /// SQLite says that the database is damaged.
    Damaged(String),
    /// The tables cannot be read, for a reason that says nothing about damage: they need something that only the
    /// application has, a row is too long, or there are too many tables.
    Unreadable(String),
    /// The caller asked to stop.
    Stopped,
}

impl From<rusqlite::Error> for NoContent {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            // Whether a schema that does not load is damaged was decided on opening (see `Engine::roots`).
            Some(ErrorCode::DatabaseCorrupt) if message(&error).starts_with("malformed database schema") => {
                NoContent::Unreadable(error.to_string())
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => NoContent::Damaged(error.to_string()),
            _ => NoContent::Unreadable(error.to_string()),
        }
    }
}

/// The content of all tables, sorted by name, as the connection sees it. `stop` is asked before each row. The
/// connection should be in a transaction, or on a file that does not change.
///
/// # Errors
/// [`NoContent`]. There are all numbers or none.
pub fn content_of(conn: &Connection, stop: &dyn Fn() -> bool) -> Result<Vec<TableContent>, NoContent> {
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX)?;
    // The schema comes from the owner of the database, so functions that it names must not run with our rights.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.execute_batch("PRAGMA cell_size_check=ON")?;
    let names: Vec<Vec<u8>> = {
        let mut statement = conn.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name")?;
        let rows = statement.query_map([], |row| Ok(row.get_ref(0)?.as_bytes().map(<[u8]>::to_vec).unwrap_or_default()))?;
        rows.take(CONTENT_TABLES_MAX).collect::<Result<_, _>>()?
    };
    if names.len() >= CONTENT_TABLES_MAX {
        return Err(NoContent::Unreadable(format!("it has more than {CONTENT_TABLES_MAX} tables")));
    }
    let page = |what: &str| conn.query_row(&format!("PRAGMA {what}"), [], |row| row.get::<_, u32>(0)).map(u64::from);
    // Each row takes at least a byte, so an honest database has no more rows than bytes.
    let rows_max = page("page_count")?.saturating_mul(page("page_size")?);
    let mut rows_left = rows_max;
    let mut tables = vec![table(conn, SCHEMA.as_bytes(), "SELECT type, name, tbl_name, sql FROM sqlite_master", stop, &mut rows_left)?];
    for name in names {
        let text = String::from_utf8(name.clone()).map_err(|_| NoContent::Unreadable("the name of a table is not UTF-8".to_owned()))?;
        tables.push(table(conn, &name, &select(conn, &text)?, stop, &mut rows_left)?);
    }
    tables.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(tables)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The statement that reads the stored columns of a table. It reads the table itself, since an index may be damaged and
/// say something else.
fn select(conn: &Connection, table: &str) -> rusqlite::Result<String> {
    // `hidden` is 0 for plain columns and 3 for stored generated ones
    // (<https://sqlite.org/pragma.html#pragma_table_xinfo>).
    let mut statement = conn.prepare(&format!("PRAGMA table_xinfo({})", quoted(table)))?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(1)?, row.get::<_, i64>(6)?)))?;
    let mut columns = Vec::new();
    for row in rows {
        let (name, hidden) = row?;
        columns.extend(matches!(hidden, 0 | 3).then(|| quoted(&name)));
    }
    Ok(format!("SELECT {} FROM {} NOT INDEXED", columns.join(", "), quoted(table)))
}

/// Reads one table. `rows_left` is how many more rows the database can have. Pages that refer to each other would give
/// rows without end.
fn table(conn: &Connection, name: &[u8], sql: &str, stop: &dyn Fn() -> bool, rows_left: &mut u64) -> Result<TableContent, NoContent> {
    // A table without rowids may be ordered by a collation that only its application has. Reading all of it does not
    // need the order, but SQLite wants the name.
    let mut statement = StandIns::default().run(conn, || conn.prepare(sql))?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let (mut count, mut sum, mut form) = (0, RowSum::default(), Vec::new());
    while let Some(row) = rows.next()? {
        if stop() {
            return Err(NoContent::Stopped);
        }
        *rows_left = rows_left
            .checked_sub(1)
            .ok_or_else(|| NoContent::Damaged("there are more rows than bytes: pages are used many times".to_owned()))?;
        // One buffer for all rows: allocating one for each would take longer than hashing it.
        form.clear();
        for column in 0..columns {
            push(&mut form, row.get_ref(column)?);
        }
        sum.add(&blake3::hash(&form));
        count += 1;
    }
    Ok(TableContent { name: name.to_vec(), rows: count, sum: sum.to_bytes() })
}

/// The canonical form of one value.
fn push(form: &mut Vec<u8>, value: ValueRef<'_>) {
    // The length comes before the bytes, so that two columns cannot be taken for one.
    let mut long = |kind: u8, bytes: &[u8]| {
        form.push(kind);
        form.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        form.extend_from_slice(bytes);
    };
    match value {
        ValueRef::Text(text) => long(3, text),
        ValueRef::Blob(blob) => long(4, blob),
        ValueRef::Integer(number) => {
            form.push(1);
            form.extend_from_slice(&number.to_le_bytes());
        }
        ValueRef::Real(number) => {
            form.push(2);
            form.extend_from_slice(&number.to_le_bytes());
        }
        ValueRef::Null => form.push(5),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Vec<TableContent> {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        content_of(&conn, &|| false).unwrap()
    }

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let make = "CREATE TABLE t(a, b);";
        let one = of(&format!("{make} INSERT INTO t VALUES(1, 'x'), (2, NULL), (2, NULL)"));
        let other = of(&format!("{make} INSERT INTO t VALUES(0, 0), (2, NULL), (1, 'x'), (2, NULL); DELETE FROM t WHERE a = 0; VACUUM"));
        assert_eq!(one, other);
        assert_eq!(
            one.iter().map(|table| (table.name.as_slice(), table.rows)).collect::<Vec<_>>(),
            [(&b"sqlite_schema"[..], 1), (b"t", 3)]
        );
        let others = [
            "(1, 'x'), (2, NULL)",
            "(1, 'x'), (2, NULL), (2, 0)",
            "('1', 'x'), (2, NULL), (2, NULL)",
            "(1, x'78'), (2, NULL), (2, NULL)",
            "(1.0, 'x'), (2, NULL), (2, NULL)",
        ];
        for values in others {
            assert_ne!(of(&format!("{make} INSERT INTO t VALUES{values}")), one, "{values}");
        }
        assert_ne!(of("CREATE TABLE t(a, b  ); INSERT INTO t VALUES(1, 'x'), (2, NULL), (2, NULL)"), one);
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let found = of("CREATE TABLE t(i, r, t, b, n); INSERT INTO t VALUES(-2, 0.5, 'ab', x'00ff', NULL)");
        let mut form = vec![1];
        form.extend((-2i64).to_le_bytes());
        form.push(2);
        form.extend(0.5f64.to_le_bytes());
        form.extend([3, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 4, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 5]);
        assert_eq!(found.get(1).map(|table| table.sum), Some(*blake3::hash(&form).as_bytes()));
    }

    #[test]
    fn what_only_the_application_has_is_not_needed() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE g(a, v AS (a + 1), s AS (a * 2) STORED, \"q\"\"x\" TEXT); INSERT INTO g(a) VALUES(1);
             CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO w VALUES('k', 1);
             CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES('words'); CREATE VIEW x AS SELECT nobody_knows(a) FROM g;",
        )
        .unwrap();
        let tables = content_of(&conn, &|| false).unwrap();
        let names: Vec<_> = tables.iter().map(|table| String::from_utf8_lossy(&table.name).into_owned()).collect();
        assert_eq!(names, ["f_config", "f_content", "f_data", "f_docsize", "f_idx", "g", "sqlite_schema", "w"]);
        assert_eq!(content_of(&conn, &|| true), Err(NoContent::Stopped));
    }
}
