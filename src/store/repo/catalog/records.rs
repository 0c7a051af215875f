//! Stores the records of snapshots in the catalog.
//! A record comes back exactly as it was put, or not at all: its sum covers the id and the record. `snapshot_ids` alone
//! verifies no sum: a wrong id does no harm, because no listing of the repository has it.

use rusqlite::{Connection, Transaction, params};

use super::fault::Fault;
use super::sum::{Kind, Sums};
use crate::id::SnapshotId;

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

/// Reads only the index over the ids. It has no sum, but a wrong id does no harm: no listing of the repository has it.
pub(super) fn snapshot_ids(conn: &Connection) -> Result<Vec<SnapshotId>, Fault> {
    let mut statement = conn.prepare_cached("SELECT id FROM snapshot ORDER BY id")?;
    let ids = statement.query_map([], |row| Ok(SnapshotId(row.get(0)?)))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn clear(tx: &Transaction) -> Result<(), Fault> {
    // sqlite_sequence stays, so that pack numbers are never given out twice.
    tx.execute_batch(
        "DELETE FROM pack; DELETE FROM trailer; DELETE FROM run; DELETE FROM block; DELETE FROM snapshot; DELETE FROM stamp_set;
         DELETE FROM stamp; DELETE FROM reading;",
    )?;
    Ok(())
}
