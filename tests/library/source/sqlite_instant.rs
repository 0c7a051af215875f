//! Several databases are captured as of one instant.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rusqlite::Connection;

use super::support::*;

const WRITER: &str = "source::sqlite_instant::the_writer";

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// Not a test: the other process. Commits n to A, then n to B, without pause (or both in one transaction over attached databases).
#[test]
#[ignore = "runs as a child of the other tests"]
fn the_writer() {
    let (Some(a), Some(b), Some(stop)) = (variable("WRITER_A"), variable("WRITER_B"), variable("WRITER_STOP")) else { return };
    let open = |path: &Path| {
        let conn = Connection::open(path).unwrap();
        conn.busy_timeout(Duration::from_secs(60)).unwrap();
        conn.execute_batch("PRAGMA synchronous=OFF").unwrap();
        conn
    };
    let (a, other) = (open(&a), open(&b));
    let together = variable("WRITER_TOGETHER").is_some();
    if together {
        a.execute("ATTACH ?1 AS b", [b.to_str().unwrap()]).unwrap();
        a.execute_batch("PRAGMA b.synchronous=OFF").unwrap();
    }
    for n in 1.. {
        if n % 50 == 0 && stop.exists() {
            break;
        }
        if together {
            a.execute_batch(&format!("BEGIN IMMEDIATE; PRAGMA main.user_version={n}; PRAGMA b.user_version={n}; COMMIT")).unwrap();
        } else {
            a.execute_batch(&format!("PRAGMA user_version={n}")).unwrap();
            other.execute_batch(&format!("PRAGMA user_version={n}")).unwrap();
        }
    }
}

struct Writer {
    child: Child,
    stop: PathBuf,
}

impl Writer {
    fn start(dir: &Path, together: bool) -> Self {
        let (a, b, stop) = (dir.join("a.db"), dir.join("b.db"), dir.join("stop"));
        let mut variables = vec![("WRITER_A", a.as_path()), ("WRITER_B", &b), ("WRITER_STOP", &stop)];
        if together {
            variables.push(("WRITER_TOGETHER", dir));
        }
        let child = child(&[], WRITER, &variables).stdout(std::process::Stdio::null()).spawn().unwrap();
        let conn = open_leaving_wal(&b);
        let written = || conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap();
        super::wait::until("the writer writes", || written() >= 100);
        Self { child, stop }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        std::fs::write(&self.stop, b"").unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success() || std::thread::panicking());
    }
}

/// Captures A and B (and idle databases between them, which make the window wider) under the writer, so often at least, and until the writer has
/// moved on often enough and writers were held so often.
fn captures(mode: &str, count: usize, idle: usize, together: bool, held: usize) {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = dir.path().join(format!("{name}.db"));
        let conn = open_leaving_wal(&path);
        conn.execute_batch(&format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x)")).unwrap();
        path
    };
    let (a, b) = (make("a"), make("b"));
    let idle: Vec<(String, PathBuf)> = (0..idle).map(|i| (format!("idle-{i}"), make(&format!("idle-{i}")))).collect();
    let mut databases = vec![("b", b.as_path())];
    databases.extend(idle.iter().map(|(name, path)| (name.as_str(), path.as_path())));
    databases.push(("a", a.as_path()));
    let source = source(&databases);
    let _writer = Writer::start(dir.path(), together);
    let (mut taken, mut locked, mut distinct, mut last) = (0, 0, 0, 0);
    // On a busy machine the writer may get little time.
    while taken < count || distinct <= count / 4 || locked < held {
        assert!(taken < 20 * count, "{taken} captures: writers were held {locked} times, and {distinct} states were seen");
        taken += 1;
        let captured = capture_from(&source, &Default::default()).unwrap();
        assert_eq!(captured.flags(), Vec::<&str>::new());
        let (n_a, n_b) = (captured.streams["a"].facts.user_version, captured.streams["b"].facts.user_version);
        let allowed = if together { 0..=0 } else { 0..=1 };
        assert!(allowed.contains(&(n_a - n_b)), "A has {n_a}, B has {n_b}");
        locked += usize::from(captured.fact("instant") == Some("locked"));
        distinct += usize::from(n_a != last);
        last = n_a;
    }
}

#[test]
fn a_thousand_captures_in_wal_mode() {
    captures("wal", 1000, 0, false, 0);
}

#[test]
fn captures_in_rollback_mode() {
    captures("delete", 200, 0, false, 0);
}

#[test]
fn a_transaction_over_attached_rollback_databases_is_never_split() {
    captures("delete", 150, 0, true, 0);
}

#[test]
fn writers_are_held_when_no_quiet_moment_comes() {
    captures("wal", 60, 60, false, 1);
}
