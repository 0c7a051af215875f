//! A store with many kinds of content: documents, events, random keys, measures, files that do not compress, and a cache whose rows come and go.
//! Its distributions differ from those of the memory store: keys spread over whole indexes, and freed pages are used again. Everything follows
//! from the seed.

use std::path::Path;

use rusqlite::{Connection, Transaction, params};

use crate::common::Result;
use crate::common::prose::Prose;
use crate::common::rng::{Rng, mix};

/// Names a history.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Size of the first state to reach, bytes.
    pub bytes: u64,
    /// The seed.
    pub seed: u64,
    /// Steps that end with a VACUUM.
    pub vacuum_steps: Vec<u32>,
}

/// What the transactions of a step do at 100 MB; a step of a smaller store does less in proportion.
struct Amounts {
    documents: u64,
    edits: u64,
    events: u64,
    keys: u64,
    changed_keys: u64,
    measures: u64,
    files: u64,
    cached: u64,
}

const STEP: Amounts = Amounts { documents: 3, edits: 14, events: 160, keys: 40, changed_keys: 40, measures: 90, files: 2, cached: 40 };
/// The same while the first state is filled, at once.
const FILL: Amounts =
    Amounts { documents: 60, edits: 20, events: 900, keys: 900, changed_keys: 100, measures: 2_500, files: 10, cached: 60 };
/// Series of measures.
const SERIES: u64 = 400;
/// Rows that the cache keeps, for each MB of the store.
const CACHED_PER_MB: u64 = 12;

const SCHEMA: &str = "
CREATE TABLE documents (id INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE, title TEXT NOT NULL, body TEXT NOT NULL, updated INTEGER NOT NULL);
CREATE TABLE events (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, actor BLOB NOT NULL, payload TEXT NOT NULL);
CREATE INDEX events_actor ON events (actor);
CREATE INDEX events_kind ON events (kind, at);
CREATE TABLE keys (key BLOB PRIMARY KEY, owner INTEGER NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX keys_owner ON keys (owner);
CREATE TABLE measures (series INTEGER NOT NULL, at INTEGER NOT NULL, value REAL NOT NULL, PRIMARY KEY (series, at)) WITHOUT ROWID;
CREATE TABLE files (id INTEGER PRIMARY KEY, name TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE cache (key TEXT PRIMARY KEY, at INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE titles USING fts5 (title, content='');
";

/// Makes the first state (number 0) in a new file, or takes the database there one step further.
///
/// # Errors
/// What SQLite reports.
pub fn advance(file: &Path, spec: &Spec, nth: u32) -> Result<()> {
    let mut conn = Connection::open(file)?;
    conn.pragma_update(None, "page_size", 4096)?;
    conn.pragma_update(None, "synchronous", "OFF")?;
    conn.pragma_update(None, "cache_size", -65_536)?;
    conn.pragma_update(None, "secure_delete", false)?;
    let prose = Prose::new(spec.seed ^ 77);
    let mut rng = Rng::new(mix(spec.seed) ^ u64::from(nth), "mixed");
    if nth == 0 {
        conn.execute_batch(SCHEMA)?;
        while bytes(&conn)? < spec.bytes {
            apply(&mut conn, &prose, &mut rng, &FILL, 100)?;
        }
        return Ok(());
    }
    let hundredths = bytes(&conn)? / 1_000_000;
    for part in 0..3 {
        apply(&mut conn, &prose, &mut rng, &STEP, (hundredths + part) / 3)?;
    }
    if spec.vacuum_steps.contains(&nth) {
        conn.execute_batch("VACUUM")?;
    }
    Ok(())
}

fn bytes(conn: &Connection) -> Result<u64> {
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
    Ok(u64::try_from(pages)? * 4096)
}

/// One transaction of so many hundredths of these amounts.
fn apply(conn: &mut Connection, prose: &Prose, rng: &mut Rng, amounts: &Amounts, hundredths: u64) -> Result<()> {
    let cached = bytes(conn)? / 1_000_000 * CACHED_PER_MB;
    let tx = conn.transaction()?;
    // What is left of a hundredth happens now and then.
    let share = |rng: &mut Rng, of: u64| (of * hundredths + rng.below(100)) / 100;
    let counts = [
        amounts.documents,
        amounts.edits,
        amounts.events,
        amounts.keys,
        amounts.changed_keys,
        amounts.measures,
        amounts.files,
        amounts.cached,
    ]
    .map(|of| share(rng, of));
    let [documents, edits, events, keys, changed_keys, measures, files, caches] = counts;
    (0..documents).try_for_each(|_| document(&tx, prose, rng))?;
    (0..edits).try_for_each(|_| edit(&tx, prose, rng))?;
    (0..events).try_for_each(|_| event(&tx, prose, rng))?;
    (0..keys).try_for_each(|_| key(&tx, prose, rng))?;
    (0..changed_keys).try_for_each(|_| change_key(&tx, prose, rng))?;
    (0..measures).try_for_each(|_| measure(&tx, rng))?;
    (0..files).try_for_each(|_| file(&tx, rng))?;
    (0..caches).try_for_each(|_| cache(&tx, prose, rng))?;
    tx.execute("DELETE FROM cache WHERE at <= (SELECT at FROM cache ORDER BY at DESC LIMIT 1 OFFSET ?1)", [signed(cached)])?;
    Ok(tx.commit()?)
}

fn newest(tx: &Transaction<'_>, table: &str) -> Result<u64> {
    let id: i64 = tx.query_row(&format!("SELECT coalesce(max(id), 0) FROM {table}"), [], |row| row.get(0))?;
    Ok(u64::try_from(id)?)
}

/// SQLite's integers are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("all numbers here are small")
}

fn document(tx: &Transaction<'_>, prose: &Prose, rng: &mut Rng) -> Result<()> {
    let id = newest(tx, "documents")? + 1;
    let (topic, len) = (mix(id / 5), if rng.percent(80) { rng.between(500, 6_000) } else { rng.between(6_000, 40_000) });
    let title = format!("{} {} {}", prose.word(rng), prose.word(rng), prose.word(rng));
    let body = prose.text(rng, topic, len as usize);
    tx.prepare_cached("INSERT INTO documents VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        signed(id),
        format!("{:08x}-{}", rng.next() >> 32, title.replace(' ', "-")),
        title,
        body,
        signed(id * 977)
    ])?;
    tx.prepare_cached("INSERT INTO titles (rowid, title) VALUES (?1, ?2)")?.execute(params![signed(id), title])?;
    Ok(())
}

/// One sentence of some document changes, any one of them as likely as another.
fn edit(tx: &Transaction<'_>, prose: &Prose, rng: &mut Rng) -> Result<()> {
    let id = rng.between(1, newest(tx, "documents")?.max(1));
    let mut read = tx.prepare_cached("SELECT body FROM documents WHERE id = ?1")?;
    let Some(body) = read.query_map([signed(id)], |row| row.get::<_, String>(0))?.next().transpose()? else { return Ok(()) };
    let mut sentences: Vec<&str> = body.split_inclusive('.').collect();
    let mut fresh = String::from(" ");
    prose.sentence(rng, mix(id / 5), &mut fresh);
    let place = rng.below(sentences.len() as u64) as usize;
    if rng.percent(50) {
        sentences[place] = &fresh
    } else {
        sentences.insert(place, &fresh)
    }
    let now = rng.next() >> 40;
    tx.prepare_cached("UPDATE documents SET body = ?2, updated = ?3 WHERE id = ?1")?.execute(params![
        signed(id),
        sentences.concat(),
        signed(now)
    ])?;
    Ok(())
}

fn event(tx: &Transaction<'_>, prose: &Prose, rng: &mut Rng) -> Result<()> {
    const KINDS: [&str; 8] = ["login", "view", "view", "view", "edit", "upload", "mail", "error"];
    let kind = KINDS[rng.below(8) as usize];
    // Few actors do most.
    let actor = blake3::hash(&rng.below(2_000).min(rng.below(2_000)).to_le_bytes());
    let payload = serde_json::json!({
        "path": format!("/{}/{}", prose.word(rng), rng.below(5_000)),
        "ms": rng.below(2_000),
        "agent": format!("client/{}.{}", rng.below(4), rng.below(30)),
        "note": if rng.percent(15) { prose.text(rng, 3, 60) } else { String::new() },
    });
    tx.prepare_cached(
        "INSERT INTO events (at, kind, actor, payload) VALUES ((SELECT coalesce(max(id), 0) FROM events) * 31 + ?1, ?2, ?3, ?4)",
    )?
    .execute(params![signed(rng.below(31)), kind, &actor.as_bytes()[..16], payload.to_string()])?;
    Ok(())
}

/// A row at a random place of its table and index.
fn key(tx: &Transaction<'_>, prose: &Prose, rng: &mut Rng) -> Result<()> {
    let key = [rng.next().to_le_bytes(), rng.next().to_le_bytes()].concat();
    let value = format!("{}={}; {}", prose.word(rng), rng.below(1_000_000), prose.word(rng));
    tx.prepare_cached("INSERT INTO keys VALUES (?1, ?2, ?3)")?.execute(params![key, signed(rng.below(3_000)), value])?;
    Ok(())
}

fn change_key(tx: &Transaction<'_>, prose: &Prose, rng: &mut Rng) -> Result<()> {
    let near = [rng.next().to_le_bytes(), rng.next().to_le_bytes()].concat();
    let value = format!("{}={}; {}", prose.word(rng), rng.below(1_000_000), prose.word(rng));
    tx.prepare_cached("UPDATE keys SET value = ?2 WHERE key = (SELECT min(key) FROM keys WHERE key >= ?1)")?
        .execute(params![near, value])?;
    Ok(())
}

/// Each series ends at a place of its own in the table.
fn measure(tx: &Transaction<'_>, rng: &mut Rng) -> Result<()> {
    let series = rng.below(SERIES);
    let value = (series as f64).mul_add(3.0, rng.below(1_000) as f64 / 100.0);
    let sql = "INSERT INTO measures VALUES (?1, (SELECT coalesce(max(at), 0) FROM measures WHERE series = ?1) + ?2, ?3)";
    tx.prepare_cached(sql)?.execute(params![signed(series), signed(rng.between(50, 70)), value])?;
    Ok(())
}

fn file(tx: &Transaction<'_>, rng: &mut Rng) -> Result<()> {
    let mut data = vec![0; rng.between(2_000, 40_000) as usize];
    blake3::Hasher::new().update(&rng.next().to_le_bytes()).finalize_xof().fill(&mut data);
    tx.prepare_cached("INSERT INTO files (name, data) VALUES (?1, ?2)")?.execute(params![format!("{:016x}.jpg", rng.next()), data])?;
    if rng.percent(30) {
        let gone = rng.between(1, newest(tx, "files")?);
        tx.prepare_cached("DELETE FROM files WHERE id = ?1")?.execute([signed(gone)])?;
    }
    Ok(())
}

/// The oldest rows go when there are too many; see [`apply`].
fn cache(tx: &Transaction<'_>, prose: &Prose, rng: &mut Rng) -> Result<()> {
    let body = prose.text(rng, 0, rng.clone().between(200, 3_000) as usize);
    let sql = "INSERT OR REPLACE INTO cache VALUES (?1, (SELECT coalesce(max(at), 0) FROM cache) + 1, ?2)";
    tx.prepare_cached(sql)?.execute(params![format!("{:016x}", rng.next()), body])?;
    Ok(())
}
