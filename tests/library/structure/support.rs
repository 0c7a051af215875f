//! Databases to look at, and SQLite's verdict on them.

use std::path::Path;

use icecore::engine::sqlite::structure::{Root, StructureInspector, StructureReport, TreeKind};
use rusqlite::{Connection, OpenFlags, Result};

/// Enough for everything built here.
pub const PLENTY: usize = 1 << 26;

/// SplitMix64; the seed is `SEED` from the environment, else fixed.
pub struct Rng(u64);

impl Rng {
    pub fn new(stream: u64) -> Self {
        let seed = std::env::var("SEED").map_or(20_240, |text| text.parse().unwrap());
        println!("SEED={seed} (stream {stream})");
        Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    pub fn text(&mut self, len: usize) -> String {
        let words = ["page", "tree", "leaf", "ice", "core", "root", "snapshot", "row", "winter", "lake"];
        let mut text = String::new();
        while text.len() < len {
            text.push_str(words[self.below(words.len())]);
            text.push(' ');
        }
        text
    }
}

/// How to build a database.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub page_size: usize,
    pub reserved: u8,
    pub auto_vacuum: u8,
    /// Tables with full-text search and views, which blind `quick_check` to lost pages.
    pub rootless: bool,
}

/// An empty database by this spec.
pub fn create(path: &Path, spec: Spec) -> Connection {
    let conn = Connection::open(path).unwrap();
    let setup = format!("PRAGMA page_size={}; PRAGMA auto_vacuum={}; PRAGMA user_version=1", spec.page_size, spec.auto_vacuum);
    conn.execute_batch(&setup).unwrap();
    drop(conn);
    // Page 1 is an empty leaf now: its content area may still be moved to make room for reserved bytes.
    let mut bytes = std::fs::read(path).unwrap();
    bytes[20] = spec.reserved;
    bytes[105..107].copy_from_slice(&((spec.page_size - usize::from(spec.reserved)) as u16).to_be_bytes());
    std::fs::write(path, bytes).unwrap();
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("PRAGMA synchronous=OFF; PRAGMA secure_delete=OFF; PRAGMA cache_size=20").unwrap();
    conn
}

/// Tables of every shape, with indexes.
pub fn schema(conn: &Connection, spec: Spec) {
    conn.execute_batch(
        "CREATE TABLE plain(id INTEGER PRIMARY KEY, name TEXT NOT NULL, body BLOB);
         CREATE INDEX plain_name ON plain(name);
         CREATE TABLE loose(a, b, c UNIQUE);
         CREATE TABLE keyed(k TEXT, n INT, v BLOB, PRIMARY KEY(k, n)) WITHOUT ROWID;
         CREATE INDEX keyed_v ON keyed(v) WHERE n > 5;
         CREATE TABLE empty(x PRIMARY KEY);
         CREATE TABLE dropped(x, y);
         CREATE TRIGGER touched AFTER INSERT ON empty BEGIN SELECT 1; END;",
    )
    .unwrap();
    if spec.rootless {
        conn.execute_batch("CREATE VIEW names AS SELECT name FROM plain; CREATE VIRTUAL TABLE words USING fts5(body)").unwrap();
    }
}

/// Random inserts, updates and deletes in one transaction.
pub fn churn(conn: &mut Connection, rng: &mut Rng, spec: Spec, steps: usize) {
    let txn = conn.transaction().unwrap();
    for _ in 0..steps {
        let blob_len = match rng.below(10) {
            0 => rng.below(6 * spec.page_size),
            1..4 => rng.below(spec.page_size),
            _ => rng.below(60),
        };
        let text_len = if rng.below(12) == 0 { rng.below(2 * spec.page_size) } else { 4 + rng.below(40) };
        let (blob, text) = (rng.bytes(blob_len), rng.text(text_len));
        match rng.below(12) {
            0..4 => drop(txn.execute("INSERT INTO plain(name, body) VALUES(?1, ?2)", (&text, &blob)).unwrap()),
            4 => {
                let id = rng.next() as i64 >> rng.below(64);
                txn.execute("INSERT OR REPLACE INTO plain VALUES(?1, ?2, ?3)", (id, &text, &blob)).unwrap();
                // The largest rowid makes SQLite look for free ones at random, with a randomness of its own.
                txn.execute("DELETE FROM plain WHERE id > 4611686018427387904", ()).unwrap();
            }
            5 | 6 => drop(txn.execute("INSERT OR REPLACE INTO loose VALUES(?1, ?2, ?3)", (&text, &blob, rng.next() as i64)).unwrap()),
            7 | 8 => drop(txn.execute("INSERT OR REPLACE INTO keyed VALUES(?1, ?2, ?3)", (&text, rng.below(10) as i64, &blob)).unwrap()),
            9 => drop(txn.execute("UPDATE plain SET body=?1 WHERE id % 97 = ?2", (&blob, rng.below(97) as i64)).unwrap()),
            10 => drop(txn.execute("DELETE FROM loose WHERE rowid % 23 = ?1", [rng.below(23) as i64]).unwrap()),
            _ if spec.rootless => drop(txn.execute("INSERT INTO words VALUES(?1)", [&text]).unwrap()),
            _ => drop(txn.execute("INSERT INTO dropped VALUES(?1, ?2)", (&text, &blob)).unwrap()),
        }
    }
    txn.commit().unwrap();
}

/// Opens a file that nobody changes, without locks or journals.
pub fn open_frozen(path: &Path) -> Result<Connection> {
    let uri = format!("file:{}?immutable=1", path.display());
    Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)
}

/// What the caller of the inspector reads: the roots, unless the schema is unreadable.
pub fn roots(path: &Path) -> Option<Vec<Root>> {
    let read = || -> Result<Vec<Root>> {
        let conn = open_frozen(path)?;
        let mut statement = conn.prepare("SELECT rootpage, type = 'index' FROM sqlite_schema WHERE rootpage > 0")?;
        let rows = statement
            .query_map((), |row| Ok(Root { page: row.get(0)?, kind: if row.get(1)? { TreeKind::Index } else { TreeKind::Any } }))?;
        rows.collect()
    };
    read().ok()
}

/// Whether a check of SQLite complains, or the file cannot even be opened for it.
pub fn complains(path: &Path, pragma: &str) -> bool {
    let run = || -> Result<String> { open_frozen(path)?.query_row(&format!("PRAGMA {pragma}(1)"), (), |row| row.get(0)) };
    run().map_or(true, |verdict| verdict != "ok")
}

/// The page size in the header, or a guess where there is none.
pub fn page_size(bytes: &[u8]) -> usize {
    match bytes.get(16..18) {
        Some([0, 1]) => 65_536,
        Some([high, low]) if u16::from_be_bytes([*high, *low]).is_power_of_two() => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 4_096,
    }
}

/// The report on a file.
pub fn inspect(path: &Path, limit: usize) -> StructureReport {
    let bytes = std::fs::read(path).unwrap();
    let inspector = StructureInspector::new(&bytes, (bytes.len() / page_size(&bytes)) as u64, limit);
    inspector.pages(1, &bytes);
    inspector.finish(roots(path).as_deref())
}

/// The report must be clean, as SQLite's is.
pub fn assert_valid(path: &Path, what: &str) {
    assert!(!complains(path, "integrity_check"), "{what}: SQLite complains");
    let report = inspect(path, PLENTY);
    assert_eq!(report.level, icecore::engine::sqlite::structure::Level::Full, "{what}");
    assert_eq!(report.problems, [], "{what}");
    for limit in [0, bits_only(path)] {
        assert_eq!(inspect(path, limit).problems, [], "{what}, {limit} bytes of memory");
    }
}

/// A memory limit that is just enough to tell which pages may be free, and too little for the walk.
pub fn bits_only(path: &Path) -> usize {
    let bytes = std::fs::read(path).unwrap();
    (bytes.len() / page_size(&bytes) / 64 + 1) * 8
}
