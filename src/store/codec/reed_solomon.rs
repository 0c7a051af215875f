//! Makes parity sections, and heals damaged objects with them. [`crate::store::format::parity`] describes the layout of
//! a section.
//!
//! The code is the one of the crate reed-solomon-simd, version 3, at its high rate: Reed-Solomon over GF(2^16) as in
//! Leopard. One code spans the whole object. So any bad shards can be restored, wherever they are, as long as there are
//! no more of them than good spare shards.
//!
//! Everything in a damaged object may be wrong: descriptors, checksums, shards, its length. So healing tries what it
//! finds and lets the caller compare the result with the object's name. Nothing is believed without that.

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

use crate::store::format::Malformed;
use crate::store::format::parity::{DESCRIPTOR_LEN, Geometry, PARITY_MAGIC, SHARD_CHECKSUM_LEN};

/// Bytes of each shard that are worked on at once. A byte of parity depends only on the bytes at the same place of all
/// shards, so the columns are independent codes, and the workspace is a fraction of the object. A multiple of 64, the
/// unit of the code, that divides a sector.
const COLUMN_LEN: usize = 1024;
/// Bytes of the magic, of 8, that must be right where a damaged descriptor is looked for.
const MAGIC_MATCHES_MIN: usize = 6;
/// The most damaged descriptors that are tried. Bounds the time that content made for this purpose can cost.
const DAMAGED_DESCRIPTORS_MAX: usize = 16;

/// The section of an object with this head and tail, whose lengths are those of the geometry.
///
/// # Errors
/// If the lengths differ from the geometry, or if the code refuses its parameters. Both are faults of the caller.
pub fn section(geometry: &Geometry, head: &[u8], tail: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(usize::try_from(geometry.section_len()).unwrap_or_default());
    let data = Data::new(geometry, head, tail)?;
    // A replica has the tail first, so that every byte lies as far from its second copy as possible (see
    // `Geometry::spare_shard`).
    let spare = if geometry.is_copy() { [tail, head].concat() } else { parity(geometry, &data)? };
    let mut table = Vec::with_capacity(usize::try_from(geometry.table_len()).unwrap_or_default());
    data.shards.iter().for_each(|shard| table.extend_from_slice(&checksum(shard)));
    if !geometry.is_copy() {
        spare.chunks(geometry.shard_len() as usize).for_each(|shard| table.extend_from_slice(&checksum(shard)));
    }
    let gap = geometry.spare_start() - geometry.first_table() - geometry.table_len();
    // Descriptor and table stand on both sides of the spare, so that one damaged area does not reach both.
    out.extend_from_slice(&geometry.encode());
    out.extend_from_slice(&table);
    out.extend((0..gap).map(|_| 0));
    out.extend_from_slice(&spare);
    out.extend_from_slice(&table);
    out.extend_from_slice(&geometry.encode());
    Ok(out)
}

/// Restores a damaged object that has a section. `accept` must compare the result with the object's name; a result that
/// it refuses is dropped. Bytes that are missing at the end, or that were added there, are damage like any other.
pub fn heal(damaged: &[u8], accept: &dyn Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    geometries(damaged).iter().find_map(|geometry| {
        // No more can be missing than the section can restore. Without this bound a false descriptor could make us
        // allocate any amount.
        let missing = geometry.object_len().saturating_sub(damaged.len() as u64);
        if missing > geometry.spare_len() {
            return None;
        }
        let mut object = damaged.to_vec();
        object.resize(usize::try_from(geometry.object_len()).ok()?, 0);
        // The result is ignored: if too many checksums do not match, the checksums may be what is damaged, and the data
        // whole.
        restore_data(geometry, &mut object);
        // The section has no checksum of its own. It follows from the data, so it is made anew.
        renew_section(geometry, &mut object)?;
        accept(&object).then_some(object)
    })
}

/// The geometries that the descriptors in a damaged object give: first those of undamaged descriptors, then guesses
/// from damaged ones.
fn geometries(damaged: &[u8]) -> Vec<Geometry> {
    let (mut sound, mut repaired) = (Vec::new(), Vec::new());
    let magic = u64::from_le_bytes(PARITY_MAGIC);
    let mut tried = 0;
    // Every place is looked at: where the descriptors are follows from the geometry, which is in them.
    for (place, window) in damaged.windows(DESCRIPTOR_LEN).enumerate() {
        let Some((head, bytes)) = window.first_chunk::<8>().zip(window.first_chunk::<DESCRIPTOR_LEN>()) else { continue };
        let differs = u64::from_le_bytes(*head) ^ magic;
        if differs.to_le_bytes().iter().filter(|byte| **byte == 0).count() < MAGIC_MATCHES_MIN {
            continue;
        }
        // A descriptor says where it stands. One that stands elsewhere is content that looks like one, or belongs to an
        // object inside this.
        let stands = |geometry: &Geometry| [geometry.head_len(), geometry.second_descriptor()].contains(&(place as u64));
        match Geometry::decode(bytes) {
            Ok(geometry) if stands(&geometry) => sound.push(geometry),
            _ if tried < DAMAGED_DESCRIPTORS_MAX => {
                tried += 1;
                repaired.extend(Geometry::decode_damaged(bytes).filter(stands));
            }
            _ => {}
        }
    }
    sound.append(&mut repaired);
    sound.dedup();
    sound.truncate(DAMAGED_DESCRIPTORS_MAX);
    sound
}

/// Restores the data shards that do not match their checksums, if enough other shards do. `None` if not.
fn restore_data(geometry: &Geometry, object: &mut [u8]) -> Option<()> {
    let is_whole: Vec<bool> =
        (0..geometry.data_shards()).map(|number| has_checksum(geometry, object, number, geometry.data_shard(number))).collect();
    let bad: Vec<u64> = (0..).zip(&is_whole).filter(|(_, whole)| !**whole).map(|(number, _)| number).collect();
    if bad.is_empty() {
        return Some(());
    }
    if geometry.is_copy() {
        for number in bad {
            let (from, len) = geometry.spare_shard(number);
            // In a replica each shard has a twin with the same checksum. If that is bad too, this shard is lost, but
            // others may not be.
            if has_checksum(geometry, object, number, (from, len)) {
                let (to, _) = geometry.data_shard(number);
                object.copy_within(usize::try_from(from).ok()?..usize::try_from(from + len).ok()?, usize::try_from(to).ok()?);
            }
        }
        return Some(());
    }
    let spares: Vec<u64> = (0..geometry.spare_shards())
        .filter(|number| has_checksum(geometry, object, geometry.data_shards() + number, geometry.spare_shard(*number)))
        .collect();
    // Each missing data shard takes one good spare shard, whichever.
    if spares.len() < bad.len() {
        return None;
    }
    let restored = decode(geometry, object, &is_whole, &spares).ok()?;
    for (number, bytes) in bad.into_iter().zip(restored) {
        // The last shard of head or tail may be shorter; the rest of what was restored is the zeros that filled it up.
        let to = part_mut(object, geometry.data_shard(number))?;
        to.copy_from_slice(bytes.get(..to.len())?);
    }
    Some(())
}

/// Computes the bad data shards from the whole ones and the good spare shards. They come in order, each of full length.
fn decode(geometry: &Geometry, object: &[u8], is_whole: &[bool], spares: &[u64]) -> Result<Vec<Vec<u8>>, Malformed> {
    let refused = |error: reed_solomon_simd::Error| Malformed::new(format!("the parity code refuses: {error}"));
    let (data, spare, shard_len) = (geometry.data_shards() as usize, geometry.spare_shards() as usize, geometry.shard_len() as usize);
    let bad: Vec<usize> = (0..).zip(is_whole).filter(|(_, whole)| !**whole).map(|(number, _)| number).collect();
    let mut restored = vec![Vec::with_capacity(shard_len); bad.len()];
    let mut decoder = HighRateDecoder::new(data, spare, COLUMN_LEN, DefaultEngine::new(), None).map_err(refused)?;
    let mut column = [0; COLUMN_LEN];
    // Shard numbers are at most DATA_SHARDS_MAX (see `Geometry::is_sane`), so the casts in this function keep every
    // value.
    for start in (0..shard_len).step_by(COLUMN_LEN) {
        for (number, _) in (0..).zip(is_whole).filter(|(_, whole)| **whole) {
            copy_column(part(object, geometry.data_shard(number)), start, &mut column);
            decoder.add_original_shard(number as usize, column).map_err(refused)?;
        }
        for number in spares {
            copy_column(part(object, geometry.spare_shard(*number)), start, &mut column);
            decoder.add_recovery_shard(*number as usize, column).map_err(refused)?;
        }
        // Decoding empties the decoder, so that the next column can use it.
        let result = decoder.decode().map_err(refused)?;
        for (number, out) in bad.iter().zip(&mut restored) {
            out.extend_from_slice(result.restored_original(*number).unwrap_or_default());
        }
    }
    Ok(restored)
}

/// Writes the section of the object anew, from its data.
fn renew_section(geometry: &Geometry, object: &mut [u8]) -> Option<()> {
    let (head, rest) = object.split_at_mut_checked(usize::try_from(geometry.head_len()).ok()?)?;
    let (old, tail) = rest.split_at_mut_checked(usize::try_from(geometry.section_len()).ok()?)?;
    old.copy_from_slice(&section(geometry, head, tail).ok().filter(|new| new.len() == old.len())?);
    Some(())
}

/// Whether the shard at `place` matches its checksum in one of the two tables. `number` is that of its entry.
fn has_checksum(geometry: &Geometry, object: &[u8], number: u64, place: (u64, u64)) -> bool {
    // One of them is enough: a damaged table must not make good shards look bad. A false match needs damage to both, in
    // step.
    let expected = checksum(part(object, place));
    let entry = number * SHARD_CHECKSUM_LEN as u64;
    [geometry.first_table(), geometry.second_table()]
        .iter()
        .any(|table| part(object, (table + entry, SHARD_CHECKSUM_LEN as u64)) == expected)
}

fn checksum(shard: &[u8]) -> [u8; SHARD_CHECKSUM_LEN] {
    blake3::hash(shard).as_bytes().first_chunk().copied().unwrap_or_default()
}

/// The parity shards, one after the other.
fn parity(geometry: &Geometry, data: &Data<'_>) -> Result<Vec<u8>, Malformed> {
    let refused = |error: reed_solomon_simd::Error| Malformed::new(format!("the parity code refuses: {error}"));
    let (spare, shard_len) = (geometry.spare_shards() as usize, geometry.shard_len() as usize);
    let mut out = vec![0; spare * shard_len];
    let mut encoder = HighRateEncoder::new(data.shards.len(), spare, COLUMN_LEN, DefaultEngine::new(), None).map_err(refused)?;
    let mut column = [0; COLUMN_LEN];
    for start in (0..shard_len).step_by(COLUMN_LEN) {
        for shard in &data.shards {
            // Most columns are given as they lie in memory; only the last ones of short shards are copied and filled up
            // with zeros.
            match shard.get(start..start + COLUMN_LEN) {
                Some(whole) => encoder.add_original_shard(whole),
                None => {
                    copy_column(shard, start, &mut column);
                    encoder.add_original_shard(column)
                }
            }
            .map_err(refused)?;
        }
        let result = encoder.encode().map_err(refused)?;
        for (shard, parity) in out.chunks_mut(shard_len).zip(result.recovery_iter()) {
            shard.get_mut(start..start + COLUMN_LEN).into_iter().for_each(|to| to.copy_from_slice(parity));
        }
    }
    Ok(out)
}

/// Head and tail, cut into shards.
struct Data<'d> {
    shards: Vec<&'d [u8]>,
}

impl<'d> Data<'d> {
    fn new(geometry: &Geometry, head: &'d [u8], tail: &'d [u8]) -> Result<Self, Malformed> {
        let shard_len = geometry.shard_len() as usize;
        let lens = (head.len() as u64, (head.len() + tail.len()) as u64 + geometry.section_len());
        match lens == (geometry.head_len(), geometry.object_len()) {
            true => Ok(Data { shards: head.chunks(shard_len).chain(tail.chunks(shard_len)).collect() }),
            false => Err(Malformed::new("the object has another length than the one that its parity was planned for")),
        }
    }
}

/// Copies a column of a shard, with zeros after the end of the shard.
fn copy_column(shard: &[u8], start: usize, column: &mut [u8; COLUMN_LEN]) {
    let from = shard.get(start..(start + COLUMN_LEN).min(shard.len())).unwrap_or_default();
    let (head, rest) = column.split_at_mut(from.len());
    head.copy_from_slice(from);
    rest.fill(0);
}

/// A part of an object, given by start and length. Empty if the object ends before it does.
fn part(object: &[u8], place: (u64, u64)) -> &[u8] {
    let (Ok(start), Ok(end)) = (usize::try_from(place.0), usize::try_from(place.0 + place.1)) else { return &[] };
    object.get(start..end).unwrap_or_default()
}

fn part_mut(object: &mut [u8], place: (u64, u64)) -> Option<&mut [u8]> {
    object.get_mut(usize::try_from(place.0).ok()?..usize::try_from(place.0 + place.1).ok()?)
}
