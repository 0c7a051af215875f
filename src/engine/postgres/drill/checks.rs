//! The checks of a restored database: amcheck for indexes and tables, and the user's assertions.
//!
//! Several connections work at once. amcheck runs as the superuser that restored, as it has to. The user's assertions
//! run as a role that may only read, in a read-only transaction, since they may call code of the dump. An assertion
//! that fails to run is a failed check, not an error of the drill.

use std::sync::atomic::{AtomicBool, Ordering};

use postgres::SimpleQueryMessage;

use crate::engine::drill::{Assertion, CheckReport, Outcome, Questions, in_threads, is_true};
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::restore::Scratch;
use crate::engine::postgres::{Connection, Conninfo};
use crate::error::Result;
use crate::progress::Monitor;

/// Most findings that are reported. Further ones say nothing new.
const FINDINGS_MAX: usize = 10;
/// The first version with `verify_heapam` (PostgreSQL documentation, F.1 amcheck).
const WITH_HEAP: u32 = 14_00_00;
/// The first version in which `bt_index_check` can look for rows that break uniqueness.
const WITH_UNIQUE: u32 = 17_00_00;
/// The first version that can notice a lost client while a query runs (PostgreSQL documentation, 20.3.2 TCP Settings).
const WITH_CLIENT_CHECK: u32 = 14_00_00;
/// Asks for that: when a drill is killed, its checks on the server must end too.
const CLIENT_CHECK: &str = "SET client_connection_check_interval = '5s'";
/// Warnings and notices are not read.
const SETTINGS: &str = "SET client_min_messages = error";

/// A table or an index to check.
struct Relation {
    name: String,
    is_index: bool,
    /// A query that gives a row for each fault, or fails with it.
    query: String,
}

/// The work of one connection.
enum Job<'a> {
    Relations(Vec<Relation>),
    Sql(&'a Assertion),
}

/// The outcome of a job.
enum Done {
    Relations { findings: Vec<String> },
    Sql(Result<String, String>),
}

/// Runs all checks, several at once. The report of amcheck comes first, then those of the assertions in their order.
pub(super) fn run(scratch: &mut Scratch, stream: &str, questions: Questions<'_>, monitor: &dyn Monitor) -> Result<Vec<CheckReport>> {
    let Questions { assertions, threads } = questions;
    let prepared = Connection::open(&scratch.conninfo).map_err(|e| Unchecked::Failed(e.to_string())).and_then(prepare);
    let mut jobs = Vec::new();
    let (mut indexes, mut tables) = (0, 0);
    let prepared = prepared.map(|relations| {
        indexes = relations.iter().filter(|relation| relation.is_index).count();
        tables = relations.len() - indexes;
        jobs.extend(dealt(relations, threads).into_iter().map(Job::Relations));
    });
    jobs.extend(assertions.iter().map(|named| Job::Sql(&named.assertion)));
    let asking = if assertions.is_empty() { Ok(scratch.conninfo.clone()) } else { scratch.asking().map_err(|e| e.to_string()) };
    let conninfo = (scratch.conninfo.clone(), asking);
    let done = in_threads(threads, &jobs, monitor, |job, stop| job.run(&conninfo, stop), || scratch.end_sessions())?;
    let (mut findings, mut checks) = (Vec::new(), Vec::new());
    for one in done {
        match one {
            Done::Relations { findings: more } => findings.extend(more),
            Done::Sql(outcome) => checks.push(CheckReport::of(Some(stream), "sql", outcome)),
        }
    }
    let told = || findings.iter().take(FINDINGS_MAX).cloned().collect::<Vec<_>>().join("; ");
    let integrity = |outcome| CheckReport::of(Some(stream), "integrity", outcome);
    checks.insert(
        0,
        match prepared {
            Err(Unchecked::Absent(why)) => CheckReport { outcome: Outcome::Skipped, ..integrity(Ok(why)) },
            Err(Unchecked::Failed(why)) => integrity(Err(why)),
            Ok(()) if findings.is_empty() => integrity(Ok(format!("amcheck: {indexes} indexes and {tables} tables are ok"))),
            Ok(()) => integrity(Err(told())),
        },
    );
    Ok(checks)
}

/// Divides the relations among connections. They come largest first, so each connection gets about as many pages.
fn dealt(relations: Vec<Relation>, hands: usize) -> Vec<Vec<Relation>> {
    let mut dealt: Vec<Vec<Relation>> = (0..hands.clamp(1, relations.len().max(1))).map(|_| Vec::new()).collect();
    let count = dealt.len();
    for (number, relation) in relations.into_iter().enumerate() {
        if let Some(hand) = dealt.get_mut(number % count) {
            hand.push(relation);
        }
    }
    dealt
}

/// Why amcheck did not run.
enum Unchecked {
    /// It is not installed, or this role may not use it. The check counts as skipped.
    Absent(String),
    /// Preparing it failed. The check counts as failed.
    Failed(String),
}

/// Creates the extension, unless the database has it, and lists everything that it can check: catalogs and TOAST tables
/// too.
fn prepare(mut connection: Connection) -> Result<Vec<Relation>, Unchecked> {
    let failed = |e: postgres::Error| Unchecked::Failed(explain(&e));
    let client = &mut connection.client;
    client.batch_execute(SETTINGS).map_err(failed)?;
    let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'), \
                 (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)";
    let row = client.query_one(there, &[]).map_err(failed)?;
    let (is_available, is_super): (bool, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    if !is_available {
        let text = "the server's machine has no amcheck (Debian and Ubuntu: it comes with the server; else postgresql-contrib)";
        return Err(Unchecked::Absent(text.to_owned()));
    }
    if !is_super {
        return Err(Unchecked::Absent("only a superuser may create and use the extension amcheck".to_owned()));
    }
    // As a replica, so that event triggers that the dump brought along do not fire.
    client
        .batch_execute("SET session_replication_role = replica; CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA pg_catalog")
        .map_err(failed)?;
    let schema = "SELECT quote_ident(n.nspname) FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
                  WHERE e.extname = 'amcheck'";
    let schema: String = client.query_one(schema, &[]).and_then(|row| row.try_get(0)).map_err(failed)?;
    // In a database without an encoding, names may be invalid UTF-8 and cannot be sent as text. So they are sent as
    // bytes.
    let list = "SELECT c.oid, pg_catalog.convert_to(n.nspname || '.' || c.relname, CASE pg_catalog.getdatabaseencoding() WHEN 'SQL_ASCII' \
                THEN 'SQL_ASCII' ELSE 'UTF8' END), c.relkind = 'i' FROM pg_catalog.pg_class c \
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am a ON a.oid = c.relam \
                LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
                WHERE c.relpersistence <> 't' AND ((c.relkind = 'i' AND a.amname = 'btree' AND i.indisvalid AND i.indisready) \
                OR (c.relkind IN ('r', 't', 'm') AND a.amname = 'heap')) ORDER BY c.relpages DESC, c.oid";
    let version = connection.version;
    let rows = connection.client.query(list, &[]).map_err(failed)?;
    let relations = rows.iter().map(|row| {
        let (oid, name, is_index): (u32, Vec<u8>, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let name = String::from_utf8_lossy(&name).into_owned();
        let query = match is_index {
            true => {
                let unique = if version >= WITH_UNIQUE { ", checkunique => true" } else { "" };
                // The function returns void, which is shown as an empty text, and fails if it finds a fault.
                format!("SELECT {schema}.bt_index_check(index => {oid}::regclass, heapallindexed => true{unique})")
            }
            false => format!(
                "SELECT 'block ' || blkno || coalesce(', row ' || offnum, '') || ': ' || msg \
                 FROM {schema}.verify_heapam(relation => {oid}::regclass, check_toast => true) LIMIT {FINDINGS_MAX}"
            ),
        };
        Ok(Relation { name, is_index, query })
    });
    let all: Vec<Relation> = relations.collect::<Result<_, postgres::Error>>().map_err(failed)?;
    Ok(all.into_iter().filter(|relation| relation.is_index || version >= WITH_HEAP).collect())
}

impl Job<'_> {
    /// Runs the job. amcheck connects with `looking`, an assertion with `asking`.
    fn run(&self, (looking, asking): &(Conninfo, Result<Conninfo, String>), stop: &AtomicBool) -> Done {
        let opened = match (self, asking) {
            (Job::Relations(_), _) => Connection::open(looking).map_err(|e| e.to_string()),
            (Job::Sql(_), Ok(asking)) => Connection::open_as_an_application(asking).map_err(|e| e.to_string()),
            (Job::Sql(_), Err(why)) => Err(why.clone()),
        };
        let connection = opened.and_then(|mut connection| {
            connection.client.batch_execute(SETTINGS).map_err(|e| explain(&e))?;
            if connection.version >= WITH_CLIENT_CHECK {
                // A server on a system without this function refuses the setting. Then a killed drill's checks only end
                // later.
                let _ = connection.client.batch_execute(CLIENT_CHECK);
            }
            Ok(connection)
        });
        match (self, connection) {
            (Job::Relations(_), Err(error)) => Done::Relations { findings: vec![error] },
            (Job::Relations(relations), Ok(mut connection)) => Done::Relations { findings: look(relations, &mut connection, stop) },
            (Job::Sql(assertion), Err(error)) => Done::Sql(assertion.judge(Err(error))),
            (Job::Sql(assertion), Ok(mut connection)) => Done::Sql(assertion.judge(first_value(&mut connection, &assertion.sql))),
        }
    }
}

/// The faults of these relations.
fn look(relations: &[Relation], connection: &mut Connection, stop: &AtomicBool) -> Vec<String> {
    let mut findings = Vec::new();
    for relation in relations {
        if stop.load(Ordering::Relaxed) || connection.client.is_closed() {
            break;
        }
        let kind = if relation.is_index { "index" } else { "table" };
        match values(connection, &relation.query) {
            Ok(found) => findings.extend(
                found.into_iter().flatten().filter(|text| !text.is_empty()).map(|text| format!("{kind} {}: {text}", relation.name)),
            ),
            Err(error) => findings.push(format!("{kind} {}: {error}", relation.name)),
        }
    }
    findings
}

/// The first column of a query's result, as text.
fn values(connection: &mut Connection, query: &str) -> Result<Vec<Option<String>>, String> {
    let messages = connection.client.simple_query(query).map_err(|e| explain(&e))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.try_get(0).ok().flatten().map(str::to_owned)),
            _ => None,
        })
        .collect())
}

/// The first value of the first row, and whether it is true. Further rows are not read. The query runs in a read-only
/// transaction.
fn first_value(connection: &mut Connection, sql: &str) -> Result<Option<(bool, String)>, String> {
    // The server refuses to prepare a text with several statements. Without this, one of them could end the read-only
    // transaction.
    connection.client.prepare(sql).map_err(|e| explain(&e))?;
    connection.client.batch_execute(&format!("BEGIN READ ONLY; DECLARE asked NO SCROLL CURSOR FOR {sql}")).map_err(|e| explain(&e))?;
    let rows = values(connection, "FETCH 1 FROM asked")?;
    Ok(rows.into_iter().next().map(|value| match value {
        // The server writes a boolean as `t` or `f`.
        Some(text) => (text == "t" || is_true(&text), text),
        None => (false, "NULL".to_owned()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_shared_out() {
        let relation = |n: usize| Relation { name: n.to_string(), is_index: true, query: String::new() };
        let names = |hands: usize, count: usize| -> Vec<String> {
            let dealt = dealt((0..count).map(relation).collect(), hands);
            dealt.iter().map(|hand| hand.iter().map(|relation| relation.name.as_str()).collect()).collect()
        };
        assert_eq!(names(2, 5), ["024", "13"]);
        assert_eq!(names(8, 2), ["0", "1"]);
        assert_eq!(names(0, 2), ["01"]);
        assert_eq!(names(3, 0), [""]);
    }
}
