//! `icecore drill`.

use rusqlite::Connection;

use super::site::{BACKUP, Site};

#[test]
fn the_demonstration_passes_and_leaves_nothing() {
    let site = Site::new();
    let run = site.drill(&["--report", "reports/drill.json"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let report = site.json("reports/drill.json");
    assert_eq!((report["schema"].as_u64(), report["kind"].as_str(), report["passed"].as_bool()), (Some(1), Some("demo"), Some(true)));
    let drills = report["drills"].as_array().unwrap();
    assert_eq!(drills.len(), 2);
    for drill in drills {
        let checks: Vec<_> = drill["checks"].as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
        assert_eq!(checks, ["restore", "integrity", "content", "header", "integrity", "content", "header", "recall", "history"]);
        assert!(drill["checks"].as_array().unwrap().iter().all(|check| check["outcome"] == "passed"), "{drill}");
    }
    assert_ne!(drills[0]["snapshot"], drills[1]["snapshot"]);
    assert_eq!(site.names("cache"), [] as [&str; 0]);
    site.drill(&["--rto", "0"]).fails(4, &["the drill failed"]);
}

#[test]
fn a_snapshot_that_passes_is_marked() {
    let site = Site::backed_up();
    let run = site.drill(&["latest", "--rto", "30m", "--check-sql", "memory.db:SELECT count(*) = 300 FROM t", "--report", "drill.json"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let report = site.json("drill.json");
    assert_eq!((report["marked"].as_bool(), report["drills"][0]["rto_ms"].as_f64()), (Some(true), Some(1_800_000.0)));
    let shown = site.icecore().args(["show", "latest", "--json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["snapshot"]["checked"]["whole"].as_bool(), Some(true), "{shown}");
    // What was restored stays only where that was asked for.
    assert!(!site.names("cache").iter().any(|name| name.contains("drill")), "{:?}", site.names("cache"));
    assert_eq!(site.drill(&["latest", "--staging", "look", "--no-mark"]).code, Some(0));
    assert_eq!(site.rows("look/memory.db"), 300);
    site.drill(&["latest", "--staging", "look"]).fails(2, &["is not empty"]);
}

#[test]
fn each_thing_that_is_wrong_fails_it() {
    let site = Site::backed_up();
    site.drill(&["latest", "--check-sql", "memory.db:SELECT count(*) > 300 FROM t"]).fails(4, &["memory.db: sql", "which is not true"]);
    site.drill(&["latest", "--check-sql", "memory.db:SELECT 1 FROM nowhere"]).fails(4, &["no such table"]);
    site.drill(&["latest", "--check-sql", "memory.db:SELECT 1 WHERE 0"]).fails(4, &["no row"]);
    site.drill(&["latest", "--check-sql", "SELECT 1"]).fails(2, &["NAME:SQL", "memory.db, model_registry.db"]);
    site.drill(&["latest", "--rto", "0"]).fails(4, &["rto"]);
    // Nothing that failed is marked.
    let shown = site.icecore().args(["show", "latest", "--json"]).output().unwrap();
    assert!(String::from_utf8(shown.stdout).unwrap().contains("\"checked\": null"));
    // A row that breaks a rule of its table is reported and fails nothing, since every byte is readable.
    let conn = Connection::open(site.path(".data/brainstem.db")).unwrap();
    conn.execute_batch(
        "CREATE TABLE strict_one(x); INSERT INTO strict_one VALUES (NULL); PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = 'CREATE TABLE strict_one(x NOT NULL)' WHERE name = 'strict_one'",
    )
    .unwrap();
    drop(conn);
    site.ok(BACKUP);
    let run = site.drill(&["latest", "--report", "told.json"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("warnings: NULL value in strict_one.x"), "{}", run.stdout);
    assert_eq!(site.json("told.json")["passed"].as_bool(), Some(true));
    // An index without the rows of its table gives wrong answers: SQLite's full check says so.
    let conn = Connection::open(site.path(".data/brainstem.db")).unwrap();
    conn.execute_batch(
        "CREATE TABLE listed(n); INSERT INTO listed VALUES (1), (2); CREATE INDEX partial_once ON listed(n) WHERE n < 0; PRAGMA writable_schema=ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX partial_once ON listed(n)' WHERE name = 'partial_once'",
    )
    .unwrap();
    drop(conn);
    site.ok(BACKUP);
    let run = site.drill(&["latest", "--report", "failed.json"]);
    run.fails(4, &["memory.db: integrity: ", "missing from index partial_once"]);
    assert_eq!(site.json("failed.json")["passed"].as_bool(), Some(false));
    // Stored damage.
    let packs = walkdir::WalkDir::new(site.path("backups/sqlite/icecore-repository/packs")).into_iter().map(Result::unwrap);
    for pack in packs.filter(|entry| entry.file_type().is_file()) {
        let mut bytes = std::fs::read(pack.path()).unwrap();
        // More than parity heals.
        bytes[100..].fill(0xee);
        std::fs::write(pack.path(), bytes).unwrap();
    }
    site.drill(&["latest~1"]).fails(4, &["damaged"]);
}

/// Content is recorded at the capture, inherited where nothing has changed, and costs next to nothing then.
#[test]
fn content_is_recorded_and_inherited() {
    let site = Site::new();
    let conn = Connection::open(site.path(".data/brainstem.db")).unwrap();
    (0..100).for_each(|n| {
        conn.execute_batch(&format!("CREATE TABLE a_table_with_a_name_{n}(x); INSERT INTO a_table_with_a_name_{n} VALUES ({n})")).unwrap()
    });
    drop(conn);
    site.ok(BACKUP);
    let backup = |when: &str| -> u64 {
        let args =
            ["backup", "sqlite", "--json", "--content", when, "memory.db=.data/brainstem.db", "model_registry.db=.data/model_registry.db"];
        let run = site.icecore().args(args).output().unwrap();
        let done: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(done["flags"].as_array().map(Vec::len), Some(0), "{done}");
        done["stored_bytes"].as_u64().unwrap()
    };
    let content = || {
        let run = site.drill(&["latest", "--json", "--no-mark"]);
        let report: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        let checks = report["drills"][0]["checks"].as_array().unwrap().clone();
        checks.iter().find(|check| check["check"] == "content" && check["stream"] == "memory.db").unwrap()["outcome"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    // The same bytes have the same rows, whether they were read again or not.
    for when in ["auto", "never"] {
        let stored = backup(when);
        assert!(stored < 2048, "{stored}");
        assert_eq!(content(), "passed");
    }
    site.database(".data/brainstem.db", 1);
    // Its stamp counts then: unchanged, it is not read again.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    backup("never");
    assert_eq!(content(), "skipped");
    backup("always");
    assert_eq!(content(), "passed");
}
