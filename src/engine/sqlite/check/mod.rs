//! Checks whether a database is sound: runs SQLite's own checks and sorts what they say by what it means.
//!
//! The file is one that nothing else uses yet, such as a restored database before it gets its name. It is only read.
//!
//! | class | what belongs to it | restore | drill |
//! |---|---|---|---|
//! | damage | pages, trees and records that are not as SQLite writes them: bytes that cannot be read | refused | failed |
//! | index | an index that differs from its table | warning | failed |
//! | warning | rows that break NOT NULL, a type or UNIQUE: the application or a migration did that, and every byte is readable | warning | warning |
//! | not checked | everything that needs a function, collation, module or version of SQLite that only the application has | reported | reported |
//!
//! An index that differs from its table hides no bytes: all rows are there, and REINDEX makes it anew. So it does not
//! stop a restore. It does fail a drill, because queries through it give wrong answers. If the index is ordered by
//! NOCASE or RTRIM or computed by a built-in function, it is a warning in both: applications replace those by functions
//! of their own, and then the index looks wrong only here.
//!
//! Functions and collations that are missing here get stand-ins (`errors.rs`), so that one index of the application
//! does not hide damage elsewhere. Findings that depend on stand-ins are left out.

mod classes;
mod schema;
mod virtual_tables;

use std::io::Read;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use self::classes::{Class, Lines, classify};
use self::schema::{IndexKind, Schema};
use crate::engine::place::Findings;
use crate::engine::sqlite::bounds::{bound_values, bound_work};
use crate::engine::sqlite::engine::immutable_uri;
use crate::engine::sqlite::errors::{Meaning, meaning, message};
use crate::engine::sqlite::held;

/// The number of findings after which SQLite stops looking. Rows that break a constraint count, too. So if there is no
/// damage among the first findings, the check runs again without a limit. (It does not begin without one: SQLite puts
/// all findings about pages into one text, and with much damage that would take any amount of memory.)
const FINDINGS_MAX: i32 = 100;

/// Memory for the pages of a database during a full check. Index entries are looked up in another order than they lie
/// in.
const CACHE_KIB: i64 = 32 << 10;

/// The place in the header of the version of SQLite that wrote last
/// (<https://sqlite.org/fileformat2.html#the_database_header>).
const WRITTEN_BY_OFFSET: usize = 96;

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// `PRAGMA quick_check`: pages and rows.
    Quick,
    /// `PRAGMA integrity_check`: also indexes and virtual tables.
    Full,
}

/// Checks a database that nothing else has open. Leaves no files beside it. `opened` gets each connection, so that the
/// caller can interrupt it.
pub(crate) fn check(path: &Path, depth: Depth, opened: &dyn Fn(&Connection)) -> Findings {
    let mut work = Work { depth, written_by: written_by(path), damage: Lines::new(), warnings: Lines::new(), not_checked: Lines::new() };
    if let Err(error) = work.pages_and_rows(path, opened) {
        work.failed("", &error);
    }
    // Only if no damage was found so far: damage in the tables that hold the data of a virtual table would be reported
    // twice.
    if depth == Depth::Full
        && work.damage.is_empty()
        && let Err(error) = work.virtual_tables(path, opened)
    {
        work.failed("", &error);
    }
    Findings { damage: work.damage.finish(), warnings: work.warnings.finish(), not_checked: work.not_checked.finish() }
}

/// A check in progress.
struct Work {
    depth: Depth,
    written_by: u32,
    damage: Lines,
    warnings: Lines,
    not_checked: Lines,
}

impl Work {
    /// Checks everything except virtual tables.
    fn pages_and_rows(&mut self, path: &Path, opened: &dyn Fn(&Connection)) -> rusqlite::Result<()> {
        let conn = open_immutable(path)?;
        opened(&conn);
        // Before the first statement, as `drop_modules` requires.
        drop_modules(&conn)?;
        self.set_up(&conn)?;
        let is_whole = self.load_schema(&conn)?;
        let pragma = if self.depth == Depth::Full { "integrity_check" } else { "quick_check" };
        let mut schema = Schema::new(&conn);
        schema.find_missing(&format!("PRAGMA {pragma}({FINDINGS_MAX})"))?;
        for line in schema.unjudged()? {
            self.not_checked.add(line);
        }
        // The second turn runs only if the first one has met its limit without damage.
        for limit in [FINDINGS_MAX, i32::MAX] {
            let mut statement = conn.prepare(&format!("PRAGMA {pragma}({limit})"))?;
            let mut rows = statement.query([])?;
            let mut count = 0;
            // The second turn finds everything again.
            (self.damage, self.warnings) = (Lines::new(), Lines::new());
            while let Some(row) = rows.next()? {
                let text = String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned();
                for line in lines_of(&text) {
                    self.sort(&mut schema, line, is_whole);
                }
                count += 1;
            }
            if count < limit || !self.damage.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Settings of a connection that checks.
    fn set_up(&self, conn: &Connection) -> rusqlite::Result<()> {
        // CHECK constraints are ignored: they may call functions of the application, and rows that break them are not
        // damage.
        conn.execute_batch(
            "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA ignore_check_constraints=ON; PRAGMA temp_store=MEMORY",
        )?;
        if self.depth == Depth::Full {
            conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
        }
        Ok(())
    }

    /// Reads the schema. Gives `false` if this SQLite can read only a part of it.
    fn load_schema(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        let Err(error) = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) else { return Ok(true) };
        if meaning(&error, self.written_by) != Meaning::NotJudged {
            return Err(error);
        }
        self.not_checked.add(format!("a part of the schema: {}", message(&error)));
        // With this setting SQLite skips entries that it cannot parse (sqlite3.c, SQLITE_NoSchemaError).
        conn.execute_batch("PRAGMA writable_schema=ON")?;
        Ok(false)
    }

    /// Adds a line to the findings of its class. `is_whole`: whether SQLite has read the whole schema.
    fn sort(&mut self, schema: &mut Schema<'_>, line: &str, is_whole: bool) {
        let depth = self.depth;
        let lines = match classify(line) {
            Class::Fine => return,
            // The pages of tables that SQLite has skipped look unused.
            Class::UnusedPage if !is_whole => return,
            Class::Damage | Class::UnusedPage => &mut self.damage,
            Class::NotJudged => &mut self.not_checked,
            Class::Row(place) if schema.is_unjudged_table_of(place) => return,
            Class::Row(_) => &mut self.warnings,
            Class::IndexCount(_) => return self.index_differs(line, depth == Depth::Full),
            Class::Index(name) => match schema.kind_of_index(name) {
                IndexKind::Application => return,
                IndexKind::BuiltIn => {
                    let why =
                        "the index is damaged, or its application has a collation or function of the same name; REINDEX makes it anew";
                    return self.warnings.add(format!("{line}: {why}"));
                }
                IndexKind::Plain => return self.index_differs(line, depth == Depth::Full),
            },
            // Rows that break UNIQUE are readable, and so is the index. So they are warnings, or nothing if only the
            // application can compare.
            Class::Unique(name) if schema.kind_of_index(name) == IndexKind::Application => return,
            Class::Unique(_) => &mut self.warnings,
            Class::KeyOrder(table) => match schema.kind_of_key(table) {
                IndexKind::Application => return,
                IndexKind::BuiltIn => &mut self.warnings,
                IndexKind::Plain => &mut self.damage,
            },
        };
        lines.add(line.to_owned());
    }

    /// Adds a line about an index that differs from its table.
    fn index_differs(&mut self, line: &str, is_damage: bool) {
        match is_damage {
            true => self.damage.add(line.to_owned()),
            false => self.warnings.add(format!("{line}: all rows are there; REINDEX makes the index anew")),
        }
    }

    /// Adds an error to the findings of its class. `what` says what was checked.
    fn failed(&mut self, what: &str, error: &rusqlite::Error) {
        let text = format!("{what}{}", message(error));
        match meaning(error, self.written_by) {
            Meaning::Damage => self.damage.add(text),
            Meaning::NotJudged => self.not_checked.add(text),
            // If the user has stopped the command, nobody reads this. So it is the bound on the work.
            Meaning::Stopped => self.not_checked.add(format!("{what}checking it takes more work than a database of this size should need")),
        }
    }
}

/// The findings in one row of the result. SQLite puts all findings about pages into one row, as lines after a heading.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    let split = text.starts_with("*** in database ");
    text.split(move |c| split && c == '\n').filter(|line| !line.starts_with("*** in database ") && !line.is_empty())
}

/// The version of SQLite that wrote last, as a number like 3054001. 0 if it cannot be read.
fn written_by(path: &Path) -> u32 {
    let mut header = [0; 100];
    let read = crate::fs::beneath::open_file(path).and_then(|mut file| file.read_exact(&mut header));
    let bytes = header.get(WRITTEN_BY_OFFSET..).and_then(|rest| rest.first_chunk::<4>());
    read.ok().and(bytes).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Removes the virtual table modules from a connection. Since SQLite 3.44 `quick_check` asks each virtual table to
/// check itself, and a full-text index then compares all of its content, which takes longer than the whole restore. The
/// ordinary tables that hold its data are still checked.
fn drop_modules(conn: &Connection) -> rusqlite::Result<()> {
    // SAFETY: the connection is open, used by this thread only, and has no statement yet. A null list means that no
    // module is kept.
    let code = unsafe { rusqlite::ffi::sqlite3_drop_modules(conn.handle(), std::ptr::null_mut()) };
    match code {
        rusqlite::ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)),
    }
}

/// Opens a database that does not change, for reading: without locks, and without touching or making side files. The
/// work that its content can cause is bounded (`bounds.rs`).
pub(crate) fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = held::open(Path::new(&immutable_uri(path)), flags)?;
    let len = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    bound_work(&mut conn, len)?;
    bound_values(&conn, len)?;
    Ok(conn)
}

/// A name as SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
