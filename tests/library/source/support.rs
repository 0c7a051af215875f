//! What the tests of sources share: databases to capture, and captures as plain bytes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use icecore::Result;
use icecore::engine::sqlite::{SqliteOptions, SqliteSource};
use icecore::engine::{Body, CaptureReport, PageRead, Source, Stamp};
use icecore::progress::Silent;
use icecore::recorded::{EntryKind, SqliteFacts};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

pub fn options() -> SqliteOptions {
    SqliteOptions {
        busy_timeout: Duration::from_secs(5),
        temp_dir: Some(std::env::temp_dir()),
        clock: SystemTime::now,
        content: Default::default(),
    }
}

pub fn source(databases: &[(&str, &Path)]) -> SqliteSource {
    source_with(databases, options())
}

pub fn source_with(databases: &[(&str, &Path)], options: SqliteOptions) -> SqliteSource {
    let databases = databases.iter().map(|(name, path)| ((*name).to_owned(), path.to_path_buf())).collect();
    SqliteSource::new(databases, options).unwrap()
}

/// One stream of a finished capture.
pub struct Stream {
    pub facts: SqliteFacts,
    /// `None`: unchanged.
    pub bytes: Option<Vec<u8>>,
}

/// A finished capture.
pub struct Captured {
    pub streams: HashMap<String, Stream>,
    pub report: CaptureReport,
    pub blocks_writers: bool,
}

impl Captured {
    pub fn bytes(&self, name: &str) -> &[u8] {
        self.streams[name].bytes.as_deref().unwrap()
    }

    pub fn fact(&self, name: &str) -> Option<&str> {
        self.report.facts.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn flags(&self) -> Vec<&str> {
        self.report.flags.iter().map(|flag| flag.code.as_str()).collect()
    }
}

pub fn capture(databases: &[(&str, &Path)]) -> Result<Captured> {
    capture_from(&source(databases), &HashMap::new())
}

pub fn capture_from(source: &SqliteSource, known: &HashMap<Vec<u8>, Stamp>) -> Result<Captured> {
    let mut capture = source.capture(known, &Silent)?;
    let mut streams = HashMap::new();
    let mut total = 0;
    while let Some(stream) = capture.next_stream()? {
        let EntryKind::Sqlite(facts) = stream.kind else { panic!("not a database") };
        assert!(stream.meta.is_some());
        let bytes = match stream.body {
            Body::Pages(pages) => Some(read_all(&*pages)?),
            Body::Unchanged => None,
            _ => panic!("neither pages nor unchanged"),
        };
        total += bytes.as_ref().map_or(0, Vec::len) as u64;
        streams.insert(String::from_utf8(stream.name).unwrap(), Stream { facts, bytes });
    }
    assert_eq!(capture.total_bytes(), Some(total));
    let blocks_writers = capture.blocks_writers();
    Ok(Captured { streams, report: capture.finish()?, blocks_writers })
}

/// The image of one database.
pub fn image_of(path: &Path) -> Vec<u8> {
    let captured = capture(&[("db", path)]).unwrap();
    assert_eq!(captured.flags(), Vec::<&str>::new());
    captured.bytes("db").to_vec()
}

/// Reads an image from four threads, in pieces of 1, 2, 3 and more pages.
pub fn read_all(pages: &dyn PageRead) -> Result<Vec<u8>> {
    let mut bytes = vec![0xAA; pages.len_bytes() as usize];
    let page = pages.page_size() as usize;
    assert!(page.is_power_of_two() && (512..=65_536).contains(&page));
    let mut pieces: Vec<(u64, &mut [u8])> = Vec::new();
    let (mut rest, mut at, mut count) = (bytes.as_mut_slice(), 0u64, 1usize);
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at_mut((page * count).min(rest.len()));
        pieces.push((at, piece));
        at += (page * count) as u64;
        rest = tail;
        count = if count > 200 { 1 } else { count * 2 - count / 3 };
    }
    let mut shares: [Vec<(u64, &mut [u8])>; 4] = Default::default();
    for (i, piece) in pieces.into_iter().enumerate() {
        shares[i % 4].push(piece);
    }
    std::thread::scope(|scope| {
        let read = |share: Vec<(u64, &mut [u8])>| share.into_iter().try_for_each(|(at, piece)| pages.read_at(at, piece));
        let threads = shares.map(|share| scope.spawn(move || read(share)));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap())
    })?;
    Ok(bytes)
}

/// A connection that, like a crashed one, leaves the -wal where and as it is when it closes.
pub fn open_leaving_wal(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    conn.busy_timeout(Duration::from_secs(20)).unwrap();
    conn.execute_batch("PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0; PRAGMA foreign_keys=OFF").unwrap();
    conn
}

/// A new database with some hundred rows in this journal mode.
pub fn make(path: &Path, page_size: u32, journal_mode: &str) -> Connection {
    let conn = open_leaving_wal(path);
    conn.execute_batch(&format!("PRAGMA page_size={page_size}; PRAGMA journal_mode={journal_mode};")).unwrap();
    conn.execute_batch(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB); CREATE INDEX ti ON t(v); PRAGMA user_version=42; PRAGMA application_id=77;",
    )
    .unwrap();
    insert(&conn, 300);
    conn
}

/// Adds rows in one transaction.
pub fn insert(conn: &Connection, rows: u32) {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?1) INSERT INTO t(v) SELECT randomblob(300) FROM n";
    conn.execute(sql, [rows]).unwrap();
}

pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

/// What a checkpoint now would leave, worked out on a copy. No connection may be open on the database in this process.
pub fn checkpointed(path: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    for suffix in ["", "-wal", "-journal"] {
        if beside(path, suffix).exists() {
            std::fs::copy(beside(path, suffix), beside(&copy, suffix)).unwrap();
        }
    }
    let conn = Connection::open(&copy).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).unwrap();
    drop(conn);
    std::fs::read(&copy).unwrap()
}

/// Opens an image as a database of its own and checks it.
pub fn open_image(dir: &Path, bytes: &[u8]) -> Connection {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let path = dir.join(format!("image-{}.db", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&path, bytes).unwrap();
    let conn = Connection::open(&path).unwrap();
    let result: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(result, "ok");
    conn
}

/// Where two images first differ; an assertion with the bytes themselves would print megabytes.
pub fn assert_same(left: &[u8], right: &[u8], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}: length");
    let different = left.iter().zip(right).position(|(a, b)| a != b);
    assert_eq!(different, None, "{what}: first different byte");
}

/// Runs a test marked `#[ignore]` of this binary in a process of its own; `prefix` is a command that starts another one. The child's
/// tests read their arguments from environment variables.
pub fn child(prefix: &[&str], test: &str, variables: &[(&str, &Path)]) -> std::process::Command {
    let exe = std::env::current_exe().unwrap();
    let mut words: Vec<std::ffi::OsString> = prefix.iter().map(Into::into).collect();
    words.push(exe.into());
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.envs(variables.iter().copied());
    command
}
