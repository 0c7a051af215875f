//! The script at the end of the page gives every stream of an unencrypted repository back.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::page::Page;
use super::support::{Bed, add_rows, back_up, make_database, step};
use icecore::repo::Reader;

/// An interpreter that has the module; the one of the system may have packages that another one lacks.
fn python() -> &'static str {
    let has_module =
        |python: &&str| Command::new(python).args(["-c", "import zstandard"]).output().is_ok_and(|output| output.status.success());
    ["python3", "/usr/bin/python3"].into_iter().find(has_module).expect(
        "the script of store-format.md needs python3 with the module zstandard: `apt-get install -y python3-zstandard`, or \
         `pip install zstandard`",
    )
}

struct Script {
    bed: Bed,
    path: PathBuf,
}

impl Script {
    fn new(bed: Bed) -> Self {
        let path = bed.path("extract.py");
        std::fs::write(&path, Page::read().script()).unwrap();
        Script { bed, path }
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(python()).arg(&self.path).arg(self.bed.path("repo")).args(args).output().unwrap()
    }

    /// What the script gives for a stream.
    fn stream(&self, snapshot: &str, name: &str) -> Vec<u8> {
        let out = self.bed.path("out");
        let output = self.run(&[snapshot, name, out.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(out).unwrap()
    }
}

/// Deltas of several levels, trees of two levels, a VACUUM, several packs.
#[test]
fn every_snapshot_is_extracted() {
    let script = Script::new(Bed::new(false));
    let path = script.bed.path("db.sqlite");
    let db = make_database(&path, 40_000);
    let repo = script.bed.open();
    let (mut history, mut delta_bytes) = (Vec::new(), 0);
    for n in 0..6 {
        step(&db, n);
        if n == 4 {
            db.execute_batch("DELETE FROM memory WHERE id % 3 = 0; VACUUM").unwrap();
        }
        let report = back_up(&repo, &path, i64::from(n));
        delta_bytes += report.record.stats.delta_bytes;
        history.push((report, std::fs::read(&path).unwrap()));
    }
    assert!(delta_bytes > 0, "there are no deltas to read");
    let listing = Reader::new(&repo).listing(&history[0].0.record.listing).unwrap();
    assert_eq!(listing[0].root.levels, 2);
    for (report, expected) in &history {
        assert!(script.stream(&report.id.to_string(), "db") == *expected, "snapshot {}", report.id);
    }
    let (last, expected) = history.last().unwrap();
    assert!(script.stream("latest", "db") == *expected);
    assert!(script.stream(&last.id.short(), "db") == *expected);
    let shown = script.run(&["latest"]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout), format!("sqlite {} db\n", expected.len()));
}

#[test]
fn what_is_not_there_is_said() {
    let script = Script::new(Bed::new(false));
    drop(make_database(&script.bed.path("db.sqlite"), 10));
    let report = back_up(&script.bed.open(), &script.bed.path("db.sqlite"), 1);
    let out = script.bed.path("out");
    for (args, says) in [(["beef", "db"], "0 snapshots"), (["latest", "other"], "no stream")] {
        let output = script.run(&[args[0], args[1], out.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{said}");
    }
    let pack = report.record.packs[0].id.to_string();
    std::fs::remove_file(script.bed.path("repo").join("packs").join(&pack[..2]).join(&pack)).unwrap();
    let output = script.run(&["latest", "db", out.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is in no pack"), "{said}");
}

#[test]
fn an_encrypted_repository_is_refused() {
    let script = Script::new(Bed::new(true));
    let path = script.bed.path("db.sqlite");
    let db = make_database(&path, 10);
    add_rows(&db, 10, 10);
    back_up(&script.bed.open(), &path, 1);
    let output = script.run(&["latest"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("encrypted"), "{said}");
}
