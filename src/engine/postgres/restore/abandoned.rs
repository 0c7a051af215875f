//! Finds and drops incomplete databases of restores and drills that were killed.
//!
//! A restore or drill holds an advisory lock with a random key, from before its database exists until it is complete
//! (restore) or dropped (drill). The database's comment has the key. The server releases the lock when the session
//! ends, however it ends. So a database with such a comment and a free lock is abandoned, and the next restore or drill
//! drops it.
//!
//! Guarantee: no other database is dropped. The comment also has the database's name and oid, so a database that was
//! renamed, or restored from a dump with such a comment, does not match. A database with sessions is never dropped.

use super::admin::Admin;
use super::sql;
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, WORK_COMMENT as COMMENT};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// Abandoned databases that this role may drop. `pg_locks` lists the locks of all databases, with the two halves of a
/// key in two columns ("Advisory locks can be acquired on keys consisting of a single bigint value", PostgreSQL's
/// documentation of `pg_locks`).
const ABANDONED: &str = "SELECT datname::text FROM pg_database WHERE pg_has_role(datdba, 'MEMBER') \
    AND starts_with(shobj_description(oid, 'pg_database'), PREFIX) AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
    AND shobj_description(pg_database.oid, 'pg_database') = PREFIX || ((classid::int8 << 32) | objid::int8)) ORDER BY 1";

/// How long dropping may take. If the server stops it, the database stays and can be dropped later.
const DROP_TIME: &str = "SET statement_timeout = '30s'";

/// Sets a new database's comment: the session that holds the lock `key` works on it.
pub(super) fn mark(admin: &mut Admin, database: &str, key: i64) -> Result<()> {
    let comment = admin.list(&format!("SELECT {COMMENT} FROM pg_database WHERE datname = $1::text"), &[database])?;
    let comment = comment.first().ok_or_else(|| Error::destination(database, "the new database was dropped by someone else"))?;
    set_comment(admin, database, &sql::literal(&format!("{comment}{key}")))
}

/// Removes the comment, as the database is complete.
pub(super) fn unmark(admin: &mut Admin, database: &str) -> Result<()> {
    set_comment(admin, database, "NULL")
}

fn set_comment(admin: &mut Admin, database: &str, literal: &str) -> Result<()> {
    admin.run(database, "its comment cannot be set", &format!("COMMENT ON DATABASE {} IS {literal}", sql::quote(database)))
}

/// Drops abandoned databases. One with sessions stays (DROP DATABASE without FORCE fails): pg_restore of a killed
/// restore may still work in it, or the restore has only lost its connection and will take its lock again. A failure
/// here is a warning and does not stop the caller's restore.
pub(super) fn drop_abandoned(admin: &mut Admin, monitor: &dyn Monitor) {
    let abandoned = match admin.list(&ABANDONED.replace("PREFIX", COMMENT), &[]) {
        Ok(abandoned) => abandoned,
        Err(error) => return monitor.warn(&format!("databases of killed restores cannot be looked for: {error}")),
    };
    for database in abandoned {
        // With a limit: the server waits until every session has closed the database's files, and one may not do so for
        // hours.
        let dropped = admin.run(&database, "cannot be dropped", DROP_TIME).and_then(|()| drop(admin, &database, ""));
        let is_reset = admin.run(&database, "cannot be dropped", "SET statement_timeout = 0");
        match dropped.and(is_reset) {
            Ok(()) => monitor.warn(&format!("database {database}, which a killed restore or drill had left, was dropped")),
            // Another restore has dropped it first.
            Err(_) if admin.exists(&database).is_ok_and(|is_there| !is_there) => {}
            Err(error) => monitor.warn(&format!("a database of a killed restore or drill is left: {error}")),
        }
    }
}

/// Drops a database. `how` is put at the end of the statement. The server does not drop templates, and the dumped
/// database may have been one, so that property is cleared first.
pub(super) fn drop(admin: &mut Admin, database: &str, how: &str) -> Result<()> {
    let name = sql::quote(database);
    if admin.is("SELECT datistemplate FROM pg_database WHERE datname = $1::text", &[database])? {
        admin.run(database, "cannot be dropped", &format!("ALTER DATABASE {name} IS_TEMPLATE false"))?;
    }
    drop_subscriptions(admin, database)?;
    admin.run(database, "cannot be dropped", &format!("DROP DATABASE IF EXISTS {name}{how}"))
}

/// Drops the subscriptions of a database, since a database that has one cannot be dropped. Their slots on the publisher
/// belong to the database that was dumped. So each subscription is first separated from its slot; else dropping it
/// would drop the slot too.
fn drop_subscriptions(admin: &mut Admin, database: &str) -> Result<()> {
    let query = "SELECT subname::text FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = $1::text)";
    let names = admin.list(query, &[database])?;
    if names.is_empty() {
        return Ok(());
    }
    let mut connection = Connection::open(&admin.connection.conninfo.with_database(database))?;
    // As a replica, so that event triggers that the dump brought along do not fire. A role that may not set this goes
    // on without.
    let _ = connection.client.batch_execute("SET session_replication_role = replica");
    for name in names.iter().map(|name| sql::quote(name)) {
        for end in ["ALTER SUBSCRIPTION NAME DISABLE", "ALTER SUBSCRIPTION NAME SET (slot_name = NONE)", "DROP SUBSCRIPTION NAME"] {
            let failed =
                |e: postgres::Error| Error::destination(database, format!("its subscription {name} cannot be dropped: {}", explain(&e)));
            connection.client.batch_execute(&end.replace("NAME", &name)).map_err(failed)?;
        }
    }
    Ok(())
}
