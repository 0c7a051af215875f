//! backup_sqlite.sh, restore_sqlite.sh and verify_sqlite_restore.py.

use std::os::unix::fs::MetadataExt;

use rusqlite::Connection;

use super::script::write_script;
use super::site::{BACKUP, RESTORE, Run, Site};

const LATEST: &str = "backups/sqlite/latest";

#[test]
fn the_commands_do_what_the_playbook_says() {
    let site = Site::new();
    site.ok(BACKUP);
    assert_eq!(site.names(LATEST), ["checksums.txt", "manifest.json", "memory.db", "model_registry.db"]);
    assert_eq!(site.names("backups/sqlite"), ["icecore-repository", "icecore-repository.key", "latest"]);
    assert_eq!(std::fs::metadata(site.path("backups/sqlite/icecore-repository.key")).unwrap().mode() & 0o777, 0o600);
    site.ok("cd backups/sqlite/latest && sha256sum -c --strict checksums.txt");
    let first = site.json(&format!("{LATEST}/manifest.json"));
    assert_eq!(
        (first["format"].as_str(), first["schema"].as_u64(), first["status"].as_str()),
        (Some("icecore-export"), Some(1), Some("good"))
    );
    let tables = first["files"][0]["tables"].as_array().unwrap();
    assert_eq!((tables[1]["name"].as_str(), tables[1]["rows"].as_u64()), (Some("t"), Some(300)));
    let blake3 = blake3::hash(&std::fs::read(site.path(&format!("{LATEST}/memory.db"))).unwrap()).to_hex().to_string();
    assert_eq!(first["files"][0]["blake3"].as_str(), Some(blake3.as_str()));

    site.database(".data/brainstem.db", 5);
    site.ok(BACKUP);
    let second = site.json(&format!("{LATEST}/manifest.json"));
    assert_eq!(second["parent"], first["snapshot"]);
    assert_eq!(site.rows(&format!("{LATEST}/memory.db")), 305);

    site.database(".data/brainstem.db", 1000);
    let run = site.ok(RESTORE);
    assert!(run.stdout.contains(&second["snapshot"].as_str().unwrap()[..12]), "{}", run.stdout);
    assert_eq!((site.rows(".data/brainstem.db"), site.rows(".data/model_registry.db")), (305, 40));
    let kept: Vec<String> = site.names(".data").into_iter().filter(|name| name.contains(".pre_restore.")).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(site.rows(&format!(".data/{}", kept[0])), 1305);
}

#[test]
fn a_new_host_needs_only_the_directory() {
    let site = Site::backed_up();
    std::fs::remove_dir_all(site.path("backups/sqlite/icecore-repository")).unwrap();
    std::fs::remove_dir_all(site.path(".data")).unwrap();
    site.ok(RESTORE);
    assert_eq!(site.names(".data"), ["brainstem.db", "model_registry.db"]);
    assert_eq!(site.rows(".data/brainstem.db"), 300);
}

#[test]
fn a_missing_database_leaves_the_last_backup() {
    let site = Site::backed_up();
    let before = site.files(LATEST);
    std::fs::rename(site.path(".data/model_registry.db"), site.path("elsewhere.db")).unwrap();
    site.sh(BACKUP).fails(1, &[".data/model_registry.db: no such file"]);
    assert_eq!(site.files(LATEST), before);
    site.sh("bash scripts/backup_sqlite.sh --memory-db .data/brainstem.db").fails(2, &["--out-dir is missing", "usage:"]);
    site.sh("bash scripts/restore_sqlite.sh --backup-dir nowhere --memory-db x.db").fails(1, &["nowhere: no such directory"]);
    site.sh("bash scripts/restore_sqlite.sh --backup-dir").fails(2, &["--backup-dir needs a value"]);
}

/// A damaged database makes a flagged snapshot, which must not take the place of a good one.
#[test]
fn a_damaged_database_leaves_the_last_backup() {
    let site = Site::backed_up();
    let before = site.files(LATEST);
    let path = site.path(".data/brainstem.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3 * 4096..3 * 4096 + 200].fill(0xaa);
    std::fs::write(&path, bytes).unwrap();
    site.sh(BACKUP).fails(3, &["flagged", "stays as it was"]);
    assert_eq!(site.files(LATEST), before);
}

#[test]
fn stored_damage_leaves_the_last_export() {
    let site = Site::backed_up();
    let before = site.files(LATEST);
    let packs = walkdir::WalkDir::new(site.path("backups/sqlite/icecore-repository/packs")).into_iter().map(Result::unwrap);
    for pack in packs.filter(|entry| entry.file_type().is_file()) {
        let mut bytes = std::fs::read(pack.path()).unwrap();
        // More than parity heals.
        bytes[100..].fill(0xee);
        std::fs::write(pack.path(), bytes).unwrap();
    }
    let run: Run = site.icecore().args(["export", "latest", LATEST]).output().unwrap().into();
    run.fails(4, &["damaged"]);
    assert!(!run.stderr.contains("is restored"), "{}", run.stderr);
    assert_eq!(site.files(LATEST), before);
    assert_eq!(site.names("backups/sqlite"), ["icecore-repository", "icecore-repository.key", "latest"]);
}

#[test]
fn wrong_checksums_stop_a_restore_before_it_touches_anything() {
    let site = Site::backed_up();
    let good = std::fs::read(site.path(&format!("{LATEST}/model_registry.db"))).unwrap();
    let data = site.files(".data");
    let mut bad = good.clone();
    bad[5000] ^= 1;
    std::fs::write(site.path(&format!("{LATEST}/model_registry.db")), &bad).unwrap();
    site.sh(RESTORE).fails(4, &["model_registry.db is not what its checksum says", "nothing was changed"]);
    assert_eq!(site.files(".data"), data);
    std::fs::remove_file(site.path(&format!("{LATEST}/model_registry.db"))).unwrap();
    site.sh(RESTORE).fails(4, &["model_registry.db is missing"]);
    std::fs::write(site.path(&format!("{LATEST}/checksums.txt")), "garbage\n").unwrap();
    site.sh(RESTORE).fails(4, &["line 1 is not a checksum"]);
    assert_eq!(site.files(".data"), data);
    // Without checksums it goes on, and says so; SQLite's check still stands guard.
    std::fs::remove_file(site.path(&format!("{LATEST}/checksums.txt"))).unwrap();
    std::fs::write(site.path(&format!("{LATEST}/model_registry.db")), &good).unwrap();
    let run = site.ok(RESTORE);
    assert!(run.stderr.contains("has no checksums.txt"), "{}", run.stderr);
    assert!(run.stdout.contains("not verified"), "{}", run.stdout);
}

#[test]
fn a_copy_that_was_changed_since_is_refused() {
    let site = Site::backed_up();
    std::fs::write(site.path(&format!("{LATEST}/memory.db-wal")), b"frames").unwrap();
    site.sh(RESTORE).fails(1, &["memory.db-wal lies beside it"]);
}

/// A limit on the size of files stands for a full disk: writing past it is an error as well (EFBIG in place of ENOSPC).
#[test]
fn a_full_disk_loses_nothing() {
    let site = Site::backed_up();
    site.database(".data/brainstem.db", 20_000);
    let (before, data) = (site.files(LATEST), site.files(".data"));
    let full = "trap '' XFSZ; ulimit -f 1024;";
    site.sh(&format!("{full} {BACKUP}")).fails(1, &["error:", "unchanged"]);
    assert_eq!(site.files(LATEST), before);
    assert_eq!(site.names("backups/sqlite"), ["icecore-repository", "icecore-repository.key", "latest"]);
    site.ok(BACKUP);
    assert_eq!(site.files(".data"), data);
    let before = site.files(".data");
    // The small database fits. The large one is unchanged.
    site.sh(&format!("{full} {RESTORE}")).fails(3, &["memory.db was not restored", "unchanged"]);
    let after = site.files(".data");
    assert!(before.values().all(|bytes| after.values().any(|found| found == bytes)), "what was there is there, or kept");
    site.ok(RESTORE);
    assert_eq!(site.rows(".data/brainstem.db"), 20_300);
}

#[test]
fn a_database_in_use_is_backed_up_and_not_replaced() {
    let site = Site::backed_up();
    let conn = Connection::open(site.path(".data/model_registry.db")).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO t(text) VALUES ('not committed')").unwrap();
    site.ok(BACKUP);
    // The first of the two is free. Both are reported, and the other one is unchanged.
    site.sh(RESTORE).fails(3, &["model_registry.db was not restored", "in use by process", "stop it"]);
    let kept: Vec<String> = site.names(".data").into_iter().filter(|name| name.contains(".pre_restore.")).collect();
    assert!(matches!(&kept[..], [only] if only.starts_with("brainstem.db.pre_restore.")), "{kept:?}");
    assert_eq!(site.rows(&format!("{LATEST}/model_registry.db")), 40);
    drop(conn);
    site.ok(RESTORE);
}

#[test]
fn the_smoke_test_in_python_passes_and_notices_a_wrong_restore() {
    let site = Site::new();
    let run = site.ok("python3 scripts/verify_sqlite_restore.py");
    assert!(run.stdout.contains("recall"), "{}", run.stdout);
    let report = site.json(".data/restore-verify/verification.json");
    assert_eq!((report["passed"].as_bool(), report["checks"].as_array().map(Vec::len)), (Some(true), Some(4)));
    assert_eq!(site.names(".data/restore-verify"), ["verification.json"]);
    // A program that restores something else.
    let script = "icecore=$REAL\n[ \"$1\" != restore ] || { sqlite_file=${@: -2:1}; \"$REAL\" \"$@\" && python3 - \"${sqlite_file#*=}\" <<'P'\nimport sqlite3,sys\nc=sqlite3.connect(sys.argv[1]); c.execute(\"delete from recall where rowid=7\"); c.commit()\nP\nexit; }\nexec \"$REAL\" \"$@\"";
    write_script(&site.path("liar"), script);
    let run = site.sh("REAL=$ICECORE_BIN ICECORE_BIN=$PWD/liar python3 scripts/verify_sqlite_restore.py");
    assert_eq!(run.code, Some(1), "{}{}", run.stdout, run.stderr);
    assert_eq!(site.json(".data/restore-verify/verification.json")["passed"].as_bool(), Some(false));
}
