//! Databases over 1 GiB, where the lock-byte page is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use icecore::engine::sqlite::capture_file;
use icecore::progress::Silent;

use super::support::*;

const GIB: u64 = 1 << 30;

/// A database whose file is a hole up to just before 1 GiB, so that the next rows go around the lock-byte page.
fn make_big(path: &Path, page_size: u32, mode: &str) {
    drop(make(path, page_size, "delete"));
    let file = File::options().read(true).write(true).open(path).unwrap();
    let pages = GIB / u64::from(page_size) - 3;
    file.set_len(pages * u64::from(page_size)).unwrap();
    file.write_all_at(&(pages as u32).to_be_bytes(), 28).unwrap();
    drop(file);
    let conn = open_leaving_wal(path);
    conn.execute_batch(&format!("PRAGMA journal_mode={mode}")).unwrap();
    insert(&conn, 4 * page_size / 100);
}

#[test]
fn over_a_gibibyte() {
    for page_size in [4096u32, 65_536] {
        for mode in ["delete", "wal"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("big.db");
            make_big(&path, page_size, mode);
            // Nothing ever reads this page, so what stands there is not content.
            File::options().write(true).open(&path).unwrap().write_all_at(&[0xEE; 512], GIB).unwrap();
            let file = capture_file(&path, None, &options(), &Silent).unwrap();
            let pages = file.pages().unwrap();
            let (len, page) = (pages.len_bytes(), u64::from(page_size));
            assert!(len > GIB + 4 * page, "{len}");
            // In pieces that start before, at and after the lock page.
            let start = GIB - 8 * page;
            let mut around = vec![0xAA; (len - start) as usize];
            pages.read_at(start, &mut around).unwrap();
            let mut lock = vec![0xAA; page_size as usize];
            pages.read_at(GIB, &mut lock).unwrap();
            assert!(lock.iter().all(|&byte| byte == 0));
            let mut after = vec![0xAA; page_size as usize];
            pages.read_at(GIB + page, &mut after).unwrap();
            let first = read_first(&*pages, 64 * page);
            file.finish().unwrap();

            let wanted = if mode == "wal" { checkpointed_around(&path, start) } else { read_from(&path, start) };
            let mut wanted = wanted;
            wanted[(GIB - start) as usize..(GIB - start + page) as usize].fill(0);
            assert_same(&around, &wanted, &format!("{page_size} {mode}"));
            assert_same(&after, &wanted[(GIB + page - start) as usize..][..page_size as usize], "after the lock page");
            assert!(after.iter().any(|&byte| byte != 0));
            assert_eq!(&first[..16], b"SQLite format 3\0");
        }
    }
}

fn read_first(pages: &dyn icecore::engine::PageRead, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    pages.read_at(0, &mut bytes).unwrap();
    bytes
}

fn read_from(path: &Path, start: u64) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let mut bytes = vec![0; (file.metadata().unwrap().len() - start) as usize];
    file.read_exact_at(&mut bytes, start).unwrap();
    bytes
}

/// The database itself is checkpointed: a copy would not be sparse.
fn checkpointed_around(path: &Path, start: u64) -> Vec<u8> {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(conn);
    read_from(path, start)
}
