//! The drill checks of restored SQLite databases: SQLite's own full check, the header, the content of all tables
//! against what was recorded at the capture, and the user's assertions.
//!
//! Several checks run at once, each with a connection of its own to a file that nothing else has open. All of them can
//! be interrupted. The databases are not trusted: what their schemas make SQLite do is bounded.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, InterruptHandle, OptionalExtension};

use super::check::{Depth, check, open_immutable};
use crate::engine::drill::{Assertion, CheckReport, NamedAssertion, Outcome, in_threads, is_true};
use crate::engine::place::Findings;
use crate::engine::sqlite::bounds::unbound_work;
use crate::engine::sqlite::content::{NoContent, content_of};
use crate::engine::stored::StreamInfo;
use crate::error::Result;
use crate::progress::Monitor;
use crate::recorded::{EntryKind, SqliteFacts, TableContent};

/// The most findings that are reported. More would say nothing new.
const FINDINGS_MAX: usize = 10;

/// One check of one database.
struct Job<'a> {
    stream: String,
    path: PathBuf,
    kind: JobKind<'a>,
    /// The bytes that it goes through, for progress.
    bytes: u64,
}

enum JobKind<'a> {
    Integrity,
    Header(&'a SqliteFacts),
    Content(&'a [TableContent]),
    Sql(&'a Assertion),
}

/// All checks of a snapshot's databases.
pub(in crate::engine) struct Work<'a> {
    jobs: Vec<Job<'a>>,
}

impl<'a> Work<'a> {
    pub(in crate::engine) fn of(dir: &Path, streams: &'a [StreamInfo], assertions: &'a [NamedAssertion]) -> Self {
        let mut jobs = Vec::new();
        // The longest first: a long one that starts last would run alone at the end.
        let mut databases: Vec<&StreamInfo> = streams.iter().filter(|stream| matches!(stream.kind, EntryKind::Sqlite(_))).collect();
        databases.sort_by_key(|stream| std::cmp::Reverse(stream.len));
        for entry in databases {
            let EntryKind::Sqlite(facts) = &entry.kind else { continue };
            let mut add = |kind| {
                let path = dir.join(OsStr::from_bytes(&entry.name));
                let bytes = if matches!(kind, JobKind::Integrity | JobKind::Content([_, ..])) { entry.len } else { 0 };
                jobs.push(Job { stream: String::from_utf8_lossy(&entry.name).into_owned(), path, kind, bytes });
            };
            add(JobKind::Integrity);
            add(JobKind::Content(&entry.tables));
            add(JobKind::Header(facts));
            assertions.iter().filter(|named| named.is_about(&entry.name)).for_each(|named| add(JobKind::Sql(&named.assertion)));
        }
        Work { jobs }
    }

    /// Runs all checks. The reports come in the order of the work.
    pub(in crate::engine) fn run(&self, threads: usize, monitor: &dyn Monitor) -> Result<Vec<CheckReport>> {
        // The handle of each connection that was opened, so that a stop reaches statements that run for long.
        let handles: Mutex<Vec<InterruptHandle>> = Mutex::new(Vec::new());
        let interrupt = || handles.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(InterruptHandle::interrupt);
        monitor.phase("checking", Some(self.jobs.iter().map(|job| job.bytes).sum()));
        let run = |job: &Job<'_>, stop: &AtomicBool| {
            let report = job.run(stop, &handles);
            monitor.advance(job.bytes);
            report
        };
        in_threads(threads, &self.jobs, monitor, run, interrupt)
    }
}

impl Job<'_> {
    fn name(&self) -> &'static str {
        match self.kind {
            JobKind::Integrity => "integrity",
            JobKind::Header(_) => "header",
            JobKind::Content(_) => "content",
            JobKind::Sql(_) => "sql",
        }
    }

    fn run(&self, stop: &AtomicBool, handles: &Mutex<Vec<InterruptHandle>>) -> CheckReport {
        let report = |outcome| CheckReport::of(Some(&self.stream), self.name(), outcome);
        if let JobKind::Content([]) = self.kind {
            let detail = "no content was recorded at the capture (see `backup sqlite --content`)".to_owned();
            return CheckReport { outcome: Outcome::Skipped, ..report(Ok(detail)) };
        }
        if let JobKind::Integrity = self.kind {
            let opened = |conn: &Connection| {
                handles.lock().unwrap_or_else(PoisonError::into_inner).push(conn.get_interrupt_handle());
            };
            return integrity(&self.stream, check(&self.path, Depth::Full, &opened));
        }
        let mut conn = match open_immutable(&self.path) {
            Ok(conn) => conn,
            Err(e) => return report(Err(format!("it cannot be opened: {e}"))),
        };
        handles.lock().unwrap_or_else(PoisonError::into_inner).push(conn.get_interrupt_handle());
        match self.kind {
            // Not reached: done above, with connections of its own.
            JobKind::Integrity => integrity(&self.stream, Findings::default()),
            JobKind::Header(facts) => report(header(&conn, facts)),
            JobKind::Content(recorded) => match content(&conn, recorded, &|| stop.load(Ordering::Relaxed)) {
                Ok(outcome) => report(outcome),
                Err(reason) => CheckReport { outcome: Outcome::Skipped, ..report(Ok(format!("not compared: {reason}"))) },
            },
            JobKind::Sql(assertion) => report(assertion.judge(first_value(&mut conn, &assertion.sql))),
        }
    }
}

/// The report of SQLite's full check. Only damage fails a drill; `check/mod.rs` says what counts as damage.
fn integrity(stream: &str, findings: Findings) -> CheckReport {
    let told = |what: &str, lines: &[String]| if lines.is_empty() { String::new() } else { format!("; {what}: {}", lines.join("; ")) };
    let rest = told("warnings", &findings.warnings) + &told("not checked", &findings.not_checked);
    let outcome = match findings.damage.is_empty() {
        true => Ok(format!("ok{rest}")),
        false => Err(findings.damage.join("; ") + &rest),
    };
    let Findings { warnings, not_checked, .. } = findings;
    CheckReport { warnings, not_checked, ..CheckReport::of(Some(stream), "integrity", outcome) }
}

/// Compares values of the header with those that were recorded. A backup must not change them, and a repair by hand
/// easily does.
fn header(conn: &Connection, facts: &SqliteFacts) -> Result<String, String> {
    let encoding = ["", "UTF-8", "UTF-16le", "UTF-16be"].get(facts.encoding as usize).copied().unwrap_or_default();
    let pragmas = [
        ("page_size", facts.page_size.to_string()),
        ("page_count", facts.page_count.to_string()),
        ("user_version", facts.user_version.to_string()),
        ("application_id", facts.application_id.to_string()),
        ("encoding", encoding.to_owned()),
    ];
    let mut wrong = Vec::new();
    // Some of these pragmas read the schema. With this setting, entries that only the application understands are
    // skipped.
    if let Err(e) = conn.execute_batch("PRAGMA writable_schema=ON") {
        return Err(e.to_string());
    }
    // For an empty database, and for the encoding of one without text, SQLite gives the values that it would use. There
    // is nothing to compare.
    for (name, recorded) in pragmas.iter().filter(|(name, recorded)| facts.page_count > 0 && !(*name == "encoding" && recorded.is_empty()))
    {
        let found = conn.query_row(&format!("PRAGMA {name}"), [], |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Integer(number) => number.to_string(),
                other => other.as_str().unwrap_or_default().to_owned(),
            })
        });
        match found {
            Ok(found) if found == *recorded => {}
            Ok(found) => wrong.push(format!("{name} is {found}, recorded was {recorded}")),
            Err(e) => wrong.push(format!("{name}: {e}")),
        }
    }
    if wrong.is_empty() { Ok("as recorded".to_owned()) } else { Err(wrong.join("; ")) }
}

/// Compares the content of all tables with what was recorded. The outer error says why they could not be compared.
fn content(conn: &Connection, recorded: &[TableContent], stop: &dyn Fn() -> bool) -> Result<Result<String, String>, String> {
    let found = match content_of(conn, stop) {
        Ok(found) => found,
        Err(NoContent::Damaged(detail)) => return Ok(Err(detail)),
        Err(NoContent::Unreadable(detail)) => return Err(detail),
        Err(NoContent::Stopped) => return Err("stopped".to_owned()),
    };
    let wrong = differences(recorded, &found);
    Ok(match wrong.is_empty() {
        true => {
            let rows: u64 = found.iter().map(|table| table.rows).sum();
            Ok(format!("{rows} rows in {} tables, with the content of the capture", found.len()))
        }
        false => Err(wrong.iter().take(FINDINGS_MAX).cloned().collect::<Vec<_>>().join("; ")),
    })
}

fn differences(recorded: &[TableContent], found: &[TableContent]) -> Vec<String> {
    let by_name = |tables: &[TableContent]| -> BTreeMap<Vec<u8>, TableContent> {
        tables.iter().map(|table| (table.name.clone(), table.clone())).collect()
    };
    let (recorded, mut found) = (by_name(recorded), by_name(found));
    let mut wrong = Vec::new();
    for (name, was) in &recorded {
        let shown = String::from_utf8_lossy(name);
        match found.remove(name) {
            None => wrong.push(format!("table {shown} is missing")),
            Some(now) if now.rows != was.rows => wrong.push(format!("table {shown} has {} rows, recorded were {}", now.rows, was.rows)),
            Some(now) if now.sum != was.sum => wrong.push(format!("table {shown} has other content, in {} rows as recorded", now.rows)),
            Some(_) => {}
        }
    }
    wrong.extend(found.keys().map(|name| format!("table {} was not recorded", String::from_utf8_lossy(name))));
    wrong
}

/// The first value of the first row, and whether it is true.
fn first_value(conn: &mut Connection, sql: &str) -> rusqlite::Result<Option<(bool, String)>> {
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    conn.execute_batch("PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY")?;
    // The schema comes from the owner of the database and the statement from the user. So the schema is loaded under
    // the bound on work, and the statement runs without it. An error of the schema comes up again in the statement.
    let _ = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    unbound_work(conn)?;
    let row = conn.query_row(sql, [], |row| {
        Ok(match row.get_ref(0)? {
            ValueRef::Integer(number) => (number != 0, number.to_string()),
            ValueRef::Real(number) => (number != 0.0, number.to_string()),
            ValueRef::Null => (false, "NULL".to_owned()),
            other => {
                let text = String::from_utf8_lossy(other.as_bytes().unwrap_or_default()).into_owned();
                (is_true(&text), text)
            }
        })
    });
    row.optional()
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn content_is_compared_with_what_was_recorded() {
        let conn = Connection::open_in_memory().expect("memory");
        conn.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)").expect("two rows");
        let recorded = content_of(&conn, &|| false).expect("content");
        assert_eq!(content(&conn, &recorded, &|| false), Ok(Ok("3 rows in 2 tables, with the content of the capture".to_owned())));
        conn.execute_batch("UPDATE t SET a = 3 WHERE a = 2").expect("one row");
        assert_eq!(content(&conn, &recorded, &|| false), Ok(Err("table t has other content, in 2 rows as recorded".to_owned())));
    }

    #[test]
    fn every_difference_is_named() {
        let table = |name: &str, rows, byte| TableContent { name: name.into(), rows, sum: [byte; 32] };
        let recorded = [table("a", 1, 1), table("b", 2, 2), table("c", 3, 3), table("d", 4, 4)];
        let found = [table("a", 1, 1), table("b", 1, 2), table("c", 3, 9), table("e", 0, 0)];
        let expected = [
            "table b has 1 rows, recorded were 2",
            "table c has other content, in 3 rows as recorded",
            "table d is missing",
            "table e was not recorded",
        ];
        assert_eq!(differences(&recorded, &found), expected);
    }
}
