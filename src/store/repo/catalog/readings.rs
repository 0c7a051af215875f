//! Stores when this machine last read each pack in full, and whether the pack was sound.
//! Each pack has one row with a sum over all its columns. A row with a wrong sum makes the whole catalog count as
//! damaged.

use rusqlite::{Connection, Transaction, params};

use super::PackReading;
use super::fault::Fault;
use super::sum::{Kind, Sums};
use crate::id::PackId;

fn sum(sums: &Sums, id: &PackId, reading: &PackReading) -> i64 {
    sums.of(Kind::Reading, &[id.as_bytes(), &reading.time_ns.to_be_bytes(), &[reading.is_sound.into()]])
}

pub(super) fn put(tx: &Transaction, sums: &Sums, readings: &[(PackId, PackReading)]) -> Result<(), Fault> {
    let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO reading (id, time, sound, sum) VALUES (?1, ?2, ?3, ?4)")?;
    for (id, reading) in readings {
        insert.execute(params![id.as_bytes(), reading.time_ns, reading.is_sound, sum(sums, id, reading)])?;
    }
    Ok(())
}

pub(super) fn remove(tx: &Transaction, ids: &[PackId]) -> Result<(), Fault> {
    let mut delete = tx.prepare_cached("DELETE FROM reading WHERE id = ?1")?;
    for id in ids {
        delete.execute([id.as_bytes()])?;
    }
    Ok(())
}

pub(super) fn all(conn: &Connection, sums: &Sums) -> Result<Vec<(PackId, PackReading)>, Fault> {
    let mut statement = conn.prepare_cached("SELECT id, time, sound, sum FROM reading ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut readings = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, reading) = (PackId(row.get(0)?), PackReading { time_ns: row.get(1)?, is_sound: row.get(2)? });
        if sum(sums, &id, &reading) != row.get::<_, i64>(3)? {
            return Err(Fault::damaged("the sum of a remembered reading is wrong"));
        }
        readings.push((id, reading));
    }
    Ok(readings)
}
