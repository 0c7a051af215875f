//! The rows of snapshots and of stamps.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::StampSet;
use super::fault::Fault;
use super::sum::{Kind, Sums};
use crate::id::{SnapshotId, SourceId};

pub(super) fn put_snapshots(tx: &Transaction, sums: &Sums, snapshots: &[(SnapshotId, Vec<u8>)]) -> Result<(), Fault> {
    let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO snapshot (id, record, sum) VALUES (?1, ?2, ?3)")?;
    for (id, record) in snapshots {
        insert.execute(params![id.as_bytes(), record, sums.of(Kind::Snapshot, &[id.as_bytes(), record])])?;
    }
    Ok(())
}

pub(super) fn remove_snapshots(tx: &Transaction, ids: &[SnapshotId]) -> Result<(), Fault> {
    let mut delete = tx.prepare_cached("DELETE FROM snapshot WHERE id = ?1")?;
    for id in ids {
        delete.execute([id.as_bytes()])?;
    }
    Ok(())
}

pub(super) fn snapshots(conn: &Connection, sums: &Sums) -> Result<Vec<(SnapshotId, Vec<u8>)>, Fault> {
    let mut statement = conn.prepare_cached("SELECT id, record, sum FROM snapshot ORDER BY num")?;
    let mut rows = statement.query([])?;
    let mut snapshots = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, record) = (SnapshotId(row.get(0)?), row.get::<_, Vec<u8>>(1)?);
        sums.verify(Kind::Snapshot, &[id.as_bytes(), &record], row.get(2)?)?;
        snapshots.push((id, record));
    }
    Ok(snapshots)
}

/// Reads the index over the ids only. No sum covers it, but an id that comes out wrong is in no listing of the repository.
pub(super) fn snapshot_ids(conn: &Connection) -> Result<Vec<SnapshotId>, Fault> {
    let mut statement = conn.prepare_cached("SELECT id FROM snapshot ORDER BY id")?;
    let ids = statement.query_map([], |row| Ok(SnapshotId(row.get(0)?)))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

fn stamp_sum(sums: &Sums, source: &SourceId, snapshot: &SnapshotId, name: &[u8], stamp: &[u8]) -> i64 {
    sums.of(Kind::Stamp, &[source.as_bytes(), snapshot.as_bytes(), name, stamp])
}

pub(super) fn put_stamps(
    tx: &Transaction,
    sums: &Sums,
    source: SourceId,
    snapshot: SnapshotId,
    stamps: &[(Vec<u8>, Vec<u8>)],
) -> Result<(), Fault> {
    remove_stamps(tx, source)?;
    let sum = sums.of(Kind::StampSet, &[source.as_bytes(), snapshot.as_bytes()]);
    tx.prepare_cached("INSERT INTO stamp_set (source, snapshot, sum) VALUES (?1, ?2, ?3)")?.execute(params![
        source.as_bytes(),
        snapshot.as_bytes(),
        sum
    ])?;
    let set = tx.last_insert_rowid();
    let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO stamp (stamp_set, name, stamp, sum) VALUES (?1, ?2, ?3, ?4)")?;
    for (name, stamp) in stamps {
        insert.execute(params![set, name, stamp, stamp_sum(sums, &source, &snapshot, name, stamp)])?;
    }
    Ok(())
}

fn remove_stamps(tx: &Transaction, source: SourceId) -> Result<(), Fault> {
    let mut select = tx.prepare_cached("SELECT num FROM stamp_set WHERE source = ?1")?;
    let Some(set) = select.query_row([source.as_bytes()], |row| row.get::<_, i64>(0)).optional()? else { return Ok(()) };
    tx.prepare_cached("DELETE FROM stamp WHERE stamp_set = ?1")?.execute([set])?;
    tx.prepare_cached("DELETE FROM stamp_set WHERE num = ?1")?.execute([set])?;
    Ok(())
}

pub(super) fn stamps(conn: &Connection, sums: &Sums, source: SourceId) -> Result<Option<StampSet>, Fault> {
    let mut select = conn.prepare_cached("SELECT num, snapshot, sum FROM stamp_set WHERE source = ?1")?;
    let set = select.query_row([source.as_bytes()], |row| Ok((row.get::<_, i64>(0)?, SnapshotId(row.get(1)?), row.get(2)?)));
    let Some((set, snapshot, sum)) = set.optional()? else { return Ok(None) };
    sums.verify(Kind::StampSet, &[source.as_bytes(), snapshot.as_bytes()], sum)?;
    let mut statement = conn.prepare_cached("SELECT name, stamp, sum FROM stamp WHERE stamp_set = ?1")?;
    let mut rows = statement.query([set])?;
    let mut stamps = HashMap::new();
    while let Some(row) = rows.next()? {
        let (name, stamp) = (row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?);
        if stamp_sum(sums, &source, &snapshot, &name, &stamp) != row.get::<_, i64>(2)? {
            return Err(Fault::damaged("a stamp does not have its sum"));
        }
        stamps.insert(name, stamp);
    }
    Ok(Some((snapshot, stamps)))
}

pub(super) fn clear(tx: &Transaction) -> Result<(), Fault> {
    // sqlite_sequence stays: pack numbers that were given out are not given out again.
    tx.execute_batch(
        "DELETE FROM pack; DELETE FROM trailer; DELETE FROM run; DELETE FROM block; DELETE FROM snapshot; DELETE FROM stamp_set;
         DELETE FROM stamp; DELETE FROM reading;",
    )?;
    Ok(())
}
