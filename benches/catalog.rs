//! The catalog at size: `cargo bench --bench catalog -- [chunks] [directory]`, 1,000,000 chunks in a temporary directory by default.
//!
//! One JSON line per result. Packs have 4,000 chunks and trailers of 48 bytes a chunk, the upper end of what is typical. "Cold" means: in
//! a process of its own, after the file was dropped from the operating system's cache.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use icecore::id::{ChunkId, PackId, RepositoryId, SnapshotId};
use icecore::store::format::snapshot::PackRef;
use icecore::store::repo::catalog::{Catalog, NewPack, prefix};

const PACK_CHUNKS: usize = 4000;
const TRAILER_BYTES_PER_CHUNK: usize = 48;
const LOOKUPS: usize = 10_000;
const SNAPSHOTS: usize = 10_000;
const SNAPSHOT_BYTES: usize = 600;

/// Any bytes, always the same for one number.
fn hash(number: u64) -> [u8; 32] {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

fn open(dir: &Path) -> Catalog {
    Catalog::open(dir, RepositoryId([1; 32]), "bench", &[7; 32]).unwrap()
}

fn report(name: &str, fields: &[(&str, f64)]) {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\": {value:.3}")).collect();
    println!("{{\"bench\": \"catalog/{name}\", {}}}", fields.join(", "));
}

/// Highest memory use of this process so far; 0 where the system does not tell.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn load(dir: &Path, chunks: usize, packs_per_call: usize) {
    let catalog = open(dir);
    let trailer: Vec<u8> = (0..PACK_CHUNKS * TRAILER_BYTES_PER_CHUNK / 32).flat_map(|number| hash(number as u64)).collect();
    let (mut seconds, mut slowest) = (0.0, 0.0_f64);
    let packs: Vec<usize> = (0..chunks / PACK_CHUNKS).collect();
    for batch in packs.chunks(packs_per_call) {
        let ids: Vec<ChunkId> =
            batch.iter().flat_map(|pack| (0..PACK_CHUNKS).map(move |at| ChunkId(hash((pack * PACK_CHUNKS + at) as u64)))).collect();
        let new: Vec<NewPack> = (batch.iter().zip(ids.chunks(PACK_CHUNKS)))
            .map(|(pack, ids)| NewPack {
                pack: PackRef { id: PackId(hash(*pack as u64 | 1 << 63)), size: 16 << 20, trailer_offset: 16 << 20 },
                ids,
                trailer: &trailer,
            })
            .collect();
        let start = Instant::now();
        catalog.add_packs(&new).unwrap();
        slowest = slowest.max(start.elapsed().as_secs_f64());
        seconds += start.elapsed().as_secs_f64();
    }
    let start = Instant::now();
    let path = catalog.path().to_path_buf();
    drop(catalog);
    seconds += start.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(path).unwrap().len() as f64;
    report(
        "load",
        &[
            ("chunks", chunks as f64),
            ("packs_per_call", packs_per_call as f64),
            ("seconds", seconds),
            ("chunks_per_s", chunks as f64 / seconds),
            ("slowest_call_s", slowest),
            ("file_bytes_per_chunk", bytes / chunks as f64),
            ("peak_mib", peak_mib()),
        ],
    );
}

/// Half of them chunks that are there, half of them not.
fn questions(chunks: usize, count: usize, seed: u64) -> Vec<u64> {
    let number = |at: usize| u64::from_le_bytes(hash((at as u64) << 32 | seed)[..8].try_into().unwrap()) % chunks as u64;
    (0..count).map(|at| prefix(&ChunkId(hash(if at % 2 == 0 { number(at) } else { number(at) | 1 << 62 })))).collect()
}

fn drop_from_cache(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

fn look_up(dir: &Path, chunks: usize, name: &str, batch: usize) {
    let questions = questions(chunks, LOOKUPS, batch as u64);
    let start = Instant::now();
    let catalog = open(dir);
    let found: usize = questions.chunks(batch).map(|batch| catalog.find_many(batch).unwrap().iter().map(Vec::len).sum::<usize>()).sum();
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(found, LOOKUPS / 2);
    let fields = [("lookups", LOOKUPS as f64), ("batch", batch as f64), ("seconds", seconds), ("peak_mib", peak_mib())];
    report(name, &fields);
}

fn look_up_from_threads(dir: &Path, chunks: usize, threads: usize) {
    let catalog = open(dir);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let catalog = &catalog;
            scope.spawn(move || {
                let found: usize =
                    questions(chunks, LOOKUPS, thread as u64).iter().map(|&prefix| catalog.find(prefix).unwrap().len()).sum();
                assert_eq!(found, LOOKUPS / 2);
            });
        }
    });
    let rate = (threads * LOOKUPS) as f64 / start.elapsed().as_secs_f64();
    report("find_one_by_one_warm", &[("threads", threads as f64), ("lookups_per_s", rate)]);
}

fn snapshots(dir: &Path) {
    let catalog = open(dir);
    let records: Vec<(SnapshotId, Vec<u8>)> =
        (0..SNAPSHOTS).map(|number| (SnapshotId(hash(number as u64)), vec![number as u8; SNAPSHOT_BYTES])).collect();
    let start = Instant::now();
    catalog.put_snapshots(&records).unwrap();
    let put = start.elapsed().as_secs_f64();
    let start = Instant::now();
    assert_eq!(catalog.snapshots().unwrap().len(), SNAPSHOTS);
    report("snapshots", &[("count", SNAPSHOTS as f64), ("put_s", put), ("list_ms", start.elapsed().as_secs_f64() * 1000.0)]);
}

/// What a backup that changes nothing pays: open, look, put one record, close.
fn small_sessions(dir: &Path) {
    let mut times: Vec<[f64; 3]> = (0..21_u8)
        .map(|number| {
            let start = Instant::now();
            let catalog = open(dir);
            let opened = start.elapsed().as_secs_f64();
            assert_eq!(catalog.snapshot_ids().unwrap().len(), SNAPSHOTS + usize::from(number));
            catalog.put_snapshots(&[(SnapshotId([number; 32]), vec![0; SNAPSHOT_BYTES])]).unwrap();
            let put = start.elapsed().as_secs_f64();
            drop(catalog);
            [opened, put - opened, start.elapsed().as_secs_f64() - put].map(|seconds| seconds * 1000.0)
        })
        .collect();
    times.sort_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum()));
    let [open, put, close] = times[times.len() / 2];
    report("small_session", &[("open_ms", open), ("look_and_put_ms", put), ("close_ms", close)]);
}

/// Runs one part in a process of its own, so that its memory is its own too.
fn apart(part: &str, dir: &Path, chunks: usize) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    assert!(command.arg(part).arg(chunks.to_string()).arg(dir).status().unwrap().success());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let [part, chunks, dir] = arguments[..] {
        let (chunks, dir): (usize, &Path) = (chunks.parse().unwrap(), dir.as_ref());
        match part {
            "load" => load(dir, chunks, 250),
            "load-singly" => load(dir, chunks, 1),
            "batch" => look_up(dir, chunks, "find_many_cold", LOOKUPS),
            "batches" => look_up(dir, chunks, "find_many_cold", 64),
            "single" => look_up(dir, chunks, "find_one_by_one_cold", 1),
            "threads" => [1, 2, 4, 8].into_iter().for_each(|threads| look_up_from_threads(dir, chunks, threads)),
            "snapshots" => snapshots(dir),
            "small" => small_sessions(dir),
            other => panic!("no part {other}"),
        }
        return;
    }
    let chunks = arguments.first().map_or(1_000_000, |count| count.parse().expect("a number of chunks"));
    let scratch = arguments.get(1).map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap();
    let (bulk, singly) = (scratch.path().join("bulk"), scratch.path().join("singly"));
    apart("load", &bulk, chunks);
    for part in ["batch", "batches", "single"] {
        drop_from_cache(&bulk);
        apart(part, &bulk, chunks);
    }
    apart("threads", &bulk, chunks);
    apart("snapshots", &bulk, chunks);
    apart("small", &bulk, chunks);
    apart("load-singly", &singly, chunks);
}
