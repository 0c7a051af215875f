//! What the inspector costs, beside `quick_check`. Prints figures, asserts none:
//! `cargo test --release --test structure -- --ignored --nocapture speed`

use std::time::Instant;

use icecore::source::sqlite::structure::StructureInspector;
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

/// Looks at all pages with some threads; nanoseconds for the pages and for the end.
fn look(bytes: &[u8], path: &std::path::Path, threads: usize) -> (u128, u128, usize) {
    let roots = roots(path).unwrap();
    let inspector = StructureInspector::new(bytes, (bytes.len() / 4_096) as u64, PLENTY);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let part = bytes.len() / 4_096 / threads + 1;
        for (piece, first) in bytes.chunks(part * 4_096).zip((1..).step_by(part)) {
            let inspector = &inspector;
            scope.spawn(move || inspector.pages(first, piece));
        }
    });
    let pages_ns = start.elapsed().as_nanos();
    let held = inspector.memory_bytes();
    let start = Instant::now();
    let report = inspector.finish(Some(&roots));
    assert_eq!(report.problems, []);
    (pages_ns, start.elapsed().as_nanos(), held)
}

#[test]
#[ignore = "a measurement, for release builds"]
fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("speed.db");
    build(&path);
    let bytes = std::fs::read(&path).unwrap();
    let count = (bytes.len() / 4_096) as u128;
    println!("{} MB, {count} pages", bytes.len() / 1_000_000);
    for threads in [1, 4] {
        let best = (0..5).map(|_| look(&bytes, &path, threads)).min().unwrap();
        let (pages_ns, finish_ns, held) = best;
        println!(
            "{threads} threads: {} ns a page, finish {} us, {held} bytes held ({:.1} a page)",
            pages_ns / count,
            finish_ns / 1_000,
            held as f64 / count as f64
        );
    }
    let best = (0..3)
        .map(|_| {
            let start = Instant::now();
            assert!(!complains(&path, "quick_check"));
            start.elapsed().as_nanos()
        })
        .min()
        .unwrap();
    println!("quick_check: {} ns a page, {} ms", best / count, best / 1_000_000);
}
