//! What is kept of the features of a stream, from one snapshot to the next.

use icecore::id::{ChunkId, SourceId};
use icecore::store::codec::similarity::{Features, PIECE_LEN};
use icecore::store::format::snapshot::StreamRoot;
use icecore::store::repo::Repository;

use super::{Random, features_of};
use crate::repo::Bed;

const SOURCE: SourceId = SourceId([3; 32]);

fn root(pieces: usize, top: u8) -> StreamRoot {
    StreamRoot { len: (pieces * PIECE_LEN) as u64, levels: 2, top: Some(ChunkId([top; 32])) }
}

fn kept(repo: &Repository, root: &StreamRoot) -> Option<Vec<Features>> {
    let mut all = Vec::new();
    repo.kept_features(SOURCE, b"db", root)?.read(|block| all.extend_from_slice(block));
    Some(all)
}

/// Files below the cache's directory of features, with their bytes together.
fn files(bed: &Bed) -> (usize, u64) {
    let entries = walkdir::WalkDir::new(bed.path("cache").join("features")).into_iter().map(|entry| entry.unwrap().metadata().unwrap());
    entries.filter(|meta| meta.is_file()).fold((0, 0), |(count, bytes), meta| (count + 1, bytes + meta.len()))
}

#[test]
fn changes_go_into_what_is_kept_once_the_snapshot_is_there() {
    let (bed, mut random) = (Bed::new(false), Random::new(5));
    let repo = bed.open();
    let mut features = features_of(&repo.sampler(), &random.pieces(1000));
    let first = root(1000, 1);
    let keeper = repo.keep_features(SOURCE, b"db", Some(first.len), None).unwrap();
    assert!(!keeper.continues());
    keeper.put(0, &features[..600]);
    keeper.put(600, &features[600..]);
    keeper.finish(&first);
    assert!(kept(&repo, &first).unwrap() == features);
    let whole = files(&bed);

    // The stream grows, and some pieces change; meanwhile the old ones are still what is kept.
    let second = root(1010, 2);
    let keeper = repo.keep_features(SOURCE, b"db", Some(second.len), Some(&first)).unwrap();
    assert!(keeper.continues());
    let new = features_of(&repo.sampler(), &random.pieces(15));
    keeper.put(1000, &new[..10]);
    keeper.put(7, &new[10..]);
    assert!(kept(&repo, &first).unwrap() == features);
    assert!(files(&bed).1 < whole.1 + 2000, "only what changes is written");
    // One that never comes to its end leaves nothing.
    let lost = repo.keep_features(SOURCE, b"db", Some(second.len), Some(&first)).unwrap();
    lost.put(0, &new);
    drop(lost);
    let late = repo.keep_features(SOURCE, b"db", Some(second.len), Some(&first)).unwrap();
    late.put(0, &new);
    keeper.finish(&second);
    features.extend_from_slice(&new[..10]);
    features[7..12].copy_from_slice(&new[10..]);
    assert!(kept(&repo, &second).unwrap() == features);
    assert!(kept(&repo, &first).is_none());

    // Of two backups over one parent the first keeps its changes.
    late.finish(&root(1010, 9));
    assert!(kept(&repo, &second).unwrap() == features);
    assert_eq!(files(&bed).0, 1);

    // Shorter again, and with nothing to put.
    let third = root(500, 3);
    repo.keep_features(SOURCE, b"db", Some(third.len), Some(&second)).unwrap().finish(&third);
    assert!(kept(&repo, &third).unwrap() == features[..500]);
}

/// A file that ends too early, or is something else, gives nothing, and the next backup begins anew.
#[test]
fn what_is_damaged_is_not_continued() {
    let (bed, mut random) = (Bed::new(false), Random::new(6));
    let repo = bed.open();
    let features = features_of(&repo.sampler(), &random.pieces(300));
    let first = root(300, 1);
    let keeper = repo.keep_features(SOURCE, b"db", Some(first.len), None).unwrap();
    keeper.put(0, &features);
    keeper.finish(&first);
    let keeper = repo.keep_features(SOURCE, b"db", Some(first.len), Some(&first)).unwrap();
    keeper.put(3, &features[..2]);
    let mut files = walkdir::WalkDir::new(bed.path("cache").join("features")).into_iter().map(Result::unwrap);
    let is_kept = |entry: &walkdir::DirEntry| entry.file_type().is_file() && !entry.file_name().to_string_lossy().starts_with('.');
    let file = files.find(is_kept).unwrap();
    std::fs::write(file.path(), "something else").unwrap();
    keeper.finish(&root(300, 2));
    assert!(kept(&repo, &root(300, 2)).is_none() && kept(&repo, &first).is_none());
    assert!(!repo.keep_features(SOURCE, b"db", Some(first.len), Some(&first)).unwrap().continues());
}
