//! The stamps of a source's streams, in blocks of neighbours by name. A tree may have a million streams, and few change between two backups. So
//! stamps are read block by block, and only blocks that differ are written. Each block has a sum; a block without its sum is damage.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::fault::Fault;
use super::sum::{Kind, Sums};
use super::{NamedStamp, StampSet};
use crate::error::Result;
use crate::id::{SnapshotId, SourceId};
use crate::store::repo::{put_string, string_pairs};

/// A block ends when it has this many bytes, whatever the names are.
const BLOCK_LEN: usize = 64 << 10;

fn set_sum(sums: &Sums, source: &SourceId, snapshot: &SnapshotId) -> i64 {
    sums.of(Kind::StampSet, &[source.as_bytes(), snapshot.as_bytes()])
}

/// The sum does not cover the snapshot, so that a block that stays the same for the next snapshot is not written again. A block that an earlier
/// snapshot left is still right: a file with the same stamp as then has not changed in between.
fn block_sum(sums: &Sums, source: &SourceId, first: &[u8], block: &[u8]) -> i64 {
    sums.of(Kind::Stamp, &[source.as_bytes(), first, block])
}

/// Replaces the stamps of a source by `stamps`, which come sorted by name.
pub(super) fn put(
    tx: &Transaction,
    sums: &Sums,
    source: SourceId,
    snapshot: SnapshotId,
    stamps: &mut dyn Iterator<Item = Result<NamedStamp>>,
) -> std::result::Result<(), Fault> {
    let num = put_set(tx, sums, source, snapshot)?;
    let mut select = tx.prepare_cached("SELECT block FROM stamp WHERE stamp_set = ?1 AND name = ?2")?;
    let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO stamp (stamp_set, name, block, sum) VALUES (?1, ?2, ?3, ?4)")?;
    let mut remove = tx.prepare_cached("DELETE FROM stamp WHERE stamp_set = ?1 AND name > ?2 AND name < ?3")?;
    let mut last: Option<Vec<u8>> = None;
    while let Some((first, block)) = next_block(stamps)? {
        // Old blocks whose first name lies between two new ones are outdated: their names are in the new block before them.
        debug_assert!(last.as_ref().is_none_or(|last| *last < first), "stamps come sorted by name");
        match &last {
            Some(last) => remove.execute(params![num, last, first])?,
            None => tx.prepare_cached("DELETE FROM stamp WHERE stamp_set = ?1 AND name < ?2")?.execute(params![num, first])?,
        };
        // The block is compared without its sum. If the sum was damaged, reading this block reports that.
        let old = select.query_row(params![num, first], |row| row.get::<_, Vec<u8>>(0)).optional()?;
        if old.as_ref() != Some(&block) {
            insert.execute(params![num, first, block, block_sum(sums, &source, &first, &block)])?;
        }
        last = Some(first);
    }
    // Old blocks behind the last new one are outdated, too.
    match last {
        Some(last) => tx.prepare_cached("DELETE FROM stamp WHERE stamp_set = ?1 AND name > ?2")?.execute(params![num, last])?,
        None => tx.prepare_cached("DELETE FROM stamp WHERE stamp_set = ?1")?.execute([num])?,
    };
    Ok(())
}

fn put_set(tx: &Transaction, sums: &Sums, source: SourceId, snapshot: SnapshotId) -> std::result::Result<i64, Fault> {
    let sum = set_sum(sums, &source, &snapshot);
    let mut insert = tx.prepare_cached(
        "INSERT INTO stamp_set (source, snapshot, sum) VALUES (?1, ?2, ?3)
         ON CONFLICT (source) DO UPDATE SET snapshot = excluded.snapshot, sum = excluded.sum RETURNING num",
    )?;
    Ok(insert.query_row(params![source.as_bytes(), snapshot.as_bytes(), sum], |row| row.get(0))?)
}

/// The first name of a block, and its bytes.
type NamedBlock = (Vec<u8>, Vec<u8>);

fn next_block(stamps: &mut dyn Iterator<Item = Result<NamedStamp>>) -> std::result::Result<Option<NamedBlock>, Fault> {
    let mut next: Option<NamedBlock> = None;
    for stamp in stamps {
        let (name, stamp) = stamp.map_err(|error| Fault::Other(error.to_string()))?;
        // A name whose hash starts with a zero byte, one in 256, ends a block. That depends only on the name, so when names come or go
        // the other blocks keep their bounds.
        let ends = blake3::hash(&name).as_bytes().first() == Some(&0);
        let (_, block) = next.get_or_insert_with(|| (name.clone(), Vec::new()));
        let put = put_string(block, &name).and_then(|()| put_string(block, &stamp));
        put.ok_or_else(|| Fault::Other("a name or a stamp is too long".into()))?;
        if ends || block.len() >= BLOCK_LEN {
            break;
        }
    }
    Ok(next)
}

/// The stamps that were kept last for a source, if any.
pub(super) fn set(conn: &Connection, sums: &Sums, source: SourceId) -> std::result::Result<Option<StampSet>, Fault> {
    let mut select = conn.prepare_cached("SELECT num, snapshot, sum FROM stamp_set WHERE source = ?1")?;
    let found = select.query_row([source.as_bytes()], |row| Ok((row.get(0)?, SnapshotId(row.get(1)?), row.get(2)?)));
    let Some((num, snapshot, sum)) = found.optional()? else { return Ok(None) };
    sums.verify(Kind::StampSet, &[source.as_bytes(), snapshot.as_bytes()], sum)?;
    Ok(Some(StampSet { source, snapshot, num }))
}

/// The stamps of the block that has this name, if any block has it, sorted by name.
pub(super) fn around(conn: &Connection, sums: &Sums, set: &StampSet, name: &[u8]) -> std::result::Result<Vec<NamedStamp>, Fault> {
    let mut select =
        conn.prepare_cached("SELECT name, block, sum FROM stamp WHERE stamp_set = ?1 AND name <= ?2 ORDER BY name DESC LIMIT 1")?;
    let found = select.query_row(params![set.num, name], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?)));
    let Some((first, block, sum)) = found.optional()? else { return Ok(Vec::new()) };
    sums.verify(Kind::Stamp, &[set.source.as_bytes(), &first, &block], sum)?;
    string_pairs(&block).ok_or_else(|| Fault::damaged("a block of stamps cannot be decoded"))
}
