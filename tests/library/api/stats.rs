//! What a repository costs: against the files on the disk, the records, and the packs decoded by the test itself.

use std::collections::HashMap;

use icecore::engine::files::{FilesOptions, FilesSource};
use icecore::id::{ChunkId, SnapshotId};
use icecore::ops::backup::{BackupOptions, backup};
use icecore::ops::stats::{Chains, SnapshotCost, Spread, Stats, cost_of, stats};
use icecore::progress::Silent;
use icecore::store::backend::ObjectKind;
use icecore::store::format::HEADER_LEN;
use icecore::store::format::pack::{FOOTER_LEN, Footer, Trailer};
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::repo::{Reader, Reference, Repository, Spans};

use super::chunks::commit;
use super::support::{Bed, back_up, make_database, sqlite_options, step};

/// Bytes of all files below the repository but the page, which is no object.
fn on_disk(bed: &Bed) -> u64 {
    let entries = walkdir::WalkDir::new(bed.path("repo")).into_iter().map(Result::unwrap).filter(|entry| entry.file_name() != "FORMAT.md");
    entries.map(|entry| entry.metadata().unwrap()).filter(|meta| meta.is_file()).map(|meta| meta.len()).sum()
}

fn encoded(found: &SnapshotCost) -> u64 {
    found.cost.by_encoding().map(|(_, bytes)| bytes).sum()
}

/// The snapshots and `other` are all there is; what the repository says of itself is what lies on the disk.
fn add_up(bed: &Bed, sums: &Stats) {
    assert_eq!(sums.total.stored_bytes, on_disk(bed));
    let parts = || sums.per_snapshot.iter().map(|found| &found.cost).chain([&sums.other]);
    assert_eq!(parts().map(|cost| cost.stored_bytes).sum::<u64>(), sums.total.stored_bytes);
    assert_eq!(parts().map(|cost| cost.metadata_bytes()).sum::<u64>(), sums.total.metadata_bytes());
    assert_eq!(parts().map(|cost| cost.node_bytes + cost.table_bytes).sum::<u64>(), sums.total.node_bytes + sums.total.table_bytes);
    assert_eq!(parts().map(|cost| cost.padding_bytes + cost.record_bytes).sum::<u64>(), sums.total.padding_bytes + sums.total.record_bytes);
    let by_encoding: HashMap<&str, u64> = parts().flat_map(|cost| cost.by_encoding()).fold(HashMap::new(), |mut sum, (name, bytes)| {
        *sum.entry(name).or_default() += bytes;
        sum
    });
    assert_eq!(sums.total.by_encoding().collect::<HashMap<_, _>>(), by_encoding);
    assert_eq!(sums.total.metadata_bytes() + by_encoding.values().sum::<u64>(), sums.total.stored_bytes);
    assert_eq!(sums.per_snapshot.iter().map(|found| found.logical_bytes).sum::<u64>(), sums.logical_bytes);
}

/// A history of 40 steps with one VACUUM.
fn history(bed: &Bed) -> (Repository, HashMap<SnapshotId, SnapshotRecord>) {
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 3000);
    let repo = bed.open();
    let mut records = HashMap::new();
    for n in 0..40 {
        step(&db, n);
        if n == 20 {
            db.execute_batch("VACUUM").unwrap();
        }
        let report = back_up(&repo, &path, i64::from(n));
        records.insert(report.id, report.record);
    }
    (repo, records)
}

#[test]
fn bytes_add_up_to_what_is_stored() {
    for encrypted in [true, false] {
        let bed = Bed::new(encrypted);
        let (repo, records) = history(&bed);
        let sums = stats(&repo, &Silent).unwrap();
        assert!(sums.damage.is_empty(), "{:?}", sums.damage);
        add_up(&bed, &sums);
        assert_eq!((sums.per_snapshot.len(), sums.per_snapshot[7].time_ns), (40, 7_000_000_000), "oldest first");
        let mut padded = 0;
        for found in &sums.per_snapshot {
            let record = &records[&found.id];
            let record_bytes = repo.backend().stat(&repo.snapshot_key(&found.id, &record.source.id)).unwrap().unwrap();
            assert_eq!(found.cost.record_bytes, record_bytes);
            assert_eq!(found.cost.stored_bytes, record.stats.pack_bytes + record_bytes);
            // The writer has counted the same while it wrote.
            let counted = [("raw", record.stats.raw_bytes), ("zstd", record.stats.zstd_bytes), ("delta", record.stats.delta_bytes)];
            let by_encoding: HashMap<_, _> = found.cost.by_encoding().collect();
            // The record counts patches as the deltas that they are.
            let found_as = |name: &str| by_encoding[name] + if name == "delta" { by_encoding["patch"] } else { 0 };
            assert!(counted.iter().all(|(name, bytes)| found_as(name) == *bytes), "{by_encoding:?} {counted:?}");
            assert_eq!(encoded(found), counted.iter().map(|(_, bytes)| bytes).sum::<u64>());
            assert_eq!(found.cost.node_bytes, record.stats.node_bytes);
            assert_eq!((found.new_chunks, found.new_bytes), (record.stats.new_chunks, record.stats.new_plain_bytes));
            let named = found.cost.node_bytes + found.cost.table_bytes + found.cost.padding_bytes + found.cost.record_bytes;
            let rest = found.cost.metadata_bytes() - named;
            let ends = ((HEADER_LEN + FOOTER_LEN) * record.packs.len()) as u64;
            assert!(if encrypted { rest > ends && rest < ends + 4096 } else { rest == ends }, "{rest} beside {ends}");
            // A pack may by chance have a length that needs no padding.
            padded += usize::from(found.cost.padding_bytes > 0);
        }
        assert!(if encrypted { padded > sums.per_snapshot.len() / 2 } else { padded == 0 }, "{padded}");
        let last = sums.per_snapshot.last().unwrap();
        assert_eq!(last.cost.ratio(last.logical_bytes).unwrap(), last.logical_bytes as f64 / last.cost.stored_bytes as f64);
        let vacuum = &sums.per_snapshot[20];
        assert!(encoded(vacuum) > encoded(last) && encoded(vacuum) > encoded(&sums.per_snapshot[19]), "the VACUUM moved pages: {vacuum:?}");
        assert!(by_delta(last) > 0 && by_delta(&sums.per_snapshot[0]) == 0);
    }
}

fn by_delta(found: &SnapshotCost) -> u64 {
    found.cost.by_encoding().filter(|(name, _)| ["delta", "patch"].contains(name)).map(|(_, bytes)| bytes).sum()
}

/// Level and work of every copy in the packs of an unencrypted repository.
fn copies(repo: &Repository) -> HashMap<ChunkId, Vec<(u8, u32)>> {
    let mut copies: HashMap<ChunkId, Vec<(u8, u32)>> = HashMap::new();
    for info in repo.backend().list(ObjectKind::Pack).unwrap() {
        let bytes = repo.backend().read(&info.unwrap().key, None).unwrap();
        let footer = Footer::decode(&bytes[bytes.len() - FOOTER_LEN..], bytes.len() as u64).unwrap();
        let trailer = Trailer::decode(&bytes[footer.trailer_offset as usize..bytes.len() - FOOTER_LEN], 0).unwrap();
        for chunk in &trailer.chunks {
            let frame = &trailer.frames[chunk.frame as usize];
            copies.entry(chunk.id).or_default().push((frame.level, frame.work));
        }
    }
    copies
}

/// What statistics must say of these numbers, by sorting them.
fn spread(mut values: Vec<u32>) -> Spread {
    values.sort_unstable();
    let p99 = values[(values.len() * 99).div_ceil(100) - 1];
    Spread { mean: values.iter().sum::<u32>() as f64 / values.len() as f64, p99, max: *values.last().unwrap() }
}

fn chains_of(repo: &Repository, record: &SnapshotRecord, copies: &HashMap<ChunkId, Vec<(u8, u32)>>) -> Chains {
    let reader = Reader::new(repo);
    let streams = reader.listing(&record.listing, &Silent).unwrap();
    let spans = streams.iter().flat_map(|entry| Spans::new(&reader, &entry.root).unwrap().collect::<Vec<_>>());
    let depths: Vec<(u8, u32)> = spans.map(|span| *copies[&span.unwrap().id].iter().min().unwrap()).collect();
    Chains {
        chunks: depths.len() as u64,
        level: spread(depths.iter().map(|(level, _)| u32::from(*level)).collect()),
        work: spread(depths.iter().map(|(_, work)| *work).collect()),
    }
}

/// Against the packs as the test reads them; and one snapshot by itself, which looks every chunk up, says the same.
fn chains_are_right(repo: &Repository) -> Stats {
    let sums = stats(repo, &Silent).unwrap();
    assert!(sums.damage.is_empty(), "{:?}", sums.damage);
    let copies = copies(repo);
    let refreshed = repo.refresh().unwrap();
    for (found, (id, record)) in sums.per_snapshot.iter().zip(&refreshed.snapshots) {
        assert_eq!(found.chains, Some(chains_of(repo, record, &copies)), "snapshot {id}");
        let (by_itself, damage) = cost_of(repo, id, record, &Silent).unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        assert_eq!(by_itself, *found);
    }
    assert_eq!(sums.chains.chunks, sums.per_snapshot.iter().map(|found| found.chains.unwrap().chunks).sum::<u64>());
    assert_eq!(sums.chains.level.max, sums.per_snapshot.iter().map(|found| found.chains.unwrap().level.max).max().unwrap_or(0));
    sums
}

#[test]
fn chains_are_those_of_the_copies_that_are_read() {
    let bed = Bed::new(false);
    let (repo, _) = history(&bed);
    let sums = chains_are_right(&repo);
    assert!(sums.chains.level.max > 2 && sums.chains.work.max > sums.chains.level.max, "{:?}", sums.chains);
    // A catalog that knows nothing finds out the same.
    let again = stats(&bed.open_as("repo", "another cache", 2), &Silent).unwrap();
    assert_eq!((again.per_snapshot, again.total, again.chunks), (sums.per_snapshot, sums.total, sums.chunks));
}

/// Bytes that do not compress.
fn noise(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; 4000];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// One of three chunks changes in every step.
#[test]
fn the_deepest_chunk_follows_the_skip_rule() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let mut chunks: Vec<(Vec<u8>, Reference)> = (0..3).map(|n| (noise(n), Reference::default())).collect();
    let mut steps = HashMap::new();
    let mut depth = vec![0u32];
    for version in 0..=40u32 {
        if version > 0 {
            let predecessor = repo.keys().chunk_id(&chunks[1].0);
            chunks[1].0.extend_from_slice(blake3::hash(&[version as u8]).as_bytes());
            chunks[1].1 = Reference::to(Some(predecessor));
            // Version k stands on k - 32 where 32 divides it, else on k - 1.
            let base = if version % 32 == 0 { version - 32 } else { version - 1 };
            depth.push(depth[base as usize] + 1);
        }
        steps.insert(commit(&repo, &chunks).id, depth[version as usize]);
    }
    let sums = chains_are_right(&repo);
    for found in &sums.per_snapshot {
        let (chains, depth) = (found.chains.unwrap(), steps[&found.id]);
        assert_eq!(chains.level, Spread { mean: f64::from(depth) / 3.0, p99: depth, max: depth });
        assert_eq!((chains.chunks, chains.work.max), (3, depth + 1));
    }
    assert_eq!(sums.chains.level.max, 31, "version 31 stands on all before it; version 32 on the first");
    add_up(&bed, &sums);
}

/// Two hosts store one chunk, one of them as a delta: the other copy is read.
#[test]
fn of_two_copies_the_lower_counts() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let base = noise(0);
    let next = [&base[..], b"more"].concat();
    commit(&repo, &[(base.clone(), Reference::default())]);
    let delta = commit(&repo, &[(next.clone(), Reference::to(Some(repo.keys().chunk_id(&base))))]);
    let of_delta = |repo: &Repository| chains_are_right(repo).per_snapshot.into_iter().find(|found| found.id == delta.id).unwrap();
    assert_eq!(of_delta(&repo).chains.unwrap().level.max, 1);
    let other_host = bed.open_as("repo", "another cache", 1);
    commit(&other_host, &[(next, Reference::default())]);
    let found = of_delta(&repo);
    assert_eq!((found.chains.unwrap().level.max, found.chains.unwrap().work.max), (0, 1));
    assert!(by_delta(&found) > 0, "its own copy is still a delta");
}

/// Nodes of three levels, with deltas below some of them.
#[test]
fn deep_trees() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let changing = 5000..5200;
    let plain = |n: u32| if changing.contains(&n) { [&n.to_le_bytes(), &noise(n as u8)[..300]].concat() } else { n.to_le_bytes().to_vec() };
    let mut chunks: Vec<(Vec<u8>, Reference)> = (0..17_000).map(|n| (plain(n), Reference::default())).collect();
    commit(&repo, &chunks);
    for (plain, reference) in &mut chunks[5000..5200] {
        *reference = Reference::to(Some(repo.keys().chunk_id(plain)));
        plain.push(1);
    }
    commit(&repo, &chunks);
    let sums = chains_are_right(&repo);
    let of_both: Vec<Chains> = sums.per_snapshot.iter().map(|found| found.chains.unwrap()).collect();
    assert!(of_both.iter().all(|chains| chains.chunks == 17_000));
    let mut means: Vec<f64> = of_both.iter().map(|chains| chains.level.mean).collect();
    means.sort_unstable_by(f64::total_cmp);
    assert_eq!(means, [0.0, 200.0 / 17_000.0]);
    add_up(&bed, &sums);
}

/// A listing of several chunks, whose entries go on from one to the next; streams of one chunk, of several, and empty ones.
#[test]
fn many_streams() {
    let bed = Bed::new(false);
    let repo = bed.open();
    let tree = bed.path("tree");
    std::fs::create_dir(&tree).unwrap();
    for n in 0..6000u32 {
        let bytes = if n == 7 { (0..80).flat_map(noise).collect() } else { n.to_le_bytes()[..(n % 5) as usize].to_vec() };
        std::fs::write(tree.join(format!("{n:0100}")), bytes).unwrap();
    }
    let options = FilesOptions { sqlite: sqlite_options(), exclude: Vec::new() };
    let source = FilesSource::new(vec![tree], options).unwrap();
    let record = backup(&repo, &source, &BackupOptions::default(), &Silent).unwrap().record;
    assert!(record.listing.levels > 0);
    let sums = chains_are_right(&repo);
    assert!(sums.chains.chunks > 4800, "{:?}", sums.chains);
    add_up(&bed, &sums);
}

#[test]
fn an_empty_repository_costs_its_configuration() {
    let bed = Bed::new(true);
    let sums = stats(&bed.open(), &Silent).unwrap();
    add_up(&bed, &sums);
    assert!(sums.per_snapshot.is_empty() && sums.damage.is_empty());
    assert_eq!((sums.total, sums.chains), (sums.other, Chains::default()));
    assert_eq!(sums.total.record_bytes, sums.total.stored_bytes);
}

/// The file of the object with this id.
fn file_of(bed: &Bed, id: &str) -> std::path::PathBuf {
    let mut files = walkdir::WalkDir::new(bed.path("repo")).into_iter().map(|entry| entry.unwrap().into_path());
    files.find(|path| path.is_file() && path.file_name().unwrap().to_str().unwrap().ends_with(id)).unwrap()
}

/// What no listed snapshot has written is counted too, as is what cannot be read; the rest stays right.
#[test]
fn strays_and_damage_are_counted() {
    let bed = Bed::new(false);
    let (repo, records) = history(&bed);
    let whole = stats(&repo, &Silent).unwrap();
    let forgotten = whole.per_snapshot[39].id;
    std::fs::remove_file(file_of(&bed, &forgotten.to_string())).unwrap();
    let sums = stats(&repo, &Silent).unwrap();
    add_up(&bed, &sums);
    assert_eq!(sums.damage.len(), 1, "{:?}", sums.damage);
    assert!(sums.damage[0].to_string().contains("has vanished"), "nobody has forgotten it: {:?}", sums.damage);
    assert_eq!(sums.per_snapshot[..], whole.per_snapshot[..39]);
    assert_eq!(sums.other.stored_bytes - whole.other.stored_bytes, records[&forgotten].stats.pack_bytes);

    // The first pack, on which every chain stands: cut short, then gone.
    let lost = records[&whole.per_snapshot[0].id].packs[0].id;
    let path = file_of(&bed, &lost.to_string());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    for repo in [&repo, &bed.open_as("repo", "another cache", 2)] {
        let sums = stats(repo, &Silent).unwrap();
        add_up(&bed, &sums);
        assert!(sums.damage.iter().any(|damage| damage.to_string().contains(&lost.to_string())), "{:?}", sums.damage);
        assert_eq!(sums.per_snapshot[0].cost.by_encoding().map(|(_, bytes)| bytes).sum::<u64>(), 0);
        assert_eq!(sums.per_snapshot[1].cost, whole.per_snapshot[1].cost);
    }
    std::fs::remove_file(&path).unwrap();
    let repo = bed.open_as("repo", "a third cache", 2);
    let sums = stats(&repo, &Silent).unwrap();
    add_up(&bed, &sums);
    assert_eq!(sums.per_snapshot[0].chains, None);
    assert!(
        sums.damage.iter().any(|damage| damage.to_string().contains(&format!("snapshot {}", whole.per_snapshot[0].id))),
        "{:?}",
        sums.damage
    );
    let (by_itself, damage) = cost_of(&repo, &whole.per_snapshot[0].id, &records[&whole.per_snapshot[0].id], &Silent).unwrap();
    assert_eq!((by_itself.chains, damage.len()), (None, 1));
}
