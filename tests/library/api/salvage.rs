//! Salvage of streams and listings that are put together by hand. Each part has a pack of its own, and some packs are lost.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use icecore::engine::place::Placement;
use icecore::fs::disk::RealDisk;
use icecore::id::SnapshotId;
use icecore::ops::restore::RestoreOptions;
use icecore::ops::restore::salvage::{Salvage, salvage};
use icecore::progress::Silent;
use icecore::recorded::{Attribute, EntryKind, FileMeta};
use icecore::store::chunker::Cut;
use icecore::store::format::record;
use icecore::store::format::snapshot::{StreamEntry, StreamRoot};
use icecore::store::repo::{ListingCuts, Reference, Repository, SessionOptions, WriteSession};

use super::chunks::{draft, put_stream};
use super::support::Bed;

/// A repository whose packs are told apart by when they came.
pub(super) struct Scene {
    pub(super) bed: Bed,
    repo: Repository,
    packs: BTreeSet<PathBuf>,
}

impl Scene {
    pub(super) fn new() -> Self {
        let bed = Bed::new(false);
        let repo = bed.open();
        Scene { bed, repo, packs: BTreeSet::new() }
    }

    /// Stores streams of these chunks, and a listing of these chunks; what is stored already is not stored again. Gives the roots, the snapshot and the
    /// packs that came.
    pub(super) fn store(
        &mut self,
        streams: &[&[Vec<u8>]],
        listing: &dyn Fn(&[StreamRoot]) -> Vec<Vec<u8>>,
    ) -> (Vec<StreamRoot>, SnapshotId, Vec<PathBuf>) {
        let session = WriteSession::begin(&self.repo, &SessionOptions::default()).unwrap();
        let mut writer = session.writer().unwrap();
        let plain = |chunks: &[Vec<u8>]| chunks.iter().map(|chunk| (chunk.clone(), Reference::default())).collect::<Vec<_>>();
        let roots: Vec<StreamRoot> = streams.iter().map(|chunks| put_stream(&session, &mut writer, &plain(chunks))).collect();
        let listing = put_stream(&session, &mut writer, &plain(&listing(&roots)));
        writer.flush().unwrap();
        drop(writer);
        let id = session.commit(draft(listing, 0)).unwrap().id;
        let files = walkdir::WalkDir::new(self.bed.path("repo/packs")).into_iter().map(|entry| entry.unwrap().into_path());
        let packs: BTreeSet<PathBuf> = files.filter(|path| path.is_file()).collect();
        let new = packs.difference(&self.packs).cloned().collect();
        self.packs = packs;
        (roots, id, new)
    }

    /// Stores these bytes as chunks, in packs of their own, which are given.
    pub(super) fn store_chunks(&mut self, chunks: &[Vec<u8>]) -> Vec<PathBuf> {
        let one_by_one: Vec<&[Vec<u8>]> = chunks.iter().map(std::slice::from_ref).collect();
        self.store(&one_by_one, &|_| Vec::new()).2
    }

    /// As seen by a machine that knows nothing yet.
    pub(super) fn salvage(&self, id: &SnapshotId, dir: &str, names: &[&str]) -> icecore::Result<Salvage> {
        let repo = self.bed.open_as("repo", dir.trim_start_matches("out-"), 2);
        let refreshed = repo.refresh().unwrap();
        let (_, record) = refreshed.snapshots.iter().find(|(other, _)| other == id).unwrap();
        let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let placement = Placement { disk: &RealDisk, timestamp: "now".into(), monitor: &Silent };
        salvage(&repo, record, &self.bed.path(dir), &names, &RestoreOptions::default(), &placement)
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let root = self.bed.path(dir);
        let entries = walkdir::WalkDir::new(&root).min_depth(1).sort_by_file_name().into_iter().map(|entry| entry.unwrap().into_path());
        entries.map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned()).collect()
    }
}

pub(super) fn lose(packs: &[PathBuf]) {
    assert!(!packs.is_empty());
    packs.iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
}

/// Bytes that no other chunk is like.
pub(super) fn chunk(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) fn chunks(numbers: Range<u64>) -> Vec<Vec<u8>> {
    numbers.map(|number| chunk(number, 100 + number as usize % 7)).collect()
}

pub(super) fn entry(name: &str, root: StreamRoot) -> StreamEntry {
    StreamEntry { name: name.as_bytes().to_vec(), kind: EntryKind::File, root, meta: None, tables: Vec::new() }
}

pub(super) fn encoded(entries: &[StreamEntry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| record::encode(entry).unwrap()).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn below_a_lost_node_is_lost_what_its_parent_says_and_no_more() {
    let mut scene = Scene::new();
    let all = chunks(0..300);
    scene.store_chunks(&all);
    // The node over the second 128 chunks comes first, with others; the whole tree afterwards.
    let (_, _, nodes) = scene.store(&[&[&chunks(1000..1128)[..], &all[128..256], &chunks(2000..2001)].concat()], &|_| Vec::new());
    let (roots, id, _) = scene.store(&[&all], &|roots| vec![encoded(&[entry("db", roots[0])])]);
    lose(&nodes);
    assert_eq!(roots[0].levels, 2);
    let outcome = scene.salvage(&id, "out-1", &[]).unwrap();
    let len = |chunks: &[Vec<u8>]| chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
    let lost = len(&all[..128])..len(&all[..256]);
    let [stream] = &outcome.streams[..] else { panic!("{outcome:?}") };
    assert_eq!((&stream.lost[..], stream.ranges, stream.bytes_lost), (&[lost.clone()][..], 1, lost.end - lost.start));
    let mut expected = all.concat();
    expected[lost.start as usize..lost.end as usize].fill(0);
    assert!(read(&scene.bed.path("out-1/db.salvaged")) == expected);
    assert_eq!(scene.names("out-1"), ["db.salvaged"]);
    assert!(outcome.has_losses() && outcome.failed.is_empty());
}

#[test]
fn chunks_that_are_lost_one_here_one_there() {
    let mut scene = Scene::new();
    let mut all = chunks(0..40);
    // What is known to be zeros is not lost with its pack.
    let lost: Vec<Vec<u8>> = [3, 4, 20, 39].iter().map(|number| all[*number].clone()).collect();
    let packs = scene.store_chunks(&lost);
    // Twice in the stream, lost at both places.
    all.push(all[3].clone());
    all.push(chunk(77, 50));
    let (_, id, _) = scene.store(&[&all], &|roots| vec![encoded(&[entry("db", roots[0])])]);
    lose(&packs);
    let outcome = scene.salvage(&id, "out-1", &["db"]).unwrap();
    let at = |number: usize| all[..number].iter().map(|chunk| chunk.len() as u64).sum::<u64>();
    let stream = &outcome.streams[0];
    assert_eq!(stream.lost, [at(3)..at(5), at(20)..at(21), at(39)..at(41)]);
    let mut expected = all.concat();
    stream.lost.iter().for_each(|range| expected[range.start as usize..range.end as usize].fill(0));
    assert!(read(&scene.bed.path("out-1/db.salvaged")) == expected);
}

#[test]
fn after_a_lost_part_a_listing_goes_on() {
    let mut scene = Scene::new();
    let streams: Vec<Vec<Vec<u8>>> = (0..5).map(|number| chunks(number * 10..number * 10 + 2)).collect();
    let views: Vec<&[Vec<u8>]> = streams.iter().map(Vec::as_slice).collect();
    let part = |roots: &[StreamRoot], which: Range<usize>| encoded(&which.map(|n| entry(&format!("s{n}"), roots[n])).collect::<Vec<_>>());
    let (roots, _, _) = scene.store(&views, &|_| Vec::new());
    let packs = scene.store_chunks(&[part(&roots, 1..3)]);
    let (_, id, _) = scene.store(&views, &|roots| vec![part(roots, 0..1), part(roots, 1..3), part(roots, 3..5)]);
    let whole = scene.salvage(&id, "out-0", &[]).unwrap();
    assert_eq!((whole.streams.len(), whole.has_losses(), whole.listing.first), (5, false, None));
    lose(&packs);
    let outcome = scene.salvage(&id, "out-1", &[]).unwrap();
    assert_eq!(scene.names("out-1"), ["s0", "s3", "s4"]);
    assert!(read(&scene.bed.path("out-1/s4")) == streams[4].concat());
    assert_eq!(
        (outcome.listing.places, outcome.has_losses(), outcome.streams.iter().all(|stream| stream.bytes_lost == 0)),
        (1, true, true)
    );
    // One that is named is had if it is there; else nobody knows.
    assert_eq!(scene.salvage(&id, "out-2", &["s3"]).unwrap().streams.len(), 1);
    let error = scene.salvage(&id, "out-3", &["s1"]).unwrap_err();
    assert!(error.is_damage() && !scene.bed.path("out-3").exists(), "{error}");
    // A listing that is lost as a whole.
    lose(&scene.packs.iter().filter(|pack| pack.exists()).cloned().collect::<Vec<_>>());
    let outcome = scene.salvage(&id, "out-4", &[]).unwrap();
    assert!(outcome.has_losses() && outcome.streams.is_empty() && !scene.bed.path("out-4").exists(), "{outcome:?}");
}

/// An entry that takes three chunks. The second one looks like an entry by itself.
#[test]
fn what_looks_like_an_entry_within_one() {
    let inner = encoded(&[entry("inner", StreamRoot { len: 0, levels: 0, top: None })]);
    let value = [b"mark".to_vec(), inner.clone(), vec![b'y'; 100]].concat();
    let attributes = vec![Attribute { name: b"user.x".to_vec(), value }];
    let mut scene = Scene::new();
    let stream = chunks(0..2);
    let (_, id, _) = scene.store(&[&stream], &|roots| {
        let meta = FileMeta { mode: 0o600, attributes: attributes.clone(), ..FileMeta::default() };
        let bytes = encoded(&[StreamEntry { meta: Some(meta), ..entry("long", roots[0]) }]);
        let (head, rest) = bytes.split_at(bytes.windows(4).position(|window| window == b"mark").unwrap() + 4);
        let (middle, rest) = rest.split_at(inner.len());
        vec![head.to_vec(), middle.to_vec(), rest.to_vec(), encoded(&[entry("z", roots[0])])]
    });
    let outcome = scene.salvage(&id, "out-0", &[]).unwrap();
    assert_eq!((scene.names("out-0"), outcome.has_losses()), (vec!["long".to_owned(), "z".to_owned()], false));
}

/// Whichever chunk of a long entry is lost, it alone is.
#[test]
fn a_part_of_an_entry_of_several_chunks() {
    for lost in 0..3 {
        let mut scene = Scene::new();
        let stream = chunks(0..2);
        let attributes = (0..40u64).map(|number| Attribute { name: vec![b'a', number as u8], value: chunk(number, 60 << 10) }).collect();
        let meta = Some(FileMeta { mode: 0o600, attributes, ..FileMeta::default() });
        let cut = |roots: &[StreamRoot]| -> Vec<Vec<u8>> {
            let long = StreamEntry { meta: meta.clone(), ..entry("long", roots[0]) };
            let entries = [entry("a", roots[0]), long, entry("y", roots[0]), entry("z", roots[0])];
            let bytes = |cut: std::io::Result<Cut>| match cut.unwrap() {
                Cut::Bytes(bytes) => bytes,
                other => panic!("{other:?}"),
            };
            let encoded = entries.iter().map(|entry| Ok((entry.name.clone(), record::encode(entry).unwrap())));
            ListingCuts::new(encoded, 7).map(bytes).collect()
        };
        let (roots, _, _) = scene.store(&[&stream], &|_| Vec::new());
        let parts = cut(&roots);
        assert_eq!(parts.len(), 5, "one entry, three chunks of the long one, two entries");
        let packs = scene.store_chunks(&parts[1 + lost..2 + lost]);
        let (_, id, _) = scene.store(&[&stream], &cut);
        lose(&packs);
        let outcome = scene.salvage(&id, "out-1", &[]).unwrap();
        assert_eq!((scene.names("out-1"), outcome.listing.places), (["a", "y", "z"].map(String::from).to_vec(), 1), "{lost}");
    }
}

#[test]
fn no_name_is_taken_twice_and_none_leads_out() {
    let mut scene = Scene::new();
    let (bad, good) = (chunks(0..1), chunks(1..3));
    let damaged = [bad.clone(), good.clone()].concat();
    let packs = scene.store_chunks(&bad);
    let outside = format!("{}/outside", scene.bed.dir.path().display());
    let names = ["", "../up", &outside, "a", "a.salvaged", "b", "b.salvaged/c", "c", "c.salvaged", "c.salvaged.1", "d/../e", "f"];
    let (_, id, _) = scene.store(&[&damaged, &good], &|roots| {
        let root = |name: &str| if ["a", "b", "c", "f"].contains(&name) { roots[0] } else { roots[1] };
        let mut entries: Vec<StreamEntry> = names.iter().map(|name| entry(name, root(name))).collect();
        // Its length does not fit its tree.
        entries.push(entry("g", StreamRoot { len: roots[1].len + 5, ..roots[1] }));
        entries.push(entry("h", StreamRoot { len: 30, levels: 0, top: None }));
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        vec![encoded(&entries)]
    });
    lose(&packs);
    let outcome = scene.salvage(&id, "out-1", &[]).unwrap();
    let there = ["a.salvaged", "a.salvaged.1", "b.salvaged", "b.salvaged/c", "b.salvaged.1", "c.salvaged", "c.salvaged.1", "c.salvaged.2"];
    let mut expected = [&there[..], &["f.salvaged", "g.salvaged", "h.salvaged"]].concat();
    let mut found = scene.names("out-1");
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    for name in ["a.salvaged", "b.salvaged/c", "c.salvaged", "c.salvaged.1"] {
        assert!(read(&scene.bed.path("out-1").join(name)) == good.concat(), "{name}");
    }
    let mut holed = damaged.concat();
    holed[..bad[0].len()].fill(0);
    for name in ["a.salvaged.1", "b.salvaged.1", "c.salvaged.2", "f.salvaged"] {
        assert!(read(&scene.bed.path("out-1").join(name)) == holed, "{name}");
    }
    let by_name = |name: &str| outcome.streams.iter().find(|stream| stream.name == name.as_bytes()).unwrap();
    assert_eq!((by_name("g").bytes_lost, by_name("h").bytes_lost), (by_name("g").bytes, 30));
    assert_eq!(outcome.failed.len(), 4, "{:?}", outcome.failed);
    assert!(!Path::new(&outside).exists() && !scene.bed.path("up").exists());
}
