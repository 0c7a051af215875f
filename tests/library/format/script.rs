//! The script at the end of the page gives every stream of an unencrypted repository back.

use std::path::PathBuf;
use std::process::{Command, Output};

use super::chunks::commit;
use super::page::Page;
use super::rng::Rng;
use super::support::{Bed, add_rows, back_up, make_database, step};
use icecore::id::ChunkId;
use icecore::ops::restore::dump;
use icecore::progress::Silent;
use icecore::store::format::SALT_LEN;
use icecore::store::format::pack::{Encoding, Frame, Trailer};
use icecore::store::repo::{BaseSlice, Committed, Reader, Reference, Repository};

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
