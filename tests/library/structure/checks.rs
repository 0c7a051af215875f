//! Each check on its own: one damage that only this check can see, named as what it is, and SQLite agrees.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::support::{PLENTY, Spec, complains, create, inspect, open_frozen};

const SIZE: usize = 512;

/// A small database with everything in it, and where things lie.
struct Sample {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    /// Page number, object and `dbstat` path of every page in use.
    pages: Vec<(usize, String, String, String)>,
}

fn sample(auto_vacuum: u8) -> Sample {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sample.db");
    let conn = create(&path, Spec { page_size: SIZE, reserved: 0, auto_vacuum, rootless: false });
    conn.execute_batch(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);
         CREATE TABLE blobs(id INTEGER PRIMARY KEY, b);
         CREATE TABLE gone(b);
         WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000) INSERT INTO t SELECT 3 * x, hex(x) || ' text' FROM n;
         CREATE INDEX i ON t(v);
         INSERT INTO blobs VALUES(1, zeroblob(5000));
         WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300) INSERT INTO gone SELECT zeroblob(600) FROM n;
         DELETE FROM gone; DELETE FROM t WHERE id = 60;",
    )
    .unwrap();
    drop(conn);
    assert!(inspect(&path, PLENTY).problems.is_empty());
    let mut sample = Sample { bytes: std::fs::read(&path).unwrap(), dir, pages: Vec::new() };
    sample.pages = list(&open_frozen(&path).unwrap());
    sample
}

fn list(conn: &Connection) -> Vec<(usize, String, String, String)> {
    let mut statement = conn.prepare("SELECT pageno, name, pagetype, path FROM dbstat ORDER BY path").unwrap();
    let rows = statement.query_map((), |row| Ok((row.get::<_, i64>(0)? as usize, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

impl Sample {
    /// The n-th page of this sort, by place in the tree.
    fn find(&self, name: &str, sort: &str, nth: usize) -> usize {
        self.pages.iter().filter(|(_, of, is, _)| of == name && is == sort).nth(nth).unwrap().0
    }

    fn page(&mut self, number: usize) -> &mut [u8] {
        &mut self.bytes[(number - 1) * SIZE..number * SIZE]
    }

    fn word(&mut self, number: usize, at: usize) -> u32 {
        u32::from_be_bytes(self.page(number)[at..at + 4].try_into().unwrap())
    }

    fn set(&mut self, number: usize, at: usize, value: u32) {
        self.page(number)[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn swap(&mut self, one: usize, other: usize) {
        let held = self.page(one).to_vec();
        let moved = self.page(other).to_vec();
        self.page(one).copy_from_slice(&moved);
        self.page(other).copy_from_slice(&held);
    }

    /// Where the cell lies that the n-th pointer of a leaf names.
    fn cell(&mut self, leaf: usize, nth: usize) -> usize {
        let at = 8 + 2 * nth;
        usize::from(u16::from_be_bytes(self.page(leaf)[at..at + 2].try_into().unwrap()))
    }

    /// The damage must be reported for this page with these words, and SQLite must complain too.
    fn expect(self, page: usize, words: &str) {
        let path: PathBuf = Path::new(self.dir.path()).join("damaged.db");
        std::fs::write(&path, &self.bytes).unwrap();
        let problems = inspect(&path, PLENTY).problems;
        println!("{problems:?}");
        let found = problems.iter().any(|problem| problem.page as usize == page && problem.detail.contains(words));
        assert!(found, "page {page}, {words}: {problems:?}");
        assert!(complains(&path, "integrity_check"), "{words}: only we complain");
    }
}

#[test]
fn page_fields() {
    let leaf_of = |sample: &Sample| sample.find("t", "leaf", 7);
    let edit = |at: usize, bytes: &[u8], words: &str| {
        let mut sample = sample(0);
        let leaf = leaf_of(&sample);
        sample.page(leaf)[at..at + bytes.len()].copy_from_slice(bytes);
        sample.expect(leaf, words);
    };
    edit(0, &[0x0c], "not a b-tree page");
    edit(1, &[0, 9], "freeblocks");
    edit(3, &[0, 90], "more cells");
    edit(5, &[2, 1], "fit together");
    edit(5, &[0, 9], "fit together");
    edit(7, &[1], "fill it exactly");
    edit(8, &[0, 20], "outside the cell content area");
    edit(8, &[1, 253], "outside the cell content area");
}

#[test]
fn cells() {
    let mut last = sample(0);
    let leaf = last.find("t", "leaf", 7);
    let at = last.cell(leaf, 0);
    last.page(leaf)[at] = 0x7f;
    last.page(leaf)[at + 3] = 2;
    last.expect(leaf, "off the end");

    let mut header = sample(0);
    let at = header.cell(leaf, 3) + 3;
    assert!(header.page(leaf)[at] == 3, "two bytes of rowid, then the record header's size");
    header.page(leaf)[at] = 1;
    header.expect(leaf, "header size");

    let mut order = sample(0);
    let (one, other) = (order.cell(leaf, 3) as u16, order.cell(leaf, 4) as u16);
    order.page(leaf)[14..16].copy_from_slice(&other.to_be_bytes());
    order.page(leaf)[16..18].copy_from_slice(&one.to_be_bytes());
    order.expect(leaf, "rowids out of order");

    let mut freeblock = sample(0);
    let leaves = (0..20).map(|nth| freeblock.find("t", "leaf", nth));
    let hollow = leaves.into_iter().find(|leaf| freeblock.bytes[(leaf - 1) * SIZE + 1..][..2] != [0, 0]).unwrap();
    let at = usize::from(u16::from_be_bytes(freeblock.page(hollow)[1..3].try_into().unwrap()));
    freeblock.page(hollow)[at + 3] += 4;
    freeblock.expect(hollow, "fill it exactly");
}

#[test]
fn trees() {
    let mut child = sample(0);
    let inner = child.find("t", "internal", 1);
    child.set(inner, 8, 0x00ff_ffff);
    child.expect(inner, "child page that does not exist");

    let mut zero = sample(0);
    zero.set(inner, 8, 0);
    zero.expect(inner, "child page that does not exist");

    let mut twice = sample(0);
    let leaf = twice.find("t", "leaf", 0);
    twice.set(inner, 8, leaf as u32);
    twice.expect(leaf, "used already");

    let mut order = sample(0);
    let (one, other) = (order.find("t", "leaf", 20), order.find("t", "leaf", 21));
    order.swap(one, other);
    order.expect(one, "outside the range");

    let mut low = sample(0);
    low.swap(one, other);
    low.expect(other, "outside the range");

    let mut high = sample(0);
    let inner = [high.find("t", "internal", 1), high.find("t", "internal", 2)];
    high.swap(inner[0], inner[1]);
    high.expect(inner[0], "outside the range");

    let mut depth = sample(0);
    let inner = depth.find("i", "internal", 1);
    let leaf = depth.find("i", "leaf", 60);
    depth.swap(inner, leaf);
    depth.expect(inner, "another depth");

    let mut mixed = sample(0);
    let (row, key) = (mixed.find("t", "leaf", 20), mixed.find("i", "leaf", 20));
    mixed.swap(row, key);
    mixed.expect(key, "page of a table where an index");

    let mut list = sample(0);
    let overflow = list.find("blobs", "overflow", 3);
    list.swap(overflow, row);
    list.expect(row, "used as one by page");
}

#[test]
fn chains() {
    let mut short = sample(0);
    let owner = short.find("blobs", "leaf", 0);
    let middle = short.find("blobs", "overflow", 4);
    short.set(middle, 0, 0);
    short.expect(owner, "overflow chain of 5 pages");

    let mut cycle = sample(0);
    let first = cycle.find("blobs", "overflow", 0);
    cycle.set(middle, 0, first as u32);
    cycle.expect(first, "used already");

    let mut beyond = sample(0);
    beyond.set(middle, 0, 0x00ff_ffff);
    beyond.expect(middle, "does not exist");

    let mut wrong = sample(0);
    let at = wrong.cell(owner, 0);
    assert_eq!(wrong.page(owner)[at..at + 2], [0xa7, 0x0c], "5004 bytes of payload");
    // Longer by two pages of 508 bytes, so that as much stays on the leaf.
    let more = 5_004 + 2 * 508;
    wrong.page(owner)[at..at + 2].copy_from_slice(&[0x80 | (more >> 7) as u8, (more & 0x7f) as u8]);
    wrong.expect(owner, "that needs 11");

    let mut no_list = sample(0);
    let leaf = no_list.find("t", "leaf", 20);
    no_list.swap(middle, leaf);
    no_list.expect(middle, "not an overflow page");
}

#[test]
fn freelist() {
    let mut count = sample(0);
    let free = count.word(1, 36);
    assert!(free > 300);
    count.set(1, 36, free + 1);
    count.expect(1, "free pages");

    let mut none = sample(0);
    none.set(1, 36, 0);
    none.expect(1, "free pages");

    let mut leaf = sample(0);
    let trunk = leaf.word(1, 32) as usize;
    leaf.set(trunk, 8, 0x00ff_ffff);
    leaf.expect(trunk, "impossible pages");

    let mut twice = sample(0);
    let page = twice.word(trunk, 12);
    twice.set(trunk, 8, page);
    twice.expect(page as usize, "used already");

    let mut stolen = sample(0);
    let used = stolen.find("t", "leaf", 20);
    stolen.set(trunk, 8, used as u32);
    stolen.expect(used, "used already");

    let mut full = sample(0);
    full.set(trunk, 4, 127);
    full.expect(trunk, "impossible pages");
}

#[test]
fn pointer_maps_and_header() {
    for (name, sort) in [("t", "leaf"), ("blobs", "overflow"), ("t", "internal"), ("blobs", "leaf")] {
        for at in [0, 4] {
            let mut map = sample(1);
            let page = map.find(name, sort, usize::from(name == "t"));
            let map_page = (page - 2) / 103 * 103 + 2;
            map.page(map_page)[5 * (page - map_page - 1) + at] ^= 1;
            map.expect(page, "pointer-map entry");
        }
    }
    let mut free = sample(2);
    let trunk = free.word(1, 32) as usize;
    let map_page = (trunk - 2) / 103 * 103 + 2;
    free.page(map_page)[5 * (trunk - map_page - 1)] = 5;
    free.expect(trunk, "pointer-map entry");

    let mut referred = sample(1);
    let inner = referred.find("t", "internal", 1);
    referred.set(inner, 8, 105);
    referred.expect(105, "is a pointer-map page");

    let mut root = sample(1);
    let stated = root.word(1, 52);
    root.set(1, 52, stated + 1);
    root.expect(1, "largest root page");

    let mut incremental = sample(0);
    incremental.set(1, 64, 1);
    incremental.expect(1, "incremental vacuum");
}
