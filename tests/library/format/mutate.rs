//! Damaged bytes: whatever is done to them, they are refused or stand for a value that encodes to just them. Nothing panics.

use super::golden::{self, Golden, Redo};
use super::rng::Rng;
use super::values::{self, PASSPHRASE, repository};
use icecore::id::{ChunkId, to_hex};
use icecore::store::crypto::keyring;
use icecore::store::format::config::Config;
use icecore::store::format::key::{KEY_CHECKSUM_LEN, KEY_PLAIN_LEN, KeyRecord};
use icecore::store::format::node::Node;
use icecore::store::format::pack::{ChunkEntry, Encoding, Frame, Slice, Trailer};

/// The seed of the random tests; `SEED=...` repeats one.
fn seed() -> u64 {
    let seed = std::env::var("SEED").map_or(1, |text| text.parse().expect("SEED is a number"));
    eprintln!("SEED={seed}");
    seed
}

fn refused_or_same(name: &str, redo: Redo, bytes: &[u8]) {
    if let Some(again) = redo(bytes) {
        assert!(again == bytes, "{name}: {} decodes, but is encoded as {}", to_hex(bytes), to_hex(&again));
    }
}

#[test]
fn every_truncation_is_refused_or_exact() {
    for golden in golden::all() {
        for len in 0..golden.bytes.len() {
            let cut = &golden.bytes[..len];
            // A listing has no end of its own: the root of its stream says how long it is.
            let whole_entries = matches!(golden.name, "listing" | "marks") && (golden.redo)(cut).as_deref() == Some(cut);
            assert!(whole_entries || (golden.redo)(cut).is_none(), "{} cut to {len} bytes is taken", golden.name);
        }
        let longer = [&golden.bytes[..], &[0]].concat();
        assert!((golden.redo)(&longer).is_none(), "{} with a byte more is taken", golden.name);
    }
}

#[test]
fn every_flipped_bit_is_refused_or_exact() {
    for Golden { name, bytes, redo, sealed } in golden::all() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused_or_same(name, redo, &flipped);
            assert!(!sealed || redo(&flipped).is_none(), "{name}: a change of bit {bit} goes unnoticed");
        }
    }
}

#[test]
fn a_changed_configuration_is_refused() {
    for (encrypted, parity_percent) in [(true, 0), (false, 0), (true, 3)] {
        let bytes = Config { parity_percent, ..values::config(encrypted) }.encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Config::decode(&flipped).is_err(), "bit {bit} of\n{}", String::from_utf8_lossy(&flipped));
        }
        for len in 0..bytes.len() - 1 {
            assert!(Config::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
        }
    }
}

/// The checksum of a key record only finds accidents: with a new one, the seal must notice.
#[test]
fn a_forged_key_record_opens_for_nobody() {
    let bytes = golden::key_record().encode();
    let body_len = bytes.len() - KEY_CHECKSUM_LEN;
    let mut tried = 0;
    for bit in 0..body_len * 8 {
        let mut body = bytes[..body_len].to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        body.extend_from_slice(blake3::hash(&body).as_bytes());
        let Ok(forged) = KeyRecord::decode(&body) else { continue };
        // What would cost much memory or time is as good as refused here.
        if forged.cost.memory_kib <= 256 && forged.cost.passes <= 8 && forged.cost.lanes <= 8 {
            assert!(!matches!(keyring::unwrap(&repository(), &forged, PASSPHRASE), Ok(Some(_))), "bit {bit}");
            tried += 1;
        }
    }
    assert!(tried > (body_len - KEY_PLAIN_LEN) * 8, "only {tried} forged records came so far");
}

#[test]
fn random_mutations() {
    let mut rng = Rng::new(seed(), "mutations");
    let all = golden::all();
    for round in 0..4000 {
        let from = &all[rng.below(all.len() as u64) as usize];
        let other = &all[rng.below(all.len() as u64) as usize];
        let mutated = mutate(&from.bytes, &other.bytes, &mut rng);
        for golden in &all {
            refused_or_same(golden.name, golden.redo, &mutated);
        }
        let _ = Config::decode(&mutated);
        let _ = Node::decode(&mutated, round as u8);
        let _ = Trailer::ids_in(&mutated);
    }
}

/// One to six changes: bits, bytes that are often limits, parts left out, doubled, or taken from elsewhere.
fn mutate(bytes: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..rng.between(1, 6) {
        if out.is_empty() {
            break;
        }
        let at = rng.below(out.len() as u64) as usize;
        let len = rng.below(9).min((out.len() - at) as u64) as usize;
        match rng.below(6) {
            0 => out[at] ^= 1 << rng.below(8),
            1 => out[at] = [0, 1, 0x7f, 0x80, 250, 251, 252, 253, 255][rng.below(9) as usize],
            2 => drop(out.drain(at..at + len)),
            3 => drop(out.splice(at..at, out[at..at + len].to_vec())),
            4 => {
                let from = rng.below(other.len() as u64) as usize;
                drop(out.splice(at..at + len, other[from..(from + 8).min(other.len())].to_vec()))
            }
            _ => out[at..at + len].fill(rng.next() as u8),
        }
    }
    out
}

#[test]
fn random_tables_come_back() {
    let mut rng = Rng::new(seed(), "tables");
    for round in 0..300 {
        let trailer = random_trailer(&mut rng);
        let bytes = trailer.encode();
        assert_eq!(Trailer::decode(&bytes, 16).unwrap(), trailer, "round {round}");
        for _ in 0..20 {
            let mutated = mutate(&bytes, &bytes, &mut rng);
            refused_or_same("random table", golden::redo_trailer, &mutated);
        }
    }
}

fn random_trailer(rng: &mut Rng) -> Trailer {
    // Few bases, so that many are named again; more, so that some lie far back.
    let bases = [2, 40, 1000][rng.below(3) as usize];
    let segment = |rng: &mut Rng| (0..rng.between(1, 30)).map(|_| random_frame(rng, bases)).collect();
    values::table((0..rng.below(4)).map(|_| segment(rng)).collect())
}

fn random_frame(rng: &mut Rng, bases: u64) -> (Frame, Vec<ChunkEntry>) {
    let count = if rng.percent(50) { 1 } else { rng.between(1, 16) };
    let chunks: Vec<ChunkEntry> = (0..count).map(|_| random_chunk(rng)).collect();
    let encoded_len = rng.between(1, 2000) as u32;
    let frame = match rng.below(3) {
        0 => values::whole(Encoding::Raw, chunks.iter().map(|chunk| chunk.plain_len).sum()),
        1 => values::whole(Encoding::Zstd, encoded_len),
        _ => {
            let count = if rng.percent(50) { 1 } else { rng.between(1, 20) };
            let slices = (0..count).map(|_| random_slice(rng, bases)).collect();
            values::delta(encoded_len, rng.between(1, 64) as u8, rng.between(2, 1024) as u32, slices)
        }
    };
    (frame, chunks)
}

fn random_chunk(rng: &mut Rng) -> ChunkEntry {
    let plain_len = [8192, 4096, 1, 300][rng.below(4) as usize];
    let id = ChunkId(*blake3::hash(&rng.next().to_le_bytes()).as_bytes());
    let bits = rng.below(33);
    ChunkEntry { id, node: rng.percent(20), version: rng.below(1 << bits) as u32, ..values::chunk(0, plain_len) }
}

fn random_slice(rng: &mut Rng, bases: u64) -> Slice {
    let offset = if rng.percent(50) { 0 } else { rng.below(5000) as u32 };
    let len = if rng.percent(70) { 8192 } else { rng.between(1, 16384) as u32 };
    values::slice(rng.below(bases), offset, len)
}
