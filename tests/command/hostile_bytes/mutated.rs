//! Databases with their logs and journals, changed at random by a seed: whatever comes of it, every command ends within 10 s of processor time, 500 MB of
//! memory and a bound on files. `SEED=n` repeats a run, `ICECORE_PROOF=long` makes it a hundred times as long.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::databases::{all_that_looks, forge_log};
use super::proof;
use super::rng::Rng;
use super::support::Place;

const ENDS: [&str; 3] = ["", "-wal", "-journal"];
const SCHEMA: &str = "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c AS (length(b)) NOT NULL); CREATE INDEX i ON t(b, c) WHERE c > 3;
     CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE VIEW v AS SELECT b FROM t; CREATE TABLE u(x UNIQUE CHECK (x <> 7));
     WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300)
         INSERT INTO t(b) SELECT printf('%.*c', x, 'x') FROM n;
     INSERT INTO w SELECT b, a FROM t; INSERT INTO u SELECT a + 10 FROM t; DELETE FROM t WHERE a % 3 = 0;";

/// A database as it lies when its writer is killed.
fn seed(dir: &Path, page_size: u32, mode: &str) -> Vec<Option<Vec<u8>>> {
    let path = dir.join(format!("seed-{page_size}-{mode}"));
    let conn = Connection::open(&path).unwrap();
    // A small cache makes it write in the middle of the transaction.
    let settings = format!("PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = 1; PRAGMA journal_mode = {mode}; PRAGMA cache_size = 2;");
    conn.execute_batch(&format!("{settings} {SCHEMA} BEGIN; UPDATE t SET b = b || 'y'; INSERT INTO u SELECT x + 1000 FROM u;")).unwrap();
    let read = |end: &&str| fs::read(format!("{}{end}", path.display())).ok().filter(|bytes| !bytes.is_empty());
    let found = ENDS.iter().map(read).collect();
    drop(conn);
    found
}

/// Mostly starts of pages and of files, with small numbers: those make pages name each other.
fn mutate(bytes: &mut Vec<u8>, page_size: usize, rng: &mut Rng) {
    for _ in 0..rng.between(1, 12) {
        if bytes.len() < 64 {
            return;
        }
        let pages = (bytes.len() / page_size).max(1) as u64;
        let at = (rng.below(pages) as usize * page_size + rng.below(48) as usize).min(bytes.len() - 8);
        match rng.below(8) {
            0 | 1 => bytes[at..at + 4].copy_from_slice(&(rng.below(pages + 2) as u32).to_be_bytes()),
            2 => bytes[at..at + 4].copy_from_slice(&((rng.next() as u32) >> rng.below(32)).to_be_bytes()),
            3 => bytes[at] = [0, 2, 5, 10, 13, 255][rng.below(6) as usize],
            4 => {
                let place = rng.below(bytes.len() as u64) as usize;
                bytes[place] ^= 1 << rng.below(8);
            }
            5 => {
                let (from, to) = (rng.below(pages) as usize * page_size, rng.below(pages) as usize * page_size);
                let len = page_size.min(bytes.len() - from).min(bytes.len() - to);
                bytes.copy_within(from..from + len, to);
            }
            6 if rng.percent(15) => bytes.truncate(at),
            _ => bytes[8 + rng.below(56) as usize] = rng.next() as u8,
        }
    }
}

#[test]
fn every_command_ends() {
    let seed_number: u64 = std::env::var("SEED").map_or(1, |text| text.parse().expect("SEED is a number"));
    println!("SEED={seed_number}");
    let mut rng = Rng::new(seed_number, "databases");
    let dir = tempfile::tempdir().unwrap();
    let seeds: Vec<(usize, Vec<Option<Vec<u8>>>)> = [(512, "wal"), (512, "delete"), (4096, "wal"), (1024, "persist")]
        .map(|(size, mode)| (size as usize, seed(dir.path(), size, mode)))
        .into();
    assert!(
        seeds.iter().filter(|(_, files)| files[1].is_some() || files[2].is_some()).count() == seeds.len(),
        "each has a log or a journal"
    );
    let runs = if proof::is_long() { 800 } else { 8 };
    for run in 0..runs {
        let (page_size, files) = &seeds[run % seeds.len()];
        let place = Place::without_parity();
        for (end, file) in ENDS.iter().zip(files) {
            let Some(mut bytes) = file.clone() else { continue };
            // Sometimes only one of them, so that the others are reached.
            if !rng.percent(30) {
                mutate(&mut bytes, *page_size, &mut rng);
            }
            if *end == "-wal" && bytes.len() > 32 && u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize == *page_size {
                forge_log(&mut bytes, |_, _| {});
            }
            fs::write(place.path(format!("m.db{end}")), bytes).unwrap();
        }
        all_that_looks(&place, "m.db");
    }
    proof::count("hostile databases", &[(proof::INPUTS, runs)]);
}
