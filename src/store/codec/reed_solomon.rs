//! Making parity sections, and healing with them. See [`crate::store::format::parity`] for what is in one.
//!
//! The code is that of the crate reed-solomon-simd, version 3, at its high rate: Reed-Solomon over GF(2^16) in the manner of Leopard. One code spans
//! a whole object, so it does not matter where the bad shards are, and nothing has to be interleaved.

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{HighRateDecoder, HighRateEncoder, RateDecoder, RateEncoder};

use crate::store::format::Malformed;
use crate::store::format::parity::{DESCRIPTOR_LEN, Geometry, PARITY_MAGIC, SHARD_CHECKSUM_LEN};

/// Bytes of each shard that are worked on at once: columns of shards are codes of their own, and so the workspace is a fraction of the object. A
/// multiple of 64, the unit of the code, that divides a sector.
const COLUMN_LEN: usize = 1024;
/// Bytes of the magic that must be right for a place to be looked at as that of a damaged descriptor.
const MAGIC_MATCHES_MIN: u32 = 6;
/// How many such places are looked at.
const DAMAGED_DESCRIPTORS_MAX: usize = 16;

/// The section of an object with this head and tail, whose lengths are those of the geometry.
///
/// # Errors
/// When the lengths are others, or the code refuses its parameters: both are faults of the caller.
pub fn section(geometry: &Geometry, head: &[u8], tail: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(usize::try_from(geometry.section_len()).unwrap_or_default());
    let data = Data::new(geometry, head, tail)?;
    let spare = if geometry.is_copy() { [tail, head].concat() } else { parity(geometry, &data)? };
    let mut table = Vec::with_capacity(usize::try_from(geometry.table_len()).unwrap_or_default());
    data.shards.iter().for_each(|shard| table.extend_from_slice(&checksum(shard)));
    if !geometry.is_copy() {
        spare.chunks(geometry.shard_len() as usize).for_each(|shard| table.extend_from_slice(&checksum(shard)));
    }
    let gap = geometry.spare_start() - geometry.first_table() - geometry.table_len();
    out.extend_from_slice(&geometry.encode());
    out.extend_from_slice(&table);
    out.extend((0..gap).map(|_| 0));
    out.extend_from_slice(&spare);
    out.extend_from_slice(&table);
    out.extend_from_slice(&geometry.encode());
    Ok(out)
}

/// What a damaged object with a section was, if `accept` says so of the result: it has to compare it with the object's name. Bytes that are missing at
/// the end, or that follow it, are damage like any other.
pub fn heal(damaged: &[u8], accept: &dyn Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    geometries(damaged).iter().find_map(|geometry| {
        // As much as could be healed may be missing, so that no descriptor makes this allocate for more than is there.
        let missing = geometry.object_len().saturating_sub(damaged.len() as u64);
        if missing > geometry.spare_len() {
            return None;
        }
        let mut object = damaged.to_vec();
        object.resize(usize::try_from(geometry.object_len()).ok()?, 0);
        // If checksums say that too much is bad, it may be the checksums that are.
        restore_data(geometry, &mut object);
        renew_section(geometry, &mut object)?;
        accept(&object).then_some(object)
    })
}

/// The geometries that the descriptors in a damaged object give, the likely ones first.
fn geometries(damaged: &[u8]) -> Vec<Geometry> {
    let (mut sound, mut repaired) = (Vec::new(), Vec::new());
    let magic = u64::from_le_bytes(PARITY_MAGIC);
    let mut tried = 0;
    for (place, window) in damaged.windows(DESCRIPTOR_LEN).enumerate() {
        let Some((head, bytes)) = window.first_chunk::<8>().zip(window.first_chunk::<DESCRIPTOR_LEN>()) else { continue };
        let differs = u64::from_le_bytes(*head) ^ magic;
        if differs.to_le_bytes().iter().filter(|byte| **byte == 0).count() < MAGIC_MATCHES_MIN as usize {
            continue;
        }
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

/// Puts right the data shards that do not have their checksums, if enough is whole.
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
    if spares.len() < bad.len() {
        return None;
    }
    let restored = decode(geometry, object, &is_whole, &spares).ok()?;
    for (number, bytes) in bad.into_iter().zip(restored) {
        let to = part_mut(object, geometry.data_shard(number))?;
        to.copy_from_slice(bytes.get(..to.len())?);
    }
    Some(())
}

/// The bad data shards, in order, each as long as the geometry says.
fn decode(geometry: &Geometry, object: &[u8], is_whole: &[bool], spares: &[u64]) -> Result<Vec<Vec<u8>>, Malformed> {
    let refused = |error: reed_solomon_simd::Error| Malformed::new(format!("the parity code refuses: {error}"));
    let (data, spare, shard_len) = (geometry.data_shards() as usize, geometry.spare_shards() as usize, geometry.shard_len() as usize);
    let bad: Vec<usize> = (0..).zip(is_whole).filter(|(_, whole)| !**whole).map(|(number, _)| number).collect();
    let mut restored = vec![Vec::with_capacity(shard_len); bad.len()];
    let mut decoder = HighRateDecoder::new(data, spare, COLUMN_LEN, DefaultEngine::new(), None).map_err(refused)?;
    let mut column = [0; COLUMN_LEN];
    for start in (0..shard_len).step_by(COLUMN_LEN) {
        for (number, _) in (0..).zip(is_whole).filter(|(_, whole)| **whole) {
            copy_column(part(object, geometry.data_shard(number)), start, &mut column);
            decoder.add_original_shard(number as usize, column).map_err(refused)?;
        }
        for number in spares {
            copy_column(part(object, geometry.spare_shard(*number)), start, &mut column);
            decoder.add_recovery_shard(*number as usize, column).map_err(refused)?;
        }
        let result = decoder.decode().map_err(refused)?;
        for (number, out) in bad.iter().zip(&mut restored) {
            out.extend_from_slice(result.restored_original(*number).unwrap_or_default());
        }
    }
    Ok(restored)
}

/// Makes the section anew from the data.
fn renew_section(geometry: &Geometry, object: &mut [u8]) -> Option<()> {
    let (head, rest) = object.split_at_mut_checked(usize::try_from(geometry.head_len()).ok()?)?;
    let (old, tail) = rest.split_at_mut_checked(usize::try_from(geometry.section_len()).ok()?)?;
    old.copy_from_slice(&section(geometry, head, tail).ok().filter(|new| new.len() == old.len())?);
    Some(())
}

/// Whether these bytes of an object have one of the two checksums of this number.
fn has_checksum(geometry: &Geometry, object: &[u8], number: u64, place: (u64, u64)) -> bool {
    let expected = checksum(part(object, place));
    let entry = number * SHARD_CHECKSUM_LEN as u64;
    [geometry.first_table(), geometry.second_table()]
        .iter()
        .any(|table| part(object, (table + entry, SHARD_CHECKSUM_LEN as u64)) == expected)
}

fn checksum(shard: &[u8]) -> [u8; SHARD_CHECKSUM_LEN] {
    blake3::hash(shard).as_bytes().first_chunk().copied().unwrap_or_default()
}

/// The parity shards, back to back.
fn parity(geometry: &Geometry, data: &Data<'_>) -> Result<Vec<u8>, Malformed> {
    let refused = |error: reed_solomon_simd::Error| Malformed::new(format!("the parity code refuses: {error}"));
    let (spare, shard_len) = (geometry.spare_shards() as usize, geometry.shard_len() as usize);
    let mut out = vec![0; spare * shard_len];
    let mut encoder = HighRateEncoder::new(data.shards.len(), spare, COLUMN_LEN, DefaultEngine::new(), None).map_err(refused)?;
    let mut column = [0; COLUMN_LEN];
    for start in (0..shard_len).step_by(COLUMN_LEN) {
        for shard in &data.shards {
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
            false => Err(Malformed::new("what is to get parity has another length than was said")),
        }
    }
}

/// A column of a shard; what the shard does not have is zeros.
fn copy_column(shard: &[u8], start: usize, column: &mut [u8; COLUMN_LEN]) {
    let from = shard.get(start..(start + COLUMN_LEN).min(shard.len())).unwrap_or_default();
    let (head, rest) = column.split_at_mut(from.len());
    head.copy_from_slice(from);
    rest.fill(0);
}

/// A part of an object, by start and length; empty if the object ends before.
fn part(object: &[u8], place: (u64, u64)) -> &[u8] {
    let (Ok(start), Ok(end)) = (usize::try_from(place.0), usize::try_from(place.0 + place.1)) else { return &[] };
    object.get(start..end).unwrap_or_default()
}

fn part_mut(object: &mut [u8], place: (u64, u64)) -> Option<&mut [u8]> {
    object.get_mut(usize::try_from(place.0).ok()?..usize::try_from(place.0 + place.1).ok()?)
}
