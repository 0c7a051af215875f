//! The script at the end of the page gives every stream of a repository back, or says why not.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use super::chunks::commit;
use super::page::Page;
use super::rng::Rng;
use super::support::{Bed, back_up, make_database, sqlite_options, step};
use icecore::engine::files::{FilesOptions, FilesSource};
use icecore::id::ChunkId;
use icecore::ops::backup::{BackupOptions, BackupReport, backup};
use icecore::ops::restore::dump;
use icecore::progress::Silent;
use icecore::store::format::SALT_LEN;
use icecore::store::format::pack::{Encoding, Frame, Trailer};
use icecore::store::repo::{BaseSlice, Committed, Reader, Reference, Repository};

/// An interpreter, and whether it has all modules; the one of the system may have packages that another one lacks.
fn find_python() -> (&'static str, bool) {
    let has = |python: &str, modules: &str| {
        Command::new(python).args(["-c", &format!("import {modules}")]).output().is_ok_and(|output| output.status.success())
    };
    let of_tests = concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-venv/bin/python3");
    let all = ["python3", of_tests, "/usr/bin/python3"];
    if let Some(python) = all.into_iter().find(|python| has(python, "zstandard, blake3, cryptography, argon2")) {
        return (python, true);
    }
    let python = all.into_iter().find(|python| has(python, "zstandard"));
    (python.expect("the script of store-format.md needs python3 with the module zstandard: `pip install zstandard`"), false)
}

static PYTHON: LazyLock<(&str, bool)> = LazyLock::new(find_python);

/// Whether the script can do all that it does. Where the modules cannot be installed, `scripts/test.sh` says that these tests are left out.
pub fn has_all_modules() -> bool {
    if !PYTHON.1 {
        println!("left out: python3 lacks one of the modules blake3, cryptography and argon2");
    }
    PYTHON.1
}

pub struct Script {
    pub bed: Bed,
    path: PathBuf,
}

impl Script {
    pub fn new(bed: Bed) -> Self {
        let path = bed.path("extract.py");
        std::fs::write(&path, Page::read().script()).unwrap();
        Script { bed, path }
    }

    /// Of a database with these many rows, backed up once.
    fn of_rows(bed: Bed, rows: u32) -> (Self, BackupReport) {
        let script = Script::new(bed);
        drop(make_database(&script.bed.path("db.sqlite"), rows));
        let report = back_up(&script.bed.open(), &script.bed.path("db.sqlite"), 1);
        (script, report)
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, &[("ICECORE_PASSWORD", "correct horse")])
    }

    fn run_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(PYTHON.0);
        command.arg(&self.path).arg(self.bed.path("repo")).args(args).stdin(Stdio::null());
        for name in ["ICECORE_PASSWORD", "ICECORE_PASSWORD_FILE"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied()).output().unwrap()
    }

    /// What the script gives for a stream.
    pub fn stream(&self, snapshot: &str, name: &str) -> Vec<u8> {
        self.stream_and_words(snapshot, name).0
    }

    /// The same, and what it says.
    fn stream_and_words(&self, snapshot: &str, name: &str) -> (Vec<u8>, String) {
        let out = self.bed.path("out");
        let output = self.run(&[snapshot, name, out.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        (std::fs::read(out).unwrap(), said)
    }

    /// What the script says when it gives nothing, not even a part.
    fn refusal(&self, name: &str, environment: &[(&str, &str)]) -> String {
        let out = self.bed.path("refused");
        let output = self.run_with(&["latest", name, out.to_str().unwrap()], environment);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.lines().all(|line| line.starts_with("extract.py: ")), "{said}");
        assert!(!out.exists() && !self.bed.path("refused.part").exists(), "{said}");
        said
    }

    /// The record of the only snapshot.
    fn record(&self) -> String {
        let mut names = std::fs::read_dir(self.object("snapshots")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        format!("snapshots/{}", names.next().unwrap())
    }

    fn object(&self, path: &str) -> PathBuf {
        self.bed.path("repo").join(path)
    }

    /// Flips one byte of an object.
    fn flip(&self, path: &str, place: usize) {
        let path = self.object(path);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[place] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }

    fn key_record(&self) -> String {
        let names = std::fs::read_dir(self.object("keys")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        format!("keys/{}", names.min().unwrap())
    }
}

const RIGHT: &[(&str, &str)] = &[("ICECORE_PASSWORD", "correct horse")];

fn pack_of(report: &BackupReport) -> (String, usize, usize) {
    let pack = &report.record.packs[0];
    let id = pack.id.to_string();
    (format!("packs/{}/{id}", &id[..2]), pack.size as usize, pack.trailer_offset as usize)
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
    let listing = Reader::new(&repo).listing(&history[0].0.record.listing, &Silent).unwrap();
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

fn tables(repo: &Repository) -> Vec<Trailer> {
    let catalog = repo.catalog();
    let table = |num| Trailer::decode(&catalog.trailer(num).unwrap().unwrap()[SALT_LEN..], 0).unwrap();
    catalog.packs().unwrap().into_iter().map(|known| table(known.num)).collect()
}

/// Frames of several chunks, raw and compressed, and deltas of parts, of the same base again, and of deltas.
#[test]
fn every_kind_of_frame_is_extracted() {
    let script = Script::new(Bed::new(false));
    let repo = script.bed.open();
    let mut rng = Rng::new(1, "frames");
    let mut random = |len: usize| (0..len).map(|_| rng.next() as u8).collect::<Vec<u8>>();
    let len = 20_000;
    let noise: Vec<Vec<u8>> = (0..4).map(|_| random(len)).collect();
    let text: Vec<Vec<u8>> = (0..4).map(|n| random(100).repeat(len / 100 - n)).collect();
    let id = |plain: &[u8]| ChunkId(*blake3::hash(plain).as_bytes());
    let part = |plain: &[u8], offset: usize, len: usize| BaseSlice { id: id(plain), offset: offset as u32, len: len as u32 };
    let of = |slices: Vec<BaseSlice>| Reference { slices, ..Reference::default() };
    let near = |plain: &[u8], byte: u8| [&plain[..len - 10], &[byte; 10]].concat();
    let fresh = |plain: &Vec<u8>| (plain.clone(), Reference::default());
    let mut history = vec![noise.iter().map(fresh).collect::<Vec<_>>(), text.iter().map(fresh).collect()];
    let parts = [&noise[0][100..5000], &noise[2][7000..len], &text[1][..2000], &noise[0][..100]].concat();
    let of_parts =
        of(vec![part(&noise[0], 100, 4900), part(&noise[2], 7000, len - 7000), part(&text[1], 0, 2000), part(&noise[0], 0, 100)]);
    history.push(vec![
        (near(&noise[1], 1), Reference::to(Some(id(&noise[1])))),
        (parts.clone(), of_parts),
        (near(&noise[1], 2), of(vec![part(&noise[1], 0, len)])),
        (near(&noise[3], 3), of(vec![part(&noise[1], 0, len), part(&noise[3], 0, len)])),
    ]);
    let again = [&parts[3000..], &near(&noise[1], 1)[..]].concat();
    history.push(vec![(again, of(vec![part(&near(&noise[1], 1), 0, len), part(&parts, 3000, parts.len() - 3000)]))]);
    let snapshots: Vec<Committed> = history.iter().map(|chunks| commit(&repo, chunks)).collect();
    let frames: Vec<Frame> = tables(&repo).into_iter().flat_map(|table| table.frames).collect();
    for (what, is) in [
        ("raw frame of several chunks", (|frame| frame.encoding == Encoding::Raw && frame.plain_len >= 80_000) as fn(&Frame) -> bool),
        ("compressed frame of several chunks", |frame| frame.encoding == Encoding::Zstd && frame.plain_len > 70_000),
        ("delta of a part of a base", |frame| frame.slices.len() == 4),
        ("patch", |frame| frame.encoding == Encoding::Patch),
        ("delta of deltas", |frame| frame.level == 2),
    ] {
        assert!(frames.iter().any(is), "there is no {what}");
    }
    for (snapshot, chunks) in snapshots.iter().zip(&history) {
        let expected: Vec<u8> = chunks.iter().flat_map(|(plain, _)| plain.clone()).collect();
        let mut read = Vec::new();
        dump(&repo, &snapshot.record, b"db", &mut read, &Silent).unwrap();
        assert!(read == expected, "icecore reads something else");
        assert!(script.stream(&snapshot.id.to_string(), "db") == expected, "the script reads something else");
    }
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

/// By a passphrase out of the environment, or out of a file, whose last line may end in any way.
#[test]
fn an_encrypted_repository_is_extracted() {
    if !has_all_modules() {
        return;
    }
    let script = Script::new(Bed::new(true));
    let path = script.bed.path("db.sqlite");
    let db = make_database(&path, 3000);
    let repo = script.bed.open();
    let mut history = Vec::new();
    for n in 0..3 {
        step(&db, n);
        history.push((back_up(&repo, &path, i64::from(n)).id.to_string(), std::fs::read(&path).unwrap()));
    }
    for (id, expected) in &history {
        assert!(script.stream(id, "db") == *expected, "snapshot {id}");
    }
    let listed = String::from_utf8(script.run(&[]).stdout).unwrap();
    let ids: Vec<&str> = listed.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(ids, history.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>());
    let file = script.bed.path("passphrase");
    let from_file = [("ICECORE_PASSWORD_FILE", file.to_str().unwrap())];
    std::fs::write(&file, "correct horse\r\n").unwrap();
    assert!(script.run_with(&["latest"], &from_file).status.success());
    std::fs::write(&file, "correct horse\n\n").unwrap();
    for environment in [&[("ICECORE_PASSWORD", "correct horse ")], &from_file] {
        assert_eq!(script.refusal("db", environment), "extract.py: the passphrase is wrong\n");
    }
    assert!(script.refusal("db", &[]).contains("is encrypted"));
}

#[test]
fn second_copies_of_configuration_and_key_serve() {
    if !has_all_modules() {
        return;
    }
    let (script, _) = Script::of_rows(Bed::new(true), 10);
    let (key, expected) = (script.key_record(), std::fs::read(script.bed.path("db.sqlite")).unwrap());
    script.flip("config", 40);
    script.flip(&key, 70);
    let (found, said) = script.stream_and_words("latest", "db");
    assert!(found == expected && said.matches("the second copy serves").count() == 2, "{said}");
    std::fs::remove_file(script.object("config")).unwrap();
    std::fs::remove_file(script.object(&key)).unwrap();
    assert!(script.stream("latest", "db") == expected);
    script.flip(&format!("{key}.copy"), 70);
    assert!(script.refusal("db", RIGHT).contains("no key record that can be read"));
    script.flip("config.copy", 40);
    assert!(script.refusal("db", RIGHT).contains("config.copy: "));
}

/// One damaged place at a time: in a segment, in the middle, in trailer and footer, at a lost end, in the record of the snapshot.
#[test]
fn damage_is_healed_from_parity() {
    if !has_all_modules() {
        return;
    }
    for encrypted in [false, true] {
        let (script, report) = Script::of_rows(Bed::with_parity(encrypted, 3), 600);
        let expected = std::fs::read(script.bed.path("db.sqlite")).unwrap();
        let (pack, size, trailer) = pack_of(&report);
        let whole = std::fs::read(script.object(&pack)).unwrap();
        for place in [100, trailer / 4, trailer + 5, size - 70, size - 40] {
            script.flip(&pack, place);
            let (found, said) = script.stream_and_words("latest", "db");
            assert!(found == expected && said.contains("was healed"), "place {place} of {size}: {said}");
            std::fs::write(script.object(&pack), &whole).unwrap();
        }
        std::fs::write(script.object(&pack), &whole[..size - 300]).unwrap();
        assert!(script.stream("latest", "db") == expected, "a lost end");
        let record = script.record();
        script.flip(&record, 60);
        assert!(script.stream("latest", "db") == expected, "a damaged record");
        assert!(std::fs::read(script.object(&pack)).unwrap() == whole[..size - 300], "the script has written to the repository");
    }
}

#[test]
fn without_parity_damage_is_refused() {
    if !has_all_modules() {
        return;
    }
    for encrypted in [false, true] {
        let (script, report) = Script::of_rows(Bed::new(encrypted), 600);
        let (pack, size, trailer) = pack_of(&report);
        for (path, place) in [(&pack, 100), (&pack, trailer + 5), (&pack, size - 70), (&script.record(), 60)] {
            script.flip(path, place);
            script.refusal("db", RIGHT);
            script.flip(path, place);
        }
        assert!(script.stream("latest", "db") == std::fs::read(script.bed.path("db.sqlite")).unwrap());
    }
}

/// A byte of a raw frame, whose damage nothing but the id of the chunk tells.
#[test]
fn a_flipped_byte_that_decodes_is_refused() {
    if !has_all_modules() {
        return;
    }
    let script = Script::new(Bed::new(false));
    let mut rng = Rng::new(1, "raw");
    let noise: Vec<u8> = (0..20_000).map(|_| rng.next() as u8).collect();
    let committed = commit(&script.bed.open(), &[(noise.clone(), Reference::default())]);
    let id = committed.record.packs[0].id.to_string();
    let pack = format!("packs/{}/{id}", &id[..2]);
    script.flip(&pack, 5000);
    assert!(script.refusal("db", RIGHT).contains("not what its id is the hash of"));
    script.flip(&pack, 5000);
    assert_eq!(script.stream("latest", "db"), noise);
}

/// More damage than there is parity for.
#[test]
fn what_cannot_be_healed_is_refused() {
    if !has_all_modules() {
        return;
    }
    let (script, report) = Script::of_rows(Bed::with_parity(false, 3), 600);
    let (pack, size, _) = pack_of(&report);
    for bytes in [vec![0; size], Vec::new(), b"\xceicePAR\n".repeat(size / 8)] {
        std::fs::write(script.object(&pack), bytes).unwrap();
        assert!(script.refusal("db", RIGHT).contains(&report.record.packs[0].id.to_string()));
    }
}

/// An empty file is one; a link and a directory have no bytes of their own, and none are made up.
#[test]
fn entries_of_a_tree_are_told_apart() {
    let script = Script::new(Bed::new(false));
    let tree = script.bed.path("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("a"), "bytes").unwrap();
    std::fs::write(tree.join("empty"), "").unwrap();
    std::fs::hard_link(tree.join("a"), tree.join("hard")).unwrap();
    std::os::unix::fs::symlink("a", tree.join("soft")).unwrap();
    let source = FilesSource::new(vec![tree], FilesOptions { sqlite: sqlite_options(), exclude: Vec::new() }).unwrap();
    backup(&script.bed.open(), &source, &BackupOptions::default(), &Silent).unwrap();
    let listed = String::from_utf8(script.run(&["latest"]).stdout).unwrap();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines, ["file 5 a", "file 0 empty", "hardlink 0 hard -> a", "symlink 0 soft -> a", "directory 0 sub"]);
    assert_eq!(script.stream("latest", "a"), b"bytes");
    assert_eq!(script.stream("latest", "empty"), b"");
    for name in ["hard", "soft", "sub"] {
        assert!(script.refusal(name, RIGHT).contains("no bytes of its own"));
    }
}

#[test]
fn an_expired_snapshot_is_none() {
    let (script, report) = Script::of_rows(Bed::new(false), 10);
    std::fs::write(script.object(&format!("tombstones/{}", report.id)), b"anything").unwrap();
    assert!(script.refusal("db", RIGHT).contains("0 snapshots"));
}

/// With zstandard alone plain repositories can be read, unverified; encrypted ones cannot.
#[test]
fn modules_that_are_not_there_are_named() {
    if !has_all_modules() {
        return;
    }
    for encrypted in [false, true] {
        let (script, _) = Script::of_rows(Bed::new(encrypted), 10);
        let without = script.bed.path("without");
        std::fs::create_dir(&without).unwrap();
        std::fs::write(without.join("blake3.py"), "raise ImportError").unwrap();
        let environment = [RIGHT[0], ("PYTHONPATH", without.to_str().unwrap())];
        if encrypted {
            assert!(script.refusal("db", &environment).contains("needs the modules blake3, cryptography and argon2-cffi"));
            continue;
        }
        let out = script.bed.path("out");
        let output = script.run_with(&["latest", "db", out.to_str().unwrap()], &environment);
        assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is verified"));
        assert!(std::fs::read(out).unwrap() == std::fs::read(script.bed.path("db.sqlite")).unwrap());
    }
}

/// Readers that know nothing of parity pass over it.
#[test]
fn parity_is_passed_over() {
    let script = Script::new(Bed::with_parity(false, 3));
    let path = script.bed.path("db.sqlite");
    let db = make_database(&path, 3000);
    let repo = script.bed.open();
    for n in 0..2 {
        step(&db, n);
        let id = back_up(&repo, &path, i64::from(n) + 1).id;
        let mut plain = Vec::new();
        let (_, record) = repo.refresh().unwrap().snapshots.pop().unwrap();
        dump(&repo, &record, b"db", &mut plain, &Silent).unwrap();
        assert!(script.stream(&id.to_string(), "db") == plain);
    }
}
