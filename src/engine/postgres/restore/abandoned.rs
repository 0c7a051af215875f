//! Databases that were being made when their maker was killed.
//!
//! Whoever makes a database holds an advisory lock with a random number, from before it is there until it is whole (a restore) or dropped (a drill), and the
//! database's comment has the number. The server gives the lock up when the maker's session ends, however it ends. So a database with such a comment and a lock
//! that nobody holds is half-made or was only looked at, and whoever restores next drops it. The comment also has the database's name and number, so
//! one that was renamed to be kept, or restored from a dump with that comment in it, is not taken for one.

use super::admin::Admin;
use super::sql;
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, WORK_COMMENT as COMMENT};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// Databases with such a comment that nobody holds the lock of, and this role may drop. Locks of all databases are in `pg_locks`, whose columns have the halves
/// of the number ("Advisory locks can be acquired on keys consisting of a single bigint value", PostgreSQL's documentation of `pg_locks`).
const ABANDONED: &str = "SELECT datname::text FROM pg_database WHERE pg_has_role(datdba, 'MEMBER') \
    AND starts_with(shobj_description(oid, 'pg_database'), PREFIX) AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 \
    AND shobj_description(pg_database.oid, 'pg_database') = PREFIX || ((classid::int8 << 32) | objid::int8)) ORDER BY 1";

/// How long dropping one may take. One that was stopped in the middle of that can still be dropped.
const DROP_TIME: &str = "SET statement_timeout = '30s'";

/// Says in a new database's comment that whoever holds the lock `key` works on it.
pub(super) fn mark(admin: &mut Admin, database: &str, key: i64) -> Result<()> {
    let comment = admin.list(&format!("SELECT {COMMENT} FROM pg_database WHERE datname = $1::text"), &[database])?;
    let comment = comment.first().ok_or_else(|| Error::destination(database, "it was dropped meanwhile"))?;
    set_comment(admin, database, &sql::literal(&format!("{comment}{key}")))
}

/// Takes that back, as the database is whole.
pub(super) fn unmark(admin: &mut Admin, database: &str) -> Result<()> {
    set_comment(admin, database, "NULL")
}

fn set_comment(admin: &mut Admin, database: &str, literal: &str) -> Result<()> {
    admin.run(database, "its comment cannot be set", &format!("COMMENT ON DATABASE {} IS {literal}", sql::quote(database)))
}

/// Drops what others have left. A database with sessions in it is none of these, as a program of a killed restore or one of a restore that has
/// lost its connection may work in it. What cannot be dropped now stops nothing.
pub(super) fn drop_abandoned(admin: &mut Admin, monitor: &dyn Monitor) {
    let abandoned = match admin.list(&ABANDONED.replace("PREFIX", COMMENT), &[]) {
        Ok(abandoned) => abandoned,
        Err(error) => return monitor.warn(&format!("databases that killed restores have left cannot be looked for: {error}")),
    };
    for database in abandoned {
        // The server waits until every session has let go of the files, which one may not do for hours.
        let dropped = admin.run(&database, "cannot be dropped", DROP_TIME).and_then(|()| drop(admin, &database, ""));
        let is_reset = admin.run(&database, "cannot be dropped", "SET statement_timeout = 0");
        match dropped.and(is_reset) {
            Ok(()) => monitor.warn(&format!("database {database}, which a killed restore or drill had left, was dropped")),
            // Another restore was quicker.
            Err(_) if admin.exists(&database).is_ok_and(|is_there| !is_there) => {}
            Err(error) => monitor.warn(&format!("a killed restore or drill has left a database: {error}")),
        }
    }
}

/// Drops a database, with `how` behind the statement. Templates are not dropped, and it may be a copy of one.
pub(super) fn drop(admin: &mut Admin, database: &str, how: &str) -> Result<()> {
    let name = sql::quote(database);
    if admin.is("SELECT datistemplate FROM pg_database WHERE datname = $1::text", &[database])? {
        admin.run(database, "cannot be dropped", &format!("ALTER DATABASE {name} IS_TEMPLATE false"))?;
    }
    drop_subscriptions(admin, database)?;
    admin.run(database, "cannot be dropped", &format!("DROP DATABASE IF EXISTS {name}{how}"))
}

/// A database with subscriptions cannot be dropped. Their slots at the other end belong to the database that was dumped, so they are let go of first.
fn drop_subscriptions(admin: &mut Admin, database: &str) -> Result<()> {
    let query = "SELECT subname::text FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = $1::text)";
    let names = admin.list(query, &[database])?;
    if names.is_empty() {
        return Ok(());
    }
    let mut connection = Connection::open(&admin.connection.conninfo.with_database(database))?;
    // Event triggers of the database do not fire in this role. Only who may not set it has to do without.
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
