//! Databases that only their applications can judge, or whose rows break a constraint: they are healthy, and everything works with them.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use serde_json::Value;

use super::support::Place;

/// What is said of a database: nothing, or these words in this field.
enum Said {
    Nothing,
    Warning(&'static str),
    NotChecked(&'static str),
    /// Of a drill only: it looks at more.
    DrillWarning(&'static str),
    DrillNotChecked(&'static str),
}
use Said::{DrillNotChecked, DrillWarning, NotChecked, Nothing, Warning};

const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) INSERT INTO";

/// A connection of an application that has collations and functions of its own.
fn application(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.create_collation("Unicase", |one, other| other.cmp(one)).unwrap();
    for arguments in [1, 2] {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        let reversed = |context: &rusqlite::functions::Context<'_>| Ok(context.get::<String>(0)?.chars().rev().collect::<String>());
        if arguments == 1 {
            conn.create_scalar_function("title_sort", 1, flags, move |context| reversed(context)).unwrap();
        } else {
            conn.create_scalar_function("lower", 2, flags, move |context| reversed(context)).unwrap();
        }
    }
    conn
}

/// Makes a database by these statements and rewrites its schema behind SQLite's back, as migrations do.
fn rewritten(path: &Path, sql: &str, from: &str, to: &str) {
    let conn = application(path);
    conn.execute_batch(sql).unwrap();
    let rewrite = "UPDATE sqlite_schema SET sql = replace(sql, ?1, ?2)";
    conn.execute_batch("PRAGMA writable_schema=ON").unwrap();
    assert!(conn.execute(rewrite, [from, to]).unwrap() > 0);
}

type Case = (&'static str, fn(&Path), Said);

/// Rows that break what their tables say.
const CONSTRAINTS: &[Case] = &[
    (
        "null.db",
        |path| rewritten(path, "CREATE TABLE t(a, b); INSERT INTO t VALUES (NULL, 1), (NULL, 2), (3, 3)", "t(a", "t(a NOT NULL"),
        Warning("NULL value in t.a (2 times)"),
    ),
    (
        "many.db",
        |path| rewritten(path, &format!("CREATE TABLE t(a, b); {ROWS} t SELECT NULL, i FROM n"), "t(a", "t(a NOT NULL"),
        Warning("NULL value in t.a (400 times)"),
    ),
    (
        "strict.db",
        |path| rewritten(path, "CREATE TABLE t(a INTEGER); INSERT INTO t VALUES ('text'), (1)", "INTEGER)", "INTEGER) STRICT"),
        Warning("non-INTEGER value in t.a"),
    ),
    (
        "text.db",
        |path| rewritten(path, "CREATE TABLE t(a BLOB); INSERT INTO t VALUES ('12')", "BLOB", "INTEGER"),
        Warning("TEXT value in t.a"),
    ),
    (
        "number.db",
        |path| rewritten(path, "CREATE TABLE t(a BLOB); INSERT INTO t VALUES (12)", "BLOB", "TEXT"),
        Warning("NUMERIC value in t.a"),
    ),
    (
        "unique.db",
        |path| {
            rewritten(
                path,
                "CREATE TABLE t(a); INSERT INTO t VALUES (1), (1); CREATE INDEX i ON t(a)",
                "CREATE INDEX",
                "CREATE UNIQUE INDEX",
            )
        },
        DrillWarning("non-unique entry in index i"),
    ),
    ("check.db", |path| rewritten(path, "CREATE TABLE t(a); INSERT INTO t VALUES (1)", "t(a", "t(a CHECK (a > title_sort('9'))"), Nothing),
    (
        "foreign.db",
        |path| {
            let sql = "PRAGMA foreign_keys=OFF; CREATE TABLE p(a PRIMARY KEY); CREATE TABLE t(a REFERENCES p); INSERT INTO t VALUES (7)";
            Connection::open(path).unwrap().execute_batch(sql).unwrap();
        },
        Nothing,
    ),
];

/// Names that only the application has.
const APPLICATIONS: &[Case] = &[
    (
        "collation.db",
        |path| {
            let sql = format!("CREATE TABLE t(a TEXT); {ROWS} t SELECT hex(randomblob(9)) FROM n; CREATE INDEX i ON t(a COLLATE unicase)");
            application(path).execute_batch(&sql).unwrap();
        },
        NotChecked("the order of index i of table t: only its application has unicase"),
    ),
    (
        "unique-collation.db",
        |path| {
            let sql = format!(
                "CREATE TABLE t(a TEXT COLLATE unicase UNIQUE, b); {ROWS} t SELECT hex(randomblob(9)), i FROM n; CREATE INDEX i ON t(b)"
            );
            application(path).execute_batch(&sql).unwrap();
        },
        NotChecked("index sqlite_autoindex_t_1 of table t"),
    ),
    (
        "utf16.db",
        |path| {
            let sql = format!(
                "PRAGMA encoding='UTF-16be'; CREATE TABLE t(a TEXT); {ROWS} t SELECT hex(randomblob(9)) FROM n; \
                 CREATE INDEX i ON t(a COLLATE unicase)"
            );
            application(path).execute_batch(&sql).unwrap();
        },
        NotChecked("the order of index i of table t"),
    ),
    (
        "without-rowid.db",
        |path| {
            let sql = format!(
                "CREATE TABLE t(a TEXT COLLATE unicase PRIMARY KEY, b) WITHOUT ROWID; {ROWS} t SELECT hex(randomblob(9)), i FROM n; \
                 CREATE INDEX i ON t(b)"
            );
            application(path).execute_batch(&sql).unwrap();
        },
        NotChecked("only its application has unicase"),
    ),
    (
        "expression.db",
        |path| {
            let sql = format!("CREATE TABLE t(a TEXT); {ROWS} t SELECT hex(randomblob(9)) FROM n; CREATE INDEX i ON t(title_sort(a))");
            application(path).execute_batch(&sql).unwrap();
        },
        DrillNotChecked("the order of index i of table t: only its application has title_sort"),
    ),
    (
        "arguments.db",
        |path| {
            let sql = format!("CREATE TABLE t(a TEXT); {ROWS} t SELECT hex(randomblob(9)) FROM n; CREATE INDEX i ON t(lower(a, 1))");
            application(path).execute_batch(&sql).unwrap();
        },
        NotChecked("lower"),
    ),
    (
        "partial.db",
        |path| {
            let sql = format!("CREATE TABLE t(a TEXT); {ROWS} t SELECT i FROM n; CREATE INDEX i ON t(a) WHERE title_sort(a) > '5'");
            application(path).execute_batch(&sql).unwrap();
        },
        DrillNotChecked("the order of index i of table t"),
    ),
    (
        "generated.db",
        |path| {
            let sql = format!(
                "CREATE TABLE t(a TEXT, v TEXT NOT NULL AS (title_sort(a)), s TEXT NOT NULL AS (title_sort(a)) STORED); \
                 {ROWS} t SELECT i FROM n; CREATE INDEX i ON t(v); CREATE INDEX j ON t(s)"
            );
            application(path).execute_batch(&sql).unwrap();
        },
        NotChecked("what table t computes with title_sort"),
    ),
    (
        "views.db",
        |path| {
            let sql = "CREATE TABLE t(a); CREATE VIEW w AS SELECT title_sort(a) FROM t; \
                       CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT title_sort(NEW.a); END; INSERT INTO t VALUES ('x')";
            application(path).execute_batch(sql).unwrap();
        },
        Nothing,
    ),
    (
        "fts5.db",
        |path| {
            let sql = "CREATE VIRTUAL TABLE f USING fts5(body, tokenize = 'unicode61'); INSERT INTO f VALUES ('some words')";
            rewritten(path, sql, "unicode61", "ours");
        },
        DrillNotChecked("virtual table f: "),
    ),
    (
        "fts4.db",
        |path| {
            let sql = "CREATE VIRTUAL TABLE f USING fts4(body, tokenize=porter); INSERT INTO f VALUES ('some words')";
            rewritten(path, sql, "porter", "ours");
        },
        DrillNotChecked("virtual table f: "),
    ),
    (
        "module.db",
        |path| {
            let sql = "CREATE VIRTUAL TABLE f USING rtree(id, a, b); INSERT INTO f VALUES (1, 2, 3)";
            rewritten(path, sql, "rtree", "vec0");
        },
        DrillNotChecked("virtual table f: no such module: vec0"),
    ),
    (
        "nocase.db",
        |path| {
            let conn = Connection::open(path).unwrap();
            conn.create_collation("NOCASE", |one, other| other.cmp(one)).unwrap();
            let sql = format!("CREATE TABLE t(a TEXT); {ROWS} t SELECT hex(randomblob(9)) FROM n; CREATE INDEX i ON t(a COLLATE nocase)");
            conn.execute_batch(&sql).unwrap();
        },
        DrillWarning("missing from index i"),
    ),
    (
        "newer.db",
        |path| {
            rewritten(
                path,
                "CREATE TABLE t(a); INSERT INTO t VALUES (1); CREATE TABLE u(a); CREATE INDEX i ON u(a)",
                "u(a)",
                "u(a) FUTURE",
            );
            let mut bytes = std::fs::read(path).unwrap();
            bytes[96..100].copy_from_slice(&4_000_000u32.to_be_bytes());
            std::fs::write(path, bytes).unwrap();
        },
        NotChecked("malformed database schema (u)"),
    ),
];

/// Of old versions and with rare settings.
const FORMATS: &[Case] = &[
    (
        "format1.db",
        |path| {
            let conn = Connection::open(path).unwrap();
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_LEGACY_FILE_FORMAT, true).unwrap();
            conn.execute_batch(&format!("CREATE TABLE t(a); {ROWS} t SELECT i FROM n; CREATE INDEX i ON t(a DESC)")).unwrap();
            drop(conn);
            assert_eq!(std::fs::read(path).unwrap()[47], 1);
        },
        Nothing,
    ),
    ("small.db", |path| made(path, "PRAGMA page_size=512"), Nothing),
    ("large.db", |path| made(path, "PRAGMA page_size=65536; PRAGMA encoding='UTF-16le'"), Nothing),
    ("vacuum.db", |path| made(path, "PRAGMA auto_vacuum=INCREMENTAL"), Nothing),
    ("wal.db", |path| made(path, "PRAGMA journal_mode=WAL"), Nothing),
    (
        "reserved.db",
        |path| {
            // 32 bytes at the end of each page, as extensions for checksums and encryption keep them.
            made(path, "PRAGMA page_size=4096");
            let conn = Connection::open(path).unwrap();
            let mut reserved: std::ffi::c_int = 32;
            let main = c"main".as_ptr();
            // SAFETY: an open connection, and a number that the call reads.
            let code = unsafe {
                rusqlite::ffi::sqlite3_file_control(
                    conn.handle(),
                    main,
                    rusqlite::ffi::SQLITE_FCNTL_RESERVE_BYTES,
                    (&raw mut reserved).cast(),
                )
            };
            assert_eq!(code, 0);
            conn.execute_batch("VACUUM").unwrap();
            drop(conn);
            assert_eq!(std::fs::read(path).unwrap()[20], 32);
        },
        Nothing,
    ),
    (
        "quotes.db",
        |path| {
            let sql = "CREATE TABLE t(a, \"b.c\"); CREATE INDEX \"i \"\" x\" ON t(\"no such column\"); INSERT INTO t VALUES (1, 2)";
            Connection::open(path).unwrap().execute_batch(sql).unwrap();
        },
        Nothing,
    ),
    ("empty.db", |path| Connection::open(path).unwrap().execute_batch("CREATE TABLE t(a); DROP TABLE t; VACUUM").unwrap(), Nothing),
];

fn made(path: &Path, pragma: &str) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!(
        "{pragma}; CREATE TABLE t(a, b); {ROWS} t SELECT i, hex(randomblob(99)) FROM n; CREATE INDEX i ON t(b); ANALYZE; DELETE FROM t WHERE a > 300"
    ))
    .unwrap();
}

fn texts(value: &Value) -> String {
    value.as_array().map_or_else(String::new, |lines| lines.iter().map(|line| line.as_str().unwrap()).collect::<Vec<_>>().join("; "))
}

/// Asserts what stands in `warnings` and `not_checked` of a report.
#[track_caller]
fn said(name: &str, report: &Value, what: &Said, by_drill: bool) {
    let (warnings, not_checked) = (texts(&report["warnings"]), texts(&report["not_checked"]));
    let (warning, unchecked) = match what {
        Nothing => (None, None),
        DrillWarning(words) => (by_drill.then_some(*words), None),
        DrillNotChecked(words) => (None, by_drill.then_some(*words)),
        Warning(words) => (Some(*words), None),
        NotChecked(words) => (None, Some(*words)),
    };
    for (text, words) in [(warnings, warning), (not_checked, unchecked)] {
        assert_eq!(text.is_empty(), words.is_none(), "{name}: {text}");
        assert!(text.contains(words.unwrap_or("")), "{name}: {words:?} is not in {text}");
    }
}

/// Backs up all of these; then restores, exports, drills, dumps, and restores each onto an open database.
fn everything_works_with(cases: &[Case]) {
    let place = Place::with_repository();
    std::fs::create_dir(place.path("app")).unwrap();
    for (name, make, _) in cases {
        make(&place.path("app").join(name));
    }
    let original = |name: &str| std::fs::read(place.path("app").join(name)).unwrap();
    let backup = place.json(["backup", "files", "app", "--content", "always"]);
    assert_eq!((&backup["flags"], &backup["skipped"]), (&serde_json::json!([]), &serde_json::json!([])));
    let files: Vec<String> = cases.iter().map(|(name, ..)| format!("app/{name}")).collect();
    let backup = place.json(["backup", "sqlite", "--content", "always"].into_iter().map(str::to_owned).chain(files));
    assert_eq!(backup["flags"], serde_json::json!([]));

    let snapshot = backup["snapshot"].as_str().unwrap();
    let restored = place.json(["restore", snapshot, "--to", "out"]);
    let exported = place.json(["export", snapshot, "flat"]);
    let drilled = place.json(["drill", snapshot]);
    for (name, _, what) in cases {
        let of = |list: &Value, field: &str| list.as_array().unwrap().iter().find(|one| one[field] == *name).unwrap().clone();
        said(name, &of(&restored["restored"], "name"), what, false);
        let checks = drilled["drills"][0]["checks"].as_array().unwrap();
        let integrity = checks.iter().find(|check| check["stream"] == *name && check["check"] == "integrity").unwrap();
        assert_eq!(integrity["outcome"], "passed", "{name}");
        said(name, integrity, what, true);
        let told = [&exported["warnings"], &exported["not_checked"]].map(texts).concat();
        assert_eq!(told.contains(&format!("{name}: ")), matches!(what, Warning(_) | NotChecked(_)), "{name}: {told}");
        let dumped = place.command().args(["dump", snapshot, name]).output().unwrap();
        for bytes in
            [std::fs::read(place.path("out").join(name)).unwrap(), std::fs::read(place.path("flat").join(name)).unwrap(), dumped.stdout]
        {
            assert!(bytes == original(name), "{name}");
        }
        let live = place.path(format!("live-{name}"));
        live_copy(&live, &place.path("app").join(name));
        place.ok(["restore", snapshot, "--live", &format!("{name}={}", live.display())]);
        let (now, then) = (std::fs::read(&live).unwrap(), original(name));
        assert_eq!(now.len(), then.len(), "{name}");
        assert!(now[100..] == then[100..], "{name}");
    }
}

/// Another database with the page size of this one.
fn live_copy(path: &PathBuf, like: &Path) {
    let bytes = std::fs::read(like).unwrap();
    let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
        1 => 65_536,
        bytes => u32::from(bytes),
    };
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!("PRAGMA page_size={page_size}; CREATE TABLE other(a); INSERT INTO other VALUES (1)")).unwrap();
}

#[test]
fn rows_that_break_a_constraint_are_warnings() {
    everything_works_with(CONSTRAINTS);
}

#[test]
fn what_only_the_application_has_is_not_checked() {
    everything_works_with(APPLICATIONS);
}

#[test]
fn old_formats_and_rare_settings() {
    everything_works_with(FORMATS);
}

/// Overwrites a page in the middle.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0x5a);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_found_beside_what_cannot_be_judged() {
    let place = Place::with_repository();
    let path = place.path("app.db");
    let conn = application(&path);
    let rows = format!("CREATE TABLE t(a TEXT, b); {ROWS} t SELECT hex(randomblob(200)), i FROM n; CREATE INDEX i ON t(a COLLATE unicase)");
    // A plain index that lacks every row: it was partial once.
    conn.execute_batch(&format!("{rows}; CREATE INDEX j ON t(b) WHERE b > 1000; PRAGMA writable_schema=ON")).unwrap();
    conn.execute_batch("UPDATE sqlite_schema SET sql = 'CREATE INDEX j ON t(b)' WHERE name = 'j'").unwrap();
    drop(conn);
    place.ok(["backup", "sqlite", "app.db"]);
    // All rows are there, so that a restore goes well; queries would give wrong answers, so that a drill does not.
    let restored = place.json(["restore", "latest", "app.db=out.db"]);
    assert!(texts(&restored["restored"][0]["warnings"]).contains("index j"), "{restored}");
    place.run(["drill", "latest", "--json"]);
    let drill = place.run(["drill", "latest"]);
    assert_eq!(drill.code, Some(4), "{}", drill.stderr);
    assert!(drill.stderr.contains("missing from index j") && !drill.stderr.contains("missing from index i"), "{}", drill.stderr);
    damage(&path);
    assert_eq!(place.run(["backup", "sqlite", "app.db"]).code, Some(3));
    let newest = place.newest();
    place.run(["restore", &newest, "app.db=new.db"]).failed(4, &["is damaged, as it was at its capture", "--accept-damaged"]);
    assert!(!place.path("new.db").exists());
    let drill = place.run(["drill", &newest]);
    assert_eq!(drill.code, Some(4), "{}", drill.stderr);
}

#[test]
fn the_others_of_a_tree_are_restored_beside_a_damaged_database() {
    let place = Place::with_repository();
    std::fs::create_dir(place.path("tree")).unwrap();
    for name in ["a.db", "b.db", "c.db"] {
        place.database(Path::new("tree").join(name), 100);
    }
    damage(&place.path("tree/b.db"));
    std::fs::write(place.path("tree/d.txt"), "text").unwrap();
    assert_eq!(place.run(["backup", "files", "tree"]).code, Some(3));
    let newest = place.newest();
    let run = place.run(["restore", &newest, "--to", "out"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert!(
        run.stderr.contains("b.db: the database in the snapshot is damaged") && run.stderr.contains("--accept-damaged"),
        "{}",
        run.stderr
    );
    let names = |dir: &str| {
        let mut names: Vec<_> =
            std::fs::read_dir(place.path(dir)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names("out"), ["a.db", "c.db", "d.txt"]);
    place.run(["export", &newest, "flat"]).failed(4, &["b.db: the database in the snapshot is damaged", "--accept-damaged"]);
    assert!(!place.path("flat").exists());
    let restored = place.json(["restore", &newest, "--to", "all", "--accept-damaged"]);
    let damaged: Vec<_> = restored["restored"].as_array().unwrap().iter().filter(|one| !texts(&one["damage"]).is_empty()).collect();
    assert_eq!(damaged.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), ["b.db"]);
    assert_eq!(std::fs::read(place.path("all/b.db")).unwrap(), std::fs::read(place.path("tree/b.db")).unwrap());
    place.ok(["export", &newest, "flat", "--accept-damaged"]);
}
