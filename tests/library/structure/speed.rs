//! What the inspector costs in processor time, beside `quick_check` (Linux only). Prints figures, asserts none:
//! `cargo test --release --test structure -- --ignored --nocapture speed`

use icecore::engine::sqlite::structure::StructureInspector;
use rusqlite::Connection;

use super::support::{PLENTY, Rng, complains, roots};

/// Notes with a full-text index, events with small rows, an index each, some blobs: about 100 MB of 4 KiB pages.
fn build(path: &std::path::Path) {
    let mut rng = Rng::new(30);
    let mut conn = Connection::open(path).unwrap();
    conn.execute_batch(
        "PRAGMA synchronous=OFF; PRAGMA cache_size=-200000;
         CREATE TABLE notes(id INTEGER PRIMARY KEY, title TEXT, body TEXT, at INT);
         CREATE INDEX notes_at ON notes(at);
         CREATE TABLE events(id INTEGER PRIMARY KEY, note INT, kind TEXT, value REAL);
         CREATE INDEX events_note ON events(note, kind);
         CREATE TABLE files(name TEXT PRIMARY KEY, data BLOB) WITHOUT ROWID;
         CREATE VIRTUAL TABLE search USING fts5(title, body);",
    )
    .unwrap();
    let txn = conn.transaction().unwrap();
    for id in 0..60_000 {
        let len = 100 + rng.below(700);
        let (title, body, at) = (rng.text(30), rng.text(len), rng.next() as i64 >> 20);
        txn.execute("INSERT INTO notes VALUES(?1, ?2, ?3, ?4)", (id, &title, &body, at)).unwrap();
        txn.execute("INSERT INTO search VALUES(?1, ?2)", (&title, &body)).unwrap();
        for _ in 0..6 {
            let (kind, value) = (rng.text(8), rng.next() as f64);
            txn.execute("INSERT INTO events(note, kind, value) VALUES(?1, ?2, ?3)", (id, kind, value)).unwrap();
        }
        if id % 200 == 0 {
            let len = rng.below(60_000);
            txn.execute("INSERT INTO files VALUES(?1, ?2)", (format!("file {id}"), rng.bytes(len))).unwrap();
        }
    }
    txn.execute("DELETE FROM notes WHERE id % 11 = 3", ()).unwrap();
    txn.commit().unwrap();
}

/// Nanoseconds that this thread has run (<https://docs.kernel.org/scheduler/sched-stats.html>): other load does not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

/// Readings measured together, because the kernel counts in ticks of some milliseconds.
const READINGS: u64 = 20;

/// Looks at all pages with some threads; nanoseconds of a reading for the pages in all threads and for the end, and bytes held.
fn look(bytes: &[u8], path: &std::path::Path, threads: usize) -> (u64, u64, usize) {
    let roots = roots(path).unwrap();
    let new = || StructureInspector::new(bytes, (bytes.len() / 4_096) as u64, PLENTY);
    let inspectors: Vec<_> = (0..READINGS).map(|_| new()).collect();
    let part = bytes.len() / 4_096 / threads + 1;
    let pages_ns: u64 = std::thread::scope(|scope| {
        let work = |first: usize, piece| {
            let start = cpu_ns();
            inspectors.iter().for_each(|inspector| inspector.pages(first as u64, piece));
            cpu_ns() - start
        };
        let pieces = bytes.chunks(part * 4_096).zip((1..).step_by(part));
        let running: Vec<_> = pieces.map(|(piece, first)| scope.spawn(move || work(first, piece))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let held = inspectors[0].memory_bytes();
    let start = cpu_ns();
    for inspector in inspectors {
        assert_eq!(inspector.finish(Some(&roots)).problems, []);
    }
    (pages_ns / READINGS, (cpu_ns() - start) / READINGS, held)
}

#[test]
#[ignore = "a measurement, for release builds"]
fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("speed.db");
    build(&path);
    let bytes = std::fs::read(&path).unwrap();
    let count = (bytes.len() / 4_096) as u64;
    println!("{} MB, {count} pages", bytes.len() / 1_000_000);
    for threads in [1, 4] {
        let (pages_ns, finish_ns, held) = (0..5).map(|_| look(&bytes, &path, threads)).min().unwrap();
        let per_page = held as f64 / count as f64;
        println!("{threads} threads: {} ns a page, finish {} us, {per_page:.1} bytes a page held", pages_ns / count, finish_ns / 1_000);
    }
    let check = |_| {
        let start = cpu_ns();
        assert!(!complains(&path, "quick_check"));
        cpu_ns() - start
    };
    let quick_ns = (0..3).map(check).min().unwrap();
    println!("quick_check: {} ns a page, {} ms", quick_ns / count, quick_ns / 1_000_000);
}
