//! Things that change in random ways: databases, page files, plain files, and the names that they have.

use std::path::Path;
use std::sync::OnceLock;

use rusqlite::Connection;

use super::common::prose::Prose;
use super::common::rng::Rng;
use super::scene::Stream;

/// Bytes that a new thing has about. Features are kept of streams of 1 MiB and more.
const BYTES: usize = 1_250_000;
/// What may be longer is cut back.
const BYTES_MAX: usize = 3_000_000;

/// What a stream is made of.
enum Body {
    Database(Connection, std::path::PathBuf),
    Pages(Vec<u8>, u32),
    Content(Vec<u8>),
}

/// Everything that is captured together.
pub struct Model {
    rng: Rng,
    things: Vec<(String, Body)>,
    names: u32,
}

fn prose() -> &'static Prose {
    static PROSE: OnceLock<Prose> = OnceLock::new();
    PROSE.get_or_init(|| Prose::new(1))
}

fn text(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    let topic = rng.next();
    let mut text = prose().text(rng, topic, bytes).into_bytes();
    text.truncate(bytes);
    text
}

/// Text and noise, as files have it.
fn matter(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    match rng.below(4) {
        0 => (0..bytes).map(|_| rng.next() as u8).collect(),
        _ => text(rng, bytes),
    }
}

impl Model {
    /// Two databases, a page file and two plain files, in this directory.
    pub fn new(seed: u64, dir: &Path) -> Self {
        let mut rng = Rng::new(seed, "model");
        let mut things = Vec::new();
        for name in ["a.db", "b.db"] {
            let path = dir.join(name);
            things.push((name.to_string(), Body::Database(create_database(&mut rng, &path), path)));
        }
        let page_size = 512 << rng.below(8);
        let mut image = matter(&mut rng, BYTES);
        image.truncate(image.len() / page_size * page_size);
        things.push(("pages".into(), Body::Pages(image, page_size as u32)));
        for (name, bytes) in [("dump.sql", BYTES), ("small.txt", 30_000)] {
            things.push((name.into(), Body::Content(matter(&mut rng, bytes))));
        }
        Model { rng, things, names: 0 }
    }

    /// Everything as it is now.
    pub fn streams(&self) -> Vec<Stream> {
        let stream = |(name, body): &(String, Body)| match body {
            Body::Database(_, path) => {
                let bytes = std::fs::read(path).unwrap();
                let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
                    1 => 65_536,
                    size => u32::from(size),
                };
                Stream::pages(name, &bytes, page_size)
            }
            Body::Pages(bytes, page_size) => Stream::pages(name, bytes, *page_size),
            Body::Content(bytes) => Stream::content(name, bytes),
        };
        self.things.iter().map(stream).collect()
    }

    /// Changes some things, and now and then names; says what it did.
    pub fn step(&mut self) -> String {
        let mut done = Vec::new();
        for (name, body) in &mut self.things {
            if self.rng.percent(65) {
                let what = match body {
                    Body::Database(db, _) => change_database(&mut self.rng, db),
                    Body::Pages(bytes, page_size) => change_pages(&mut self.rng, bytes, *page_size as usize),
                    Body::Content(bytes) => change_content(&mut self.rng, bytes),
                };
                done.push(format!("{name}: {what}"));
            }
        }
        done.extend(self.change_names());
        done.join(", ")
    }

    fn change_names(&mut self) -> Option<String> {
        let (one, other) = (self.rng.below(self.things.len() as u64) as usize, self.rng.below(self.things.len() as u64) as usize);
        self.names += 1;
        let fresh = format!("name {}", self.names);
        match self.rng.below(7) {
            0 => {
                let name = std::mem::replace(&mut self.things[one].0, fresh.clone());
                Some(format!("{name} is {fresh} now"))
            }
            1 if one != other => {
                let name = self.things[one].0.clone();
                let other_name = std::mem::replace(&mut self.things[other].0, name.clone());
                self.things[one].0.clone_from(&other_name);
                Some(format!("{name} and {other_name} exchange their names"))
            }
            2 if self.things.len() < 7 => {
                let stream = &self.streams()[one];
                let body = match stream.page_size.filter(|_| self.rng.percent(70)) {
                    Some(page_size) => Body::Pages(stream.bytes.to_vec(), page_size),
                    None => Body::Content(stream.bytes.to_vec()),
                };
                self.things.push((fresh.clone(), body));
                Some(format!("{fresh} is a copy of {}", stream.name))
            }
            3 if self.things.len() > 5 => Some(format!("{} is gone", self.things.pop().unwrap().0)),
            _ => None,
        }
    }
}

fn create_database(rng: &mut Rng, path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    let (page_size, auto_vacuum) = (512 << rng.below(8), rng.below(3));
    db.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum}; PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF;
         CREATE TABLE memory(id INTEGER PRIMARY KEY, key TEXT, body TEXT); CREATE INDEX memory_key ON memory(key);
         CREATE TABLE other(id INTEGER PRIMARY KEY, body BLOB);"
    ))
    .unwrap();
    insert(rng, &db, BYTES / 600);
    db
}

fn insert(rng: &mut Rng, db: &Connection, rows: usize) {
    let tx = db.unchecked_transaction().unwrap();
    for _ in 0..rows {
        let (key, bytes) = (rng.below(1000).to_string(), rng.between(20, 1000) as usize);
        let body = String::from_utf8(text(rng, bytes)).unwrap();
        tx.execute("INSERT INTO memory(key, body) VALUES (?1, ?2)", (key, body)).unwrap();
    }
    tx.commit().unwrap();
}

fn change_database(rng: &mut Rng, db: &Connection) -> &'static str {
    let (low, rest) = (rng.below(1500), rng.between(2, 60));
    let run = |sql: &str| db.execute_batch(sql).unwrap();
    let pages: i64 = db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    let page_size: i64 = db.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
    match rng.below(11) {
        _ if pages * page_size > BYTES_MAX as i64 => {
            run("DELETE FROM other; DELETE FROM memory WHERE id % 3 <> 0; VACUUM");
            "shrinks"
        }
        0 => {
            insert(rng, db, 40);
            "inserts"
        }
        1 | 2 => {
            run(&format!("UPDATE memory SET body = body || ' ' || id, key = key + 1 WHERE id % {rest} = 1"));
            "updates"
        }
        3 => {
            run(&format!("DELETE FROM memory WHERE id BETWEEN {low} AND {low} + 150"));
            "deletes"
        }
        4 | 5 => {
            run(&format!("DELETE FROM memory WHERE id % {rest} = 0; VACUUM"));
            "vacuum"
        }
        6 => {
            run("DROP TABLE other; CREATE TABLE other(id INTEGER PRIMARY KEY, body BLOB)");
            run(&format!("INSERT INTO other SELECT value, randomblob({rest} * 4) FROM generate_series(1, 300)").replace(
                "generate_series(1, 300)",
                "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 300) SELECT value FROM n)",
            ));
            "drops a table"
        }
        7 => {
            run("DELETE FROM memory WHERE id > 20; VACUUM");
            insert(rng, db, 5);
            "truncates"
        }
        8 => {
            insert(rng, db, 1200);
            "grows"
        }
        9 => {
            run(&format!("PRAGMA page_size={}; VACUUM", 512 << rng.below(8)));
            "another page size"
        }
        _ => {
            run("PRAGMA incremental_vacuum(40)");
            "incremental vacuum"
        }
    }
}

fn change_pages(rng: &mut Rng, bytes: &mut Vec<u8>, page: usize) -> &'static str {
    let pages = bytes.len() / page;
    if pages < 4 || bytes.len() > BYTES_MAX {
        *bytes = matter(rng, BYTES / page * page);
        return "is new";
    }
    let (one, other) = (rng.below(pages as u64) as usize * page, rng.below(pages as u64) as usize * page);
    let (low, high) = (one.min(other), one.max(other));
    match rng.below(8) {
        0..3 => {
            for _ in 0..rng.between(1, 40) {
                let place = rng.below((bytes.len() - 8) as u64) as usize;
                bytes[place..place + 8].copy_from_slice(&rng.next().to_le_bytes());
            }
            "writes here and there"
        }
        3 => {
            bytes.rotate_left(one);
            "turns"
        }
        4 => {
            let moved: Vec<u8> = bytes.drain(low..high).collect();
            bytes.extend(moved);
            "moves pages to its end"
        }
        5 => {
            let fresh = matter(rng, page * rng.clone().between(1, 30).min((BYTES / page) as u64) as usize);
            bytes.splice(one..one, fresh);
            "inserts pages"
        }
        6 => {
            bytes.truncate(high.max(page));
            "is cut off"
        }
        _ => {
            bytes[low..high].fill(0);
            "zeros"
        }
    }
}

fn change_content(rng: &mut Rng, bytes: &mut Vec<u8>) -> &'static str {
    let place = |rng: &mut Rng, bytes: &Vec<u8>| rng.below(bytes.len() as u64 + 1) as usize;
    let (one, other) = (place(rng, bytes), place(rng, bytes));
    let (low, high) = (one.min(other), one.max(other));
    match rng.below(8) {
        _ if bytes.len() > BYTES_MAX => {
            bytes.truncate(BYTES);
            "is cut back"
        }
        0 | 1 => {
            for _ in 0..rng.between(1, 12) {
                let (at, len) = (place(rng, bytes), rng.between(1, 3000) as usize);
                let fresh = matter(rng, len);
                bytes.splice(at..at, fresh);
            }
            "inserts"
        }
        2 => {
            bytes.drain(low..high.min(low + 100_000));
            "deletes"
        }
        3 | 4 => {
            for _ in 0..rng.between(1, 20) {
                let at = place(rng, bytes);
                let end = (at + rng.between(100, 60_000) as usize).min(bytes.len());
                let block: Vec<u8> = bytes.drain(at..end).collect();
                let to = place(rng, bytes);
                bytes.splice(to..to, block);
            }
            "moves blocks"
        }
        5 => {
            let block = bytes[low..high.min(low + 400_000)].to_vec();
            bytes.extend(block);
            "says a part again"
        }
        6 => {
            let len = rng.between(0, BYTES as u64) as usize;
            *bytes = matter(rng, len);
            "is new"
        }
        _ => {
            bytes.clear();
            "is empty"
        }
    }
}
