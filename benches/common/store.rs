//! The "store" corpus: an evolving SQLite memory store.
//!
//! Real-looking text with a full-text index, JSON, timestamps, random ids, embeddings, secondary indexes. One step is an hour of use: it
//! changes about 0.7 % of the pages by updates that prefer recent rows, inserts and deletes. Everything follows from the seed: equal specs
//! give equal bytes, also when the store is closed and opened between steps.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Statement, Transaction, params};

use super::Result;
use super::prose::Prose;
use super::rng::{Rng, mix};

/// Bytes in a page of every corpus.
pub const PAGE_BYTES: usize = 4096;
/// The first row's time, seconds since 1970-01-01 UTC.
const EPOCH_S: u64 = 1_700_000_000;
/// Numbers in an embedding.
const EMBEDDING_DIMENSIONS: usize = 128;
/// Numbers in an embedding of a bulk row: so many that the whole compresses like a memory store.
const BULK_DIMENSIONS: usize = 768;
/// Rows between two looks at the size while a store is filled.
const BATCH_ROWS: u64 = 200;
/// Rows of one conversation.
const SESSION_ROWS: u64 = 20;

/// What the rows are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A memory store, as real as it gets.
    Memory,
    /// Long rows that vary a pool of texts, long embeddings, no full-text index: for gigabytes in seconds.
    Bulk,
}

/// Names a corpus.
#[derive(Debug, Clone)]
pub struct StoreSpec {
    /// Size of the file to reach, in bytes.
    pub bytes: u64,
    /// The seed.
    pub seed: u64,
    /// Steps that end with a VACUUM.
    pub vacuum_steps: Vec<u32>,
    /// What the rows are like.
    pub shape: Shape,
}

impl Default for StoreSpec {
    /// The history of the design's table, to be taken 40 steps far: 100 MB and a VACUUM at step 20.
    fn default() -> Self {
        StoreSpec { bytes: 100_000_000, seed: 1, vacuum_steps: vec![20], shape: Shape::Memory }
    }
}

impl StoreSpec {
    /// 14 MB without VACUUM: quick runs, and histories of hundreds of steps.
    pub fn quick() -> Self {
        StoreSpec { bytes: 14_000_000, vacuum_steps: Vec::new(), ..Self::default() }
    }

    /// Gigabytes of [`Shape::Bulk`].
    pub fn bulk(bytes: u64) -> Self {
        StoreSpec { bytes, vacuum_steps: Vec::new(), shape: Shape::Bulk, ..Self::default() }
    }
}

/// An open corpus.
pub struct Store {
    conn: Connection,
    spec: StoreSpec,
    words: Words,
}

/// Where texts come from.
struct Words {
    prose: Prose,
    /// Empty but for [`Shape::Bulk`].
    pool: Vec<String>,
}

const SCHEMA: &str = "
CREATE TABLE memories (
    id INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    accessed_at INTEGER NOT NULL,
    access_count INTEGER NOT NULL DEFAULT 0,
    importance REAL NOT NULL,
    metadata TEXT NOT NULL,
    content TEXT NOT NULL
);
CREATE INDEX memories_created ON memories (created_at);
CREATE INDEX memories_kind ON memories (kind, importance);
CREATE TABLE links (source INTEGER NOT NULL, target INTEGER NOT NULL, weight REAL NOT NULL, PRIMARY KEY (source, target)) WITHOUT ROWID;
CREATE TABLE embeddings (memory INTEGER PRIMARY KEY, model TEXT NOT NULL, vector BLOB NOT NULL);
";

const FULL_TEXT: &str = "
CREATE VIRTUAL TABLE memories_text USING fts5 (content, content='memories', content_rowid='id');
CREATE TRIGGER memories_insert AFTER INSERT ON memories BEGIN
    INSERT INTO memories_text (rowid, content) VALUES (new.id, new.content);
END;
CREATE TRIGGER memories_delete AFTER DELETE ON memories BEGIN
    INSERT INTO memories_text (memories_text, rowid, content) VALUES ('delete', old.id, old.content);
END;
CREATE TRIGGER memories_update AFTER UPDATE OF content ON memories BEGIN
    INSERT INTO memories_text (memories_text, rowid, content) VALUES ('delete', old.id, old.content);
    INSERT INTO memories_text (rowid, content) VALUES (new.id, new.content);
END;
";

impl Store {
    /// Makes the store in a new file.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(path: &Path, spec: StoreSpec) -> Result<Store> {
        std::fs::File::create_new(path)?;
        let mut store = Self::open(path, spec)?;
        store.conn.execute_batch(SCHEMA)?;
        if store.spec.shape == Shape::Memory {
            store.conn.execute_batch(FULL_TEXT)?;
        }
        let mut rng = Rng::new(store.spec.seed, "create");
        let mut next_id = 1;
        while store.bytes()? < store.spec.bytes {
            let tx = store.conn.transaction()?;
            let mut rows = Rows::prepare(&tx, &store.words)?;
            for _ in 0..BATCH_ROWS {
                rows.insert(&mut rng, next_id)?;
                next_id += 1;
            }
            drop(rows);
            tx.commit()?;
        }
        Ok(store)
    }

    /// Opens a store that [`Store::create`] made with the same spec.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path, spec: StoreSpec) -> Result<Store> {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        conn.pragma_update(None, "page_size", PAGE_BYTES as i64)?;
        conn.pragma_update(None, "synchronous", "OFF")?;
        conn.pragma_update(None, "cache_size", -65_536)?;
        // Fixed, because the default of a build decides which bytes deleted rows leave behind.
        conn.pragma_update(None, "secure_delete", false)?;
        conn.set_prepared_statement_cache_capacity(64);
        let words = Words::new(&spec);
        Ok(Store { conn, spec, words })
    }

    /// One hour of use; at the listed steps a VACUUM after it. Steps are numbered from 1 and taken in order.
    ///
    /// # Errors
    /// What SQLite reports.
    pub fn step(&mut self, n: u32) -> Result<()> {
        let mut rng = Rng::new(mix(self.spec.seed) ^ u64::from(n), "step");
        // Hundredths of what a store of 100 MB does in an hour, by the size at hand: the share of changed pages stays.
        let hundredths = self.bytes()? / 1_000_000;
        // Each commit has its price in pages (roots, segments of the full-text index), so a small store has fewer of them.
        let parts = if hundredths < 50 { 1 } else { 3 };
        let share = |at_100_mb: u64, part: u64| share_of(at_100_mb * hundredths, u64::from(n.max(1) - 1) * parts + part, parts);
        for part in 0..parts {
            let tx = self.conn.transaction()?;
            let mut rows = Rows::prepare(&tx, &self.words)?;
            let newest = rows.newest()?;
            for id in newest + 1..=newest + share(INSERTS, part) {
                rows.insert(&mut rng, id)?;
            }
            for _ in 0..share(EDITS, part) {
                let id = recent(&mut rng, newest);
                rows.edit(&mut rng, id)?;
            }
            for _ in 0..share(TOUCHES, part) {
                let id = if rng.percent(SCATTERED_PERCENT) { rng.between(1, newest) } else { recent(&mut rng, newest) };
                rows.touch(&mut rng, id, newest)?;
            }
            for _ in 0..share(DELETES, part) {
                let id = if rng.percent(50) { rng.between(1, newest) } else { recent(&mut rng, newest) };
                rows.delete(id)?;
            }
            drop(rows);
            tx.commit()?;
        }
        if self.spec.vacuum_steps.contains(&n) {
            self.vacuum()?;
        }
        Ok(())
    }

    /// Rewrites the file: rows keep their content and change their pages.
    ///
    /// # Errors
    /// What SQLite reports.
    pub fn vacuum(&mut self) -> Result<()> {
        Ok(self.conn.execute_batch("VACUUM")?)
    }

    /// Bytes in the file.
    ///
    /// # Errors
    /// What SQLite reports.
    pub fn bytes(&self) -> Result<u64> {
        let pages: i64 = self.conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
        Ok(u64::try_from(pages)? * PAGE_BYTES as u64)
    }

    /// The connection, for what a bench wants besides.
    pub fn connection(&self) -> &Connection {
        &self.conn
    }
}

/// Rows that a step inserts at 100 MB. This and the next ones are set so that 0.7 % of the pages change (see `benches/corpus.rs`).
const INSERTS: u64 = 12;
/// Rows whose text a step changes.
const EDITS: u64 = 7;
/// Rows that a step marks as read.
const TOUCHES: u64 = 60;
/// Of 100 touched rows, how many are anywhere; the others are recent.
const SCATTERED_PERCENT: u64 = 60;
/// Rows that a step deletes.
const DELETES: u64 = 3;

/// What transaction `nth` of a history does, when each step of `parts` transactions is to do `hundredths` / 100 things on average: small
/// stores do some things only every few steps.
fn share_of(hundredths: u64, nth: u64, parts: u64) -> u64 {
    let done_after = |count: u64| hundredths * count / (100 * parts);
    done_after(nth + 1) - done_after(nth)
}

/// A row number, far more often a new one: half of them among the newest eighth, a tenth among the newest thousandth.
fn recent(rng: &mut Rng, newest: u64) -> u64 {
    let u = rng.unit();
    newest - (((u * u * u) * newest as f64) as u64).min(newest - 1)
}

impl Words {
    fn new(spec: &StoreSpec) -> Self {
        let prose = Prose::new(spec.seed);
        let mut rng = Rng::new(spec.seed, "pool");
        let texts = match spec.shape {
            Shape::Memory => 0,
            Shape::Bulk => 2_000,
        };
        let pool = (0..texts).map(|topic| prose.text(&mut rng, topic << 32, 12_000)).collect();
        Words { prose, pool }
    }

    /// The text of row `id`. Most are notes of a few hundred bytes; a few are longer than a page. Neighbours share a topic.
    fn content(&self, rng: &mut Rng, id: u64) -> String {
        let topic = topic(id);
        if self.pool.is_empty() {
            let bytes = match rng.below(100) {
                0..60 => rng.between(150, 900),
                60..95 => rng.between(900, 2_500),
                _ => rng.between(2_500, 12_000),
            };
            return self.prose.text(rng, topic, bytes as usize);
        }
        let text = &self.pool[rng.below(self.pool.len() as u64) as usize];
        let cut = rng.below(text.len() as u64) as usize;
        let mut out = String::with_capacity(text.len() + 200);
        self.prose.sentence(rng, topic, &mut out);
        out.push_str(&text[cut..]);
        out.push(' ');
        out.push_str(&text[..cut]);
        out
    }
}

/// The statements of one transaction.
struct Rows<'a> {
    words: &'a Words,
    newest: Statement<'a>,
    insert: Statement<'a>,
    link: Statement<'a>,
    embed: Statement<'a>,
    content: Statement<'a>,
    edit: Statement<'a>,
    touch: Statement<'a>,
    delete: [Statement<'a>; 3],
}

impl<'a> Rows<'a> {
    fn prepare(tx: &'a Transaction<'_>, words: &'a Words) -> Result<Self> {
        Ok(Rows {
            words,
            newest: tx.prepare("SELECT max(id) FROM memories")?,
            insert: tx.prepare("INSERT INTO memories VALUES (?1, ?2, ?3, ?4, ?4, 0, ?5, ?6, ?7)")?,
            link: tx.prepare("INSERT OR IGNORE INTO links VALUES (?1, ?2, ?3)")?,
            embed: tx.prepare("INSERT INTO embeddings VALUES (?1, 'mini', ?2)")?,
            content: tx.prepare("SELECT content FROM memories WHERE id = ?1")?,
            edit: tx.prepare("UPDATE memories SET content = ?2 WHERE id = ?1")?,
            touch: tx.prepare("UPDATE memories SET access_count = access_count + 1, accessed_at = ?2 WHERE id = ?1")?,
            delete: [
                tx.prepare("DELETE FROM embeddings WHERE memory = ?1")?,
                tx.prepare("DELETE FROM links WHERE source = ?1")?,
                tx.prepare("DELETE FROM memories WHERE id = ?1")?,
            ],
        })
    }

    fn newest(&mut self) -> Result<u64> {
        let id: i64 = self.newest.query_row([], |row| row.get(0))?;
        Ok(u64::try_from(id)?)
    }

    fn insert(&mut self, rng: &mut Rng, id: u64) -> Result<()> {
        const KINDS: [&str; 6] = ["note", "conversation", "fact", "task", "document", "preference"];
        let kind = KINDS[rng.below(6).min(rng.below(6)) as usize];
        let content = self.words.content(rng, id);
        let metadata = self.metadata(rng, id, content.len());
        self.insert.execute(params![signed(id), uuid(rng), kind, time_s(rng, id), rng.below(1000) as f64 / 1000.0, metadata, content])?;
        for _ in 0..rng.below(3) {
            let target = recent(rng, id);
            self.link.execute(params![signed(id), signed(target), rng.below(100) as f64 / 100.0])?;
        }
        let bulk = !self.words.pool.is_empty();
        if bulk || rng.percent(25) {
            let dimensions = if bulk { BULK_DIMENSIONS } else { EMBEDDING_DIMENSIONS };
            self.embed.execute(params![signed(id), embedding(rng, dimensions)])?;
        }
        Ok(())
    }

    fn metadata(&self, rng: &mut Rng, id: u64, bytes: usize) -> String {
        const SOURCES: [&str; 4] = ["chat", "mail", "web", "import"];
        let prose = &self.words.prose;
        serde_json::json!({
            "source": SOURCES[rng.below(4) as usize],
            "session": format!("session-{:06}", id / SESSION_ROWS),
            "tags": [prose.word(rng), prose.word(rng), prose.word(rng)],
            "confidence": rng.below(100) as f64 / 100.0,
            "tokens": bytes / 4,
            "reviewed": rng.percent(10),
        })
        .to_string()
    }

    /// Replaces one sentence, or adds one. A row that was deleted stays so.
    fn edit(&mut self, rng: &mut Rng, id: u64) -> Result<()> {
        let Some(old) = self.content.query([signed(id)])?.next()?.map(|row| row.get::<_, String>(0)).transpose()? else {
            return Ok(());
        };
        let mut sentences: Vec<&str> = old.split_inclusive('.').collect();
        let mut fresh = String::from(" ");
        self.words.prose.sentence(rng, topic(id), &mut fresh);
        if rng.percent(60) {
            let place = rng.below(sentences.len() as u64) as usize;
            sentences[place] = fresh.as_str();
        } else {
            sentences.push(fresh.as_str());
        }
        self.edit.execute(params![signed(id), sentences.concat()])?;
        Ok(())
    }

    fn touch(&mut self, rng: &mut Rng, id: u64, newest: u64) -> Result<()> {
        self.touch.execute(params![signed(id), time_s(rng, newest)])?;
        Ok(())
    }

    fn delete(&mut self, id: u64) -> Result<()> {
        for statement in &mut self.delete {
            statement.execute([signed(id)])?;
        }
        Ok(())
    }
}

/// What row `id` is about, the same for a whole conversation. Shifted, because [`Prose`] gives words to the numbers after it.
fn topic(id: u64) -> u64 {
    (id / SESSION_ROWS) << 32
}

/// SQLite's integers are signed.
fn signed(id: u64) -> i64 {
    i64::try_from(id).expect("row numbers are small")
}

/// The time of a row: one about every three minutes.
fn time_s(rng: &mut Rng, id: u64) -> i64 {
    signed(EPOCH_S + id * 180 + rng.below(170))
}

fn uuid(rng: &mut Rng) -> String {
    let (a, b) = (rng.next(), rng.next());
    format!("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, 0x8000 | b >> 50, b & 0xffff_ffff_ffff)
}

fn embedding(rng: &mut Rng, dimensions: usize) -> Vec<u8> {
    // The sum of three even draws is close to a normal distribution.
    let number = |rng: &mut Rng| ((rng.unit() + rng.unit() + rng.unit() - 1.5) / 5.0) as f32;
    (0..dimensions).flat_map(|_| number(rng).to_le_bytes()).collect()
}
