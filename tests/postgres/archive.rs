//! The reader of archives, on what each version's pg_dump writes.

use std::collections::BTreeMap;

use icecore::engine::postgres::archive::{self, Archive, RowSum};

use crate::server::{Database, VERSIONS, on_every_version, server};

pub fn read(bytes: &[u8]) -> Archive {
    archive::read(bytes, |_| ()).unwrap()
}

/// Rows and sums by name.
pub fn rows(archive: &Archive) -> BTreeMap<String, (u64, RowSum)> {
    let named = archive.blocks.iter().map(|block| (archive.entries[block.entry].full_name(), (block.rows, block.sum)));
    named.collect()
}

fn fill(database: &Database) {
    database.sql(
        "CREATE TABLE t (id int PRIMARY KEY, text text); \
         INSERT INTO t SELECT n, repeat(md5(n::text), n % 40) FROM generate_series(1, 3000) n; \
         INSERT INTO t VALUES (0, E'a\\nb\\t\\\\.\\r'), (-1, NULL), (-2, ''), (-3, repeat('x', 3000000)); \
         CREATE TABLE empty (a int); \
         CREATE TABLE \"odd name\" (\"a,b\" text); INSERT INTO \"odd name\" VALUES ('\\.'); \
         CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES; \
         CREATE SEQUENCE s; SELECT nextval('s'); \
         CREATE VIEW v AS SELECT 1 AS one; \
         SELECT lo_from_bytea(4000000000, 'large'), lo_from_bytea(17, ''::bytea)",
    );
}

#[test]
fn every_version_is_read_to_its_end() {
    on_every_version(|server| {
        let database = server.database();
        fill(&database);
        let bytes = database.pg_dump(&[]);
        let archive = read(&bytes);
        assert_eq!(archive.database, database.name);
        assert!(archive.dump_version.starts_with(&server.version.to_string()), "{}", archive.dump_version);
        assert_eq!(archive.len, bytes.len() as u64);
        let rows = rows(&archive);
        let counts: Vec<(&str, u64)> =
            rows.iter().map(|(name, (rows, _))| (name.as_str(), *rows)).filter(|(name, _)| name.starts_with("public.")).collect();
        assert_eq!(counts, [("public.empty", 0), ("public.nothing", 2), ("public.odd name", 1), ("public.t", 3004)]);
        let objects: u64 = archive.blocks.iter().filter(|block| archive.entries[block.entry].kind == "BLOBS").map(|block| block.rows).sum();
        assert_eq!(objects, 2);
        // The blocks follow each other from the recorded offset up to the end.
        let ends = archive.blocks.iter().fold(archive.data_offset, |at, block| {
            assert_eq!(block.offset, at);
            at + block.len
        });
        assert_eq!(ends, archive.len);
    });
}

#[test]
fn rows_in_another_order_have_the_same_sum_and_other_rows_have_not() {
    on_every_version(|server| {
        let (one, two) = (server.database(), server.database());
        let table = "CREATE TABLE t (id int, text text); INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 1000) n ORDER BY";
        one.sql(&format!("{table} n"));
        two.sql(&format!("{table} n DESC"));
        assert_eq!(rows(&read(&one.pg_dump(&[]))), rows(&read(&two.pg_dump(&[]))));
        two.sql("UPDATE t SET text = text || 'x' WHERE id = 500");
        assert_ne!(rows(&read(&one.pg_dump(&[]))), rows(&read(&two.pg_dump(&[]))));
    });
}

#[test]
fn a_cut_archive_is_never_complete() {
    on_every_version(|server| {
        let database = server.database();
        database
            .sql("CREATE TABLE a AS SELECT generate_series(1, 20) n; CREATE TABLE b AS SELECT 'x' AS c; SELECT lo_from_bytea(0, 'abc')");
        let bytes = database.pg_dump(&[]);
        for cut in 0..bytes.len() {
            assert!(archive::read(&bytes[..cut], |_| ()).is_err(), "cut at {cut} of {}", bytes.len());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(archive::read(longer.as_slice(), |_| ()).is_err());
    });
}

#[test]
fn changed_bytes_never_panic_nor_take_memory() {
    let database = server(VERSIONS[0]).database();
    database.sql("CREATE TABLE a AS SELECT generate_series(1, 20) n; SELECT lo_from_bytea(0, 'abc')");
    let bytes = database.pg_dump(&[]);
    let mut refused = 0;
    for at in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            refused += usize::from(archive::read(changed.as_slice(), |_| ()).is_err());
            let Ok(head) = archive::head(changed.as_slice(), &|_, _| true) else { continue };
            for entry in head.entries.iter().filter(|entry| entry.is_copy) {
                let data = changed.get(head.data_offset as usize..).unwrap_or_default();
                let _ = archive::table_rows(data, &head, entry, &mut |_| Ok(()));
            }
        }
    }
    assert!(refused > bytes.len() / 4, "{refused} of {}", 3 * bytes.len());
}

#[test]
fn one_table_is_read_by_itself() {
    on_every_version(|server| {
        let database = server.database();
        fill(&database);
        let bytes = database.pg_dump(&[]);
        let (whole, head) = (read(&bytes), archive::head(bytes.as_slice(), &|kind, _| kind == "TABLE DATA").unwrap());
        assert_eq!((head.len, head.entries.len()), (whole.data_offset, whole.entries.len()));
        for block in whole.blocks.iter().filter(|block| whole.entries[block.entry].is_copy) {
            let entry = &head.entries[block.entry];
            assert!(entry.copy_statement.as_ref().unwrap().starts_with("COPY public."), "{entry:?}");
            let data = &bytes[block.offset as usize..][..block.len as usize];
            let mut text = Vec::new();
            let found = archive::table_rows(data, &head, entry, &mut |piece| {
                text.extend_from_slice(piece);
                Ok(())
            });
            assert_eq!(found.unwrap(), (block.rows, block.sum));
            assert!(text.ends_with(b"\\.\n\n\n"), "{:?}", String::from_utf8_lossy(&text));
            assert!(archive::table_rows(&data[..data.len() - 1], &head, entry, &mut |_| Ok(())).is_err());
            assert!(archive::table_rows(data, &head, entry, &mut |_| Err("no more".into())).is_err());
        }
    });
}

#[test]
fn what_is_not_such_an_archive_is_named() {
    let database = server(VERSIONS[0]).database();
    database.sql("CREATE TABLE a AS SELECT 1 AS n");
    let detail = |args: &[&str]| archive::read(database.pg_dump(args).as_slice(), |_| ()).unwrap_err().detail;
    assert!(detail(&["-Z1"]).contains("compressed"));
    assert!(detail(&["-Fp"]).contains("not an archive"));
    assert!(detail(&["--inserts"]).contains("COPY"));
}
