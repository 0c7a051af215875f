//! Databases whose owners want a backup never to end, or to take all memory or space.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::support::{Place, Run};

/// The most memory of a process, KiB, for a database that is small.
const MEMORY_KIB_MAX: u64 = 500_000;
/// Processor seconds; and blocks of 512 or 1024 bytes in a file, as shells have it.
const LIMITS: &str = "ulimit -t 10; ulimit -f 1000000; exec \"$0\" \"$@\"";

/// Runs the program within limits; also how much memory it had at most, KiB.
pub fn within_limits(place: &Place, args: &[&str]) -> (Run, u64) {
    let mut command = place.program("sh");
    command.args(["-c", LIMITS, env!("CARGO_BIN_EXE_icecore")]).args(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (began, mut peak) = (Instant::now(), 0);
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(120), "{args:?} hangs");
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = peak.max(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(2));
    }
    (child.wait_with_output().unwrap().into(), peak)
}

/// It ended by itself, and took little.
pub fn ends(place: &Place, args: &[&str]) -> Run {
    let (run, peak) = within_limits(place, args);
    assert!(run.code.is_some_and(|code| code < 100), "{args:?}: {:?} {}", run.code, run.stderr);
    assert!(!run.stderr.contains("fault of icecore"), "{args:?}: {}", run.stderr);
    assert!(peak < MEMORY_KIB_MAX, "{args:?} took {peak} KiB");
    run
}

/// Backs up, then does all else that looks into the database.
pub fn all_that_looks(place: &Place, database: &str) -> Run {
    let backup = ends(place, &["backup", "sqlite", database, "--content", "always"]);
    if backup.code == Some(1) {
        return backup;
    }
    for args in [&["restore", "latest", "--to", "out"][..], &["export", "latest", "flat"], &["drill", "latest", "--check-sql", "SELECT 1"]]
    {
        ends(place, args);
    }
    backup
}

const PAGE: usize = 512;

fn put(bytes: &mut [u8], page: usize, at: usize, word: u32) {
    let at = (page - 1) * PAGE + at;
    bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
}

/// Makes a page an inner one of a table, all of whose children are this page.
fn fan(bytes: &mut [u8], page: usize, child: u32) {
    let cells = 60_usize;
    let start = (page - 1) * PAGE;
    bytes[start..start + PAGE].fill(0);
    bytes[start] = 5;
    bytes[start + 3..start + 5].copy_from_slice(&(cells as u16).to_be_bytes());
    let content = PAGE - 5 * cells;
    bytes[start + 5..start + 7].copy_from_slice(&(content as u16).to_be_bytes());
    put(bytes, page, 8, child);
    for cell in 0..cells {
        let at = content + 5 * cell;
        let pointer = start + 12 + 2 * cell;
        bytes[pointer..pointer + 2].copy_from_slice(&(at as u16).to_be_bytes());
        put(bytes, page, at, child);
        bytes[start + at + 4] = cell as u8;
    }
}

/// Levels of inner pages: 60^12 ways to the leaf.
const LEVELS: usize = 12;

/// A database with room at its end for inner pages; gives the first of these.
fn with_room(path: &Path, schema: &str) -> usize {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!("PRAGMA page_size = {PAGE}; {schema}; CREATE TABLE room(b); INSERT INTO room VALUES (zeroblob(9000))"))
        .unwrap();
    fs::metadata(path).unwrap().len() as usize / PAGE - LEVELS + 1
}

fn chain(bytes: &mut [u8], first: usize, leaf: u32) {
    for level in 0..LEVELS {
        fan(bytes, first + level, if level + 1 == LEVELS { leaf } else { (first + level + 1) as u32 });
    }
}

#[test]
fn tables_whose_pages_name_each_other() {
    let place = Place::without_parity();
    let path = place.path("t.db");
    let first =
        with_room(&path, "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2), (3); CREATE TABLE leaf(a); INSERT INTO leaf VALUES (1)");
    let root = |name: &str| -> u32 {
        Connection::open(&path).unwrap().query_row("SELECT rootpage FROM sqlite_master WHERE name = ?1", [name], |row| row.get(0)).unwrap()
    };
    let (t, leaf) = (root("t"), root("leaf"));
    let mut bytes = fs::read(&path).unwrap();
    chain(&mut bytes, first, leaf);
    fan(&mut bytes, t as usize, first as u32);
    fs::write(&path, bytes).unwrap();
    let run = all_that_looks(&place, "t.db");
    assert_eq!(run.code, Some(3), "it is flagged: {}{}", run.stdout, run.stderr);
}

#[test]
fn a_schema_whose_pages_name_each_other() {
    let place = Place::without_parity();
    let path = place.path("s.db");
    // The entry of the table fills a page, so that of its index, which may come again and again, is in another.
    let first = with_room(&path, &format!("CREATE TABLE t(a UNIQUE /* {} */)", "x".repeat(380)));
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[100], 5, "the schema has two pages or more");
    let leaf = u32::from_be_bytes(bytes[108..112].try_into().unwrap());
    chain(&mut bytes, first, leaf);
    put(&mut bytes, 1, 108, first as u32);
    fs::write(&path, bytes).unwrap();
    let run = all_that_looks(&place, "s.db");
    assert!([Some(1), Some(3)].contains(&run.code), "{:?} {}{}", run.code, run.stdout, run.stderr);
}

#[test]
fn a_schema_that_computes_gigabytes() {
    for column in ["g TEXT AS (hex(zeroblob(7))) NOT NULL", "g TEXT AS (replace(hex(zeroblob(7)), '0', hex(zeroblob(7)))) NOT NULL"] {
        let place = Place::without_parity();
        let conn = Connection::open(place.path("g.db")).unwrap();
        conn.execute_batch(&format!("CREATE TABLE t(a, {column}); INSERT INTO t VALUES (1), (2)")).unwrap();
        let swap = "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, 'zeroblob(7)', 'zeroblob(490000000)')";
        conn.execute_batch(swap).unwrap();
        drop(conn);
        all_that_looks(&place, "g.db");
    }
}

#[test]
fn a_journal_that_asks_for_terabytes() {
    let place = Place::without_parity();
    let mut journal = vec![0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    for word in [0_u32, 7, 0x1500_0000, 512, 4096] {
        journal.extend(word.to_be_bytes());
    }
    journal.resize(512, 0);
    let len = fs::metadata(place.path("a.db")).unwrap().len();
    fs::write(place.path("a.db-journal"), &journal).unwrap();
    let run = ends(&place, &["backup", "sqlite", "a.db"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("rollback journal"), "{}", run.stderr);
    assert_eq!(fs::metadata(place.path("a.db")).unwrap().len(), len);

    // The same where one like it is in the way of a restore.
    fs::remove_file(place.path("a.db-journal")).unwrap();
    place.ok(["backup", "sqlite", "a.db"]);
    fs::write(place.path("a.db-journal"), &journal).unwrap();
    ends(&place, &["restore", "latest", "a.db=a.db"]);
    ends(&place, &["restore", "latest", "a.db=a.db", "--live"]);
    for file in fs::read_dir(place.path("")).unwrap().map(Result::unwrap) {
        assert!(file.metadata().unwrap().len() < 100 << 20, "{:?}", file.path());
    }
}

/// The checksum of a log (<https://sqlite.org/walformat.html>, section 4.2), in words of this byte order.
fn checksum(bytes: &[u8], [mut one, mut two]: [u32; 2], big: bool) -> [u32; 2] {
    let word =
        |bytes: &[u8]| if big { u32::from_be_bytes(bytes.try_into().unwrap()) } else { u32::from_le_bytes(bytes.try_into().unwrap()) };
    for pair in bytes.chunks_exact(8) {
        one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
    }
    [one, two]
}

/// Changes a log, and makes its checksums right again.
pub fn forge_log(log: &mut [u8], change: impl Fn(usize, &mut [u8])) {
    let be = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let big = log[3] & 1 == 1;
    let page = be(&log[8..12]) as usize;
    let mut sums = [be(&log[24..28]), be(&log[28..32])];
    for (number, frame) in log[32..].chunks_exact_mut(24 + page).enumerate() {
        change(number, frame);
        sums = checksum(&frame[..8], sums, big);
        sums = checksum(&frame[24..], sums, big);
        frame[16..20].copy_from_slice(&sums[0].to_be_bytes());
        frame[20..24].copy_from_slice(&sums[1].to_be_bytes());
    }
}

#[test]
fn a_log_that_makes_terabytes() {
    let place = Place::without_parity();
    let conn = Connection::open(place.path("w.db")).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
    for end in ["", "-wal"] {
        fs::copy(place.path(format!("w.db{end}")), place.path(format!("x.db{end}"))).unwrap();
    }
    drop(conn);
    let mut log = fs::read(place.path("x.db-wal")).unwrap();
    // The number of pages after each commit.
    forge_log(&mut log, |_, frame| {
        if frame[4..8] != [0; 4] {
            frame[4..8].copy_from_slice(&0x1500_0000_u32.to_be_bytes());
        }
    });
    fs::write(place.path("x.db-wal"), log).unwrap();
    let run = ends(&place, &["backup", "sqlite", "x.db"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("more bytes"), "{}", run.stderr);
}
