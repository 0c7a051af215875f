//! Says what an error of SQLite means for a database, and provides stand-ins for functions and collations of the
//! application.
//!
//! An application may register collations and functions of its own, and use them in the schema to order an index or to
//! compute a column. SQLite then refuses whole statements here, although all bytes are readable. With a stand-in under
//! the same name it reads on. Stand-ins give other results than the originals, so nothing that depends on one may be
//! judged.

use std::collections::BTreeSet;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, ErrorCode, Result};

/// The most stand-ins for one connection.
const STAND_INS_MAX: usize = 1000;

/// Parts of messages. They say that this SQLite cannot load a schema because the application has functions, collations
/// or modules of its own.
const APPLICATION_ONLY: [&str; 7] = [
    "no such function: ",
    "no such collation sequence: ",
    "no such module: ",
    "wrong number of arguments to function ",
    "misuse of aggregate",
    " - unsafe",
    " prohibited in ",
];

/// What an error means for a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Bytes are not as SQLite wrote them.
    Damage,
    /// This SQLite cannot tell: it lacks something that the application has, or is older, or has other limits.
    NotJudged,
    /// The caller has interrupted the work.
    Stopped,
}

/// What an error means for a database. `written_by` is the version of SQLite that wrote it last (bytes 96 to 99 of its
/// header).
pub fn meaning(error: &rusqlite::Error, written_by: u32) -> Meaning {
    match code(error) {
        Some(ErrorCode::OperationInterrupted) => Meaning::Stopped,
        Some(ErrorCode::DatabaseCorrupt) if needs_application(&message(error), written_by) => Meaning::NotJudged,
        // An error without a code comes from rusqlite: a value in the schema has a type that no sound schema has.
        None | Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            Meaning::Damage
        }
        Some(_) => Meaning::NotJudged,
    }
}

/// The code of an error of SQLite. `None` for an error of rusqlite.
fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => Some(error.code),
        _ => None,
    }
}

/// Whether a schema does not load because it needs its application or a newer SQLite. A schema that breaks the rules of
/// the version that wrote it is damaged.
fn needs_application(text: &str, written_by: u32) -> bool {
    let is_newer = i32::try_from(written_by).is_ok_and(|version| version > rusqlite::version_number());
    text.starts_with("malformed database schema") && (is_newer || APPLICATION_ONLY.iter().any(|reason| text.contains(reason)))
}

/// SQLite's message, without the statement.
pub fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(text)) | rusqlite::Error::SqlInputError { msg: text, .. } => text.clone(),
        other => other.to_string(),
    }
}

/// The names of a connection's stand-ins, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StandIns {
    /// Functions. Each gives NULL.
    pub functions: BTreeSet<String>,
    /// Collations. Each compares bytes.
    pub collations: BTreeSet<String>,
}

impl StandIns {
    /// Whether nothing was missing.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.collations.is_empty()
    }

    /// Runs something on the connection. As long as it fails because a name is missing, that name gets a stand-in and
    /// it runs again. SQLite names only the first missing one each time.
    ///
    /// # Errors
    /// Any other error of `run`.
    pub fn run<T>(&mut self, conn: &Connection, mut run: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match run() {
                Err(error) if self.add(conn, &message(&error))? => {}
                outcome => return outcome,
            }
        }
    }

    /// Makes a stand-in for the name that is missing by this message. Gives `false` if the message names none, or one
    /// that was made already.
    fn add(&mut self, conn: &Connection, message: &str) -> Result<bool> {
        // A schema made for it could ask for names without end.
        if self.functions.len() + self.collations.len() >= STAND_INS_MAX {
            return Ok(false);
        }
        if let Some(name) = message.strip_prefix("no such collation sequence: ") {
            let is_new = self.collations.insert(name.to_lowercase());
            return if is_new { conn.create_collation(name, |one: &str, other: &str| one.cmp(other)).map(|()| true) } else { Ok(false) };
        }
        let function = message.strip_prefix("no such function: ").or_else(|| {
            // "unknown function" comes from the expression of an index: it is parsed with the schema, before functions
            // are looked up.
            let before = ["wrong number of arguments to function ", "unknown function: "];
            before.iter().find_map(|before| message.strip_prefix(before)?.strip_suffix("()"))
        });
        let Some(name) = function.filter(|name| self.functions.insert(name.to_lowercase())) else { return Ok(false) };
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
        conn.create_scalar_function(name, -1, flags, |_| Ok(None::<i64>)).map(|()| true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn missing_names_get_stand_ins() {
        let conn = Connection::open_in_memory().unwrap();
        let mut stand_ins = StandIns::default();
        let sql = "SELECT ours(1, 2), Other(), lower(1, 2, 3) FROM (SELECT 1 AS a UNION SELECT 2) ORDER BY a || '' COLLATE \"Unicase\"";
        stand_ins.run(&conn, || conn.prepare(sql).map(drop)).unwrap();
        assert_eq!(stand_ins.functions.iter().map(String::as_str).collect::<Vec<_>>(), ["lower", "other", "ours"]);
        assert_eq!(stand_ins.collations.iter().map(String::as_str).collect::<Vec<_>>(), ["unicase"]);
        let dir = tempfile::tempdir().unwrap();
        let application = Connection::open(dir.path().join("db")).unwrap();
        application
            .create_scalar_function("mine", 1, FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC, |_| Ok(1_i64))
            .unwrap();
        application.execute_batch("CREATE TABLE t(a); CREATE INDEX i ON t(mine(a))").unwrap();
        let conn = Connection::open(dir.path().join("db")).unwrap();
        stand_ins.run(&conn, || conn.prepare("PRAGMA integrity_check").map(drop)).unwrap();
        assert!(stand_ins.functions.contains("mine"));
        let error = stand_ins.run(&conn, || conn.prepare("SELECT * FROM nowhere").map(drop)).unwrap_err();
        assert!(error.to_string().contains("no such table"), "{error}");
    }

    #[test]
    fn a_schema_of_a_newer_version_or_with_functions_of_the_application_is_not_judged() {
        let corrupt =
            |text: &str| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), Some(text.to_owned()));
        let ours = rusqlite::version_number() as u32;
        let syntax = corrupt("malformed database schema (t) - near \"FUTURE\": syntax error");
        assert_eq!(meaning(&syntax, ours), Meaning::Damage);
        assert_eq!(meaning(&syntax, ours + 1), Meaning::NotJudged);
        assert_eq!(
            meaning(&corrupt("malformed database schema (i) - wrong number of arguments to function lower()"), 0),
            Meaning::NotJudged
        );
        assert_eq!(meaning(&corrupt("malformed database schema (i) - orphan index"), 0), Meaning::Damage);
        assert_eq!(meaning(&corrupt("database disk image is malformed"), ours + 1), Meaning::Damage);
        let missing = Connection::open_in_memory().unwrap().prepare("SELECT ours(1)").map(drop).unwrap_err();
        assert_eq!(meaning(&missing, ours), Meaning::NotJudged);
    }
}
