//! Read-only media and missing permissions. Each needs a process of its own: with a mount, or as another user.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use super::support::*;

fn directory(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Rollback mode; WAL mode closed cleanly; WAL mode with a log; a hot journal. What each must look like is beside them, in `wanted`.
fn make_all(dir: &Path, wanted: &Path) {
    let path = |name: &str| dir.join(name);
    drop(make(&path("plain.db"), 4096, "delete"));
    std::fs::copy(path("plain.db"), wanted.join("plain.db")).unwrap();
    drop(make(&path("closed.db"), 4096, "wal"));
    Connection::open(path("closed.db")).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    std::fs::copy(path("closed.db"), wanted.join("closed.db")).unwrap();
    drop(make(&path("log.db"), 4096, "wal"));
    std::fs::remove_file(path("log.db-shm")).unwrap();
    std::fs::write(wanted.join("log.db"), checkpointed(&path("log.db"))).unwrap();
    let conn = make(&path("origin.db"), 4096, "delete");
    std::fs::copy(path("origin.db"), wanted.join("hot.db")).unwrap();
    conn.execute_batch("PRAGMA cache_size=5; PRAGMA cache_spill=5; BEGIN; UPDATE t SET v=randomblob(300)").unwrap();
    std::fs::copy(path("origin.db"), path("hot.db")).unwrap();
    let mut journal = std::fs::read(path("origin.db-journal")).unwrap();
    journal[8..12].copy_from_slice(&[0xFF; 4]);
    std::fs::write(path("hot.db-journal"), journal).unwrap();
    drop(conn);
    std::fs::remove_file(path("origin.db")).unwrap();
}

const MAKE_READ_ONLY: &str = r#"mount --bind "$MEDIA" "$MEDIA" && mount -o remount,ro,bind "$MEDIA" && exec "$@""#;

#[test]
fn on_read_only_media() {
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs the right to mount");
        return;
    }
    let (media, wanted, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_all(media.path(), wanted.path());
    let before = names(media.path());
    let variables = [("MEDIA", media.path()), ("WANTED", wanted.path()), ("TEMP", temp.path())];
    let prefix = ["unshare", "-m", "sh", "-c", MAKE_READ_ONLY, "sh"];
    let status = child(&prefix, "source::sqlite_place::inner_read_only_media", &variables).status().unwrap();
    assert!(status.success());
    assert_eq!(names(media.path()), before);
    assert!(names(temp.path()).is_empty(), "{:?}", names(temp.path()));
}

#[test]
#[ignore = "runs as a child of another test"]
fn inner_read_only_media() {
    let (Some(media), Some(wanted), Some(temp)) = (directory("MEDIA"), directory("WANTED"), directory("TEMP")) else { return };
    assert!(std::fs::write(media.join("x"), b"").is_err(), "not read-only");
    let mut options = options();
    options.temp_dir = Some(temp);
    for name in ["plain.db", "closed.db", "log.db", "hot.db"] {
        let path = media.join(name);
        let captured = capture_from(&source_with(&[("db", &path)], options.clone()), &Default::default()).unwrap();
        assert_same(captured.bytes("db"), &std::fs::read(wanted.join(name)).unwrap(), name);
        assert_eq!(captured.flags(), Vec::<&str>::new());
        assert_eq!(captured.blocks_writers, name == "plain.db", "{name}");
    }
    options.temp_dir = None;
    for name in ["log.db", "hot.db"] {
        let error = capture_from(&source_with(&[("db", &media.join(name))], options.clone()), &Default::default()).err().unwrap();
        assert!(error.to_string().contains("name a directory for a temporary copy"), "{error}");
    }
}

#[test]
fn without_permission() {
    if !rustix_is_root() {
        eprintln!("skipped: needs root to become another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wanted = dir.path().join("wanted");
    std::fs::create_dir(&wanted).unwrap();
    make_all(dir.path(), &wanted);
    drop(make(&dir.path().join("secret.db"), 4096, "delete"));
    drop(make(&dir.path().join("secret-log.db"), 4096, "wal"));
    let mode = |name: &str, mode| std::fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(mode)).unwrap();
    mode("secret.db", 0o600);
    mode("secret-log.db-wal", 0o600);
    mode("", 0o755);
    let mut command = child(&[], "source::sqlite_place::inner_without_permission", &[("MEDIA", dir.path()), ("WANTED", &wanted)]);
    let status = command.uid(65_534).gid(65_534).current_dir("/").status().unwrap();
    assert!(status.success());
}

fn rustix_is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

#[test]
#[ignore = "runs as a child of another test"]
fn inner_without_permission() {
    let (Some(media), Some(wanted)) = (directory("MEDIA"), directory("WANTED")) else { return };
    assert!(std::fs::write(media.join("x"), b"").is_err(), "still privileged");
    let plain = capture(&[("db", &media.join("plain.db"))]).unwrap();
    assert_same(plain.bytes("db"), &std::fs::read(wanted.join("plain.db")).unwrap(), "plain");
    let cases = [
        ("closed.db", "this user may not make them"),
        ("log.db", "-wal cannot be written"),
        ("hot.db", "must be rolled back"),
        ("secret.db", "permission denied"),
        ("secret-log.db", "-wal cannot be read: permission denied"),
    ];
    for (name, reason) in cases {
        let error = capture(&[("db", &media.join(name))]).err().unwrap().to_string();
        assert!(error.contains(reason) && error.contains(name), "{error}");
    }
}
