//! The rows of packs and their trailers. A pack's row has a sum over its number, id and sizes; a trailer has one over its number and bytes. So
//! a row that a damaged index leads to is noticed.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::block::Entry;
use super::fault::Fault;
use super::sum::{Kind, Sums};
use super::{KnownPack, NewPack, PackNum, prefix, sorted_runs};
use crate::id::PackId;
use crate::store::format::snapshot::PackRef;

const COLUMNS: &str = "num, id, size, trailer_offset, chunks, sum";

fn sum(sums: &Sums, known: &KnownPack) -> i64 {
    let PackRef { id, size, trailer_offset } = &known.pack;
    let numbers = [known.num.0.to_be_bytes(), known.chunks.to_be_bytes()].concat();
    sums.of(Kind::Pack, &[&numbers, id.as_bytes(), &size.to_be_bytes(), &trailer_offset.to_be_bytes()])
}

/// A row of [`COLUMNS`], verified.
fn from_row(sums: &Sums, row: &Row) -> Result<KnownPack, Fault> {
    let pack = PackRef {
        id: PackId(row.get(1)?),
        size: row.get::<_, i64>(2)?.cast_unsigned(),
        trailer_offset: row.get::<_, i64>(3)?.cast_unsigned(),
    };
    let known = KnownPack { num: PackNum(row.get(0)?), pack, chunks: row.get(4)? };
    if sum(sums, &known) == row.get::<_, i64>(5)? { Ok(known) } else { Err(Fault::damaged("the sum of a pack is wrong")) }
}

pub(super) fn all(conn: &Connection, sums: &Sums) -> Result<Vec<KnownPack>, Fault> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM pack ORDER BY num"))?;
    let mut rows = statement.query([])?;
    let mut packs = Vec::new();
    while let Some(row) = rows.next()? {
        packs.push(from_row(sums, row)?);
    }
    Ok(packs)
}

pub(super) fn by_id(conn: &Connection, sums: &Sums, id: &PackId) -> Result<Option<KnownPack>, Fault> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM pack WHERE id = ?1"))?;
    let known = statement.query_row([id.as_bytes()], |row| Ok(from_row(sums, row))).optional()?.transpose()?;
    // Damage to the index over the ids can lead to another pack's row.
    if known.is_some_and(|known| known.pack.id != *id) { Err(Fault::damaged("the index leads to another pack")) } else { Ok(known) }
}

pub(super) fn by_num(conn: &Connection, sums: &Sums, num: PackNum) -> Result<Option<KnownPack>, Fault> {
    let mut statement = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM pack WHERE num = ?1"))?;
    statement.query_row([num.0], |row| Ok(from_row(sums, row))).optional()?.transpose()
}

pub(super) fn trailer(conn: &Connection, sums: &Sums, num: PackNum) -> Result<Option<Vec<u8>>, Fault> {
    let mut statement = conn.prepare_cached("SELECT data, sum FROM trailer WHERE num = ?1")?;
    let Some((data, sum)) = statement.query_row([num.0], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?))).optional()? else {
        return Ok(None);
    };
    sums.verify(Kind::Trailer, &[&num.0.to_be_bytes(), &data], sum)?;
    Ok(Some(data))
}

/// Adds packs with their trailers, and one run with their chunks.
pub(super) fn add(tx: &Transaction, sums: &Sums, packs: &[NewPack]) -> Result<(), Fault> {
    let mut entries = Vec::with_capacity(packs.iter().map(|pack| pack.ids.len()).sum());
    for new in packs {
        // Two processes may add the same pack. A second row would make each of its chunks look like two copies.
        if by_id(tx, sums, &new.pack.id)?.is_some() {
            continue;
        }
        let known = insert(tx, sums, new)?;
        let num = known.num;
        let sum = sums.of(Kind::Trailer, &[&num.0.to_be_bytes(), new.trailer]);
        tx.prepare_cached("INSERT INTO trailer (num, data, sum) VALUES (?1, ?2, ?3)")?.execute(params![num.0, new.trailer, sum])?;
        entries.extend((0..known.chunks).zip(new.ids).map(|(index, id)| Entry { prefix: prefix(id), pack: num.0, index }));
    }
    // One run for all of them, however many they are: look-ups read every run.
    sorted_runs::add(tx, sums, &mut entries)
}

/// Makes a pack's row. Numbers are never used again (AUTOINCREMENT), so entries that outlive their pack do not lead to another one.
fn insert(tx: &Transaction, sums: &Sums, new: &NewPack) -> Result<KnownPack, Fault> {
    let chunks = u32::try_from(new.ids.len()).map_err(|_| Fault::Other("more chunks in a pack than can be numbered".into()))?;
    let PackRef { id, size, trailer_offset } = &new.pack;
    // The sum covers the number, which SQLite gives out here. So the row gets its sum in a second step of the same transaction.
    tx.prepare_cached("INSERT INTO pack (id, size, trailer_offset, chunks, sum) VALUES (?1, ?2, ?3, ?4, 0)")?.execute(params![
        id.as_bytes(),
        size.cast_signed(),
        trailer_offset.cast_signed(),
        chunks
    ])?;
    let num = u32::try_from(tx.last_insert_rowid()).map_err(|_| Fault::damaged("all pack numbers are used up"))?;
    let known = KnownPack { num: PackNum(num), pack: new.pack, chunks };
    tx.prepare_cached("UPDATE pack SET sum = ?2 WHERE num = ?1")?.execute(params![num, sum(sums, &known)])?;
    Ok(known)
}

/// Removes the rows of packs. The entries of their chunks stay in the runs until a merge drops them.
pub(super) fn remove(tx: &Transaction, sums: &Sums, ids: &[PackId]) -> Result<(), Fault> {
    for id in ids {
        let Some(known) = by_id(tx, sums, id)? else { continue };
        tx.prepare_cached("DELETE FROM pack WHERE num = ?1")?.execute([known.num.0])?;
        tx.prepare_cached("DELETE FROM trailer WHERE num = ?1")?.execute([known.num.0])?;
    }
    Ok(())
}
