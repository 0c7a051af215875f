//! Pages whose bytes are lost: whatever needs one is told, in the tree that it belongs to.

use std::collections::BTreeMap;

use icecore::engine::sqlite::structure::{Level, StructureInspector};
use rusqlite::Connection;

use super::support::{PLENTY, roots};

const PAGE: usize = 1024;

#[test]
fn each_lost_page_is_told_in_its_tree() {
    for auto_vacuum in [0, 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA page_size={PAGE}; PRAGMA auto_vacuum={auto_vacuum};
             CREATE TABLE blobs(a); CREATE TABLE gone(a); CREATE TABLE rows(a INTEGER PRIMARY KEY, b); CREATE INDEX by_b ON rows(b);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) INSERT INTO rows SELECT i, hex(randomblob(20)) FROM n;
             INSERT INTO blobs SELECT randomblob(3000) FROM rows LIMIT 20; INSERT INTO gone SELECT randomblob(900) FROM rows; DELETE FROM gone"
        ))
        .unwrap();
        let numbers = |sql: &str| -> BTreeMap<String, Vec<u32>> {
            let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            let mut statement = conn.prepare(sql).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.map(Result::unwrap).for_each(|(name, number): (String, u32)| found.entry(name).or_default().push(number));
            found
        };
        let owners: BTreeMap<u32, String> = numbers("SELECT name, pageno FROM dbstat")
            .into_iter()
            .flat_map(|(name, pages)| pages.into_iter().map(move |page| (page, name.clone())))
            .collect();
        let tops = numbers("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0");
        let bytes = std::fs::read(&path).unwrap();
        let pages = bytes.len() / PAGE;
        assert!(owners.len() > 100 && owners.len() + 50 < pages, "{} of {pages} are in trees", owners.len());
        for lost in 2..=pages {
            let inspector = StructureInspector::new(&bytes, pages as u64, PLENTY);
            for (number, page) in (1..).zip(bytes.chunks(PAGE)) {
                match number == lost {
                    true => inspector.lost(number as u64),
                    false => inspector.page(number as u64, page),
                }
            }
            let report = inspector.finish(roots(&path).as_deref());
            assert_eq!(report.level, Level::Full, "page {lost}");
            let owner = owners.get(&(lost as u32)).map(|name| tops.get(name).map_or(1, |pages| pages[0]));
            assert_eq!(report.trees.keys().copied().collect::<Vec<_>>(), owner.into_iter().collect::<Vec<_>>(), "page {lost}: {report:?}");
            assert_eq!(
                report.problems.iter().any(|problem| problem.page == lost as u32 && problem.root != 0),
                owner.is_some(),
                "page {lost}: {report:?}"
            );
        }
    }
}
