//! A frozen repository of every released format opens, passes check and gives back all it holds, for ever.
//!
//! `tests/fixtures/repos/vN` holds, for format N: `repo`, the repository as that release wrote it, with the passphrase of
//! `tests/support/repo.rs`; and `expected`, a line for each stream: snapshot id, length, BLAKE3 in hex, name.
//! How to add one, when a format is released: put `vN` into [`RELEASED`], run
//! `cargo test --test library format::compat::freeze -- --ignored` with that release, and commit what it wrote. It never writes over one that is there.

use std::fs;
use std::path::{Path, PathBuf};

use super::support::{Bed, back_up, make_database, open_backend, step};
use icecore::fs::disk::RealDisk;
use icecore::ops::check::{CheckOptions, check};
use icecore::ops::restore::dump;
use icecore::progress::Silent;
use icecore::store::backend::LocalBackend;
use icecore::store::repo::{Reader, Repository};

/// The released formats. Version 1 comes with the first release.
const RELEASED: [&str; 0] = [];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/repos")
}

fn open(repo: &Path, cache: &Path) -> Repository {
    let backend = LocalBackend::open(repo, std::sync::Arc::new(RealDisk)).unwrap();
    open_backend(std::sync::Arc::new(backend), cache.to_path_buf(), 2).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A line for each stream of each snapshot, as read now.
fn describe(repo: &Repository) -> String {
    let mut lines = Vec::new();
    for (id, record) in repo.refresh().unwrap().snapshots {
        for entry in Reader::new(repo).listing(&record.listing, &Silent).unwrap() {
            let mut bytes = Vec::new();
            dump(repo, &record, &entry.name, &mut bytes, &Silent).unwrap();
            let name = String::from_utf8(entry.name).unwrap();
            lines.push(format!("{id} {} {} {name}\n", bytes.len(), blake3::hash(&bytes).to_hex()));
        }
    }
    lines.concat()
}

/// Opens a copy of a fixture, so that nothing can change it, checks every byte and reads every stream.
fn examine(fixture: &Path) {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture.join("repo"), &dir.path().join("repo"));
    let repo = open(&dir.path().join("repo"), &dir.path().join("cache"));
    let report = check(&repo, &CheckOptions::read_all(), &Silent).unwrap();
    assert!(report.findings.is_empty(), "{}: {:?}", fixture.display(), report.findings);
    let expected = fs::read_to_string(fixture.join("expected")).unwrap();
    assert!(!expected.is_empty());
    assert_eq!(describe(&repo), expected, "{}", fixture.display());
}

/// Writes a fixture with this program: some history, deltas included.
fn write_fixture(fixture: &Path) {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 300);
    let mut expected = String::new();
    for n in 0..5 {
        step(&db, n);
        let id = back_up(&bed.open(), &path, i64::from(n)).id;
        let bytes = fs::read(&path).unwrap();
        expected += &format!("{id} {} {} db\n", bytes.len(), blake3::hash(&bytes).to_hex());
    }
    copy(&bed.path("repo"), &fixture.join("repo"));
    fs::write(fixture.join("expected"), expected).unwrap();
}

#[test]
fn every_released_format_is_read() {
    let mut found: Vec<String> = fs::read_dir(fixtures())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, RELEASED, "{} must hold one directory for each released format", fixtures().display());
    found.iter().for_each(|name| examine(&fixtures().join(name)));
}

/// The examination itself: passes on a repository just written, and notices what is missing or changed.
#[test]
fn a_fixture_is_examined() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = dir.path().join("v1");
    write_fixture(&fixture);
    examine(&fixture);
    let fails = || std::panic::catch_unwind(|| examine(&fixture)).is_err();
    let expected = fs::read_to_string(fixture.join("expected")).unwrap();
    fs::write(fixture.join("expected"), expected.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert!(fails(), "a snapshot more than expected goes unnoticed");
    fs::write(fixture.join("expected"), expected).unwrap();
    let snapshot = fs::read_dir(fixture.join("repo/snapshots")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(snapshot).unwrap();
    assert!(fails(), "a lost snapshot goes unnoticed");
}

#[test]
#[ignore = "writes the fixture of the newest format, if it is not there"]
fn freeze() {
    let fixture = fixtures().join(format!("v{}", icecore::store::format::FORMAT_VERSION));
    assert!(!fixture.exists(), "{} is frozen", fixture.display());
    write_fixture(&fixture);
}
