use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;

use icecore::Error;
use icecore::id::{PackId, RepositoryId, SnapshotId, SourceId};
use icecore::store::format::snapshot::PackRef;
use icecore::store::repo::catalog::{Catalog, ChunkAt, NewPack, PackNum, PackReading, prefix};

use super::{Made, REPOSITORY, chunk, open};

#[test]
fn packs_are_kept_with_their_trailers() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    assert!(!catalog.was_rebuilt() && !catalog.is_damaged());
    let (one, two) = (Made::from(1, 700), Made::from(2, 3));
    catalog.add_packs(&[one.listed(), two.listed()]).unwrap();
    drop(catalog);

    let catalog = open(dir.path());
    assert!(!catalog.was_rebuilt());
    let packs = catalog.packs().unwrap();
    assert_eq!(packs.iter().map(|known| known.pack).collect::<Vec<_>>(), [one.pack, two.pack]);
    assert_eq!(packs.iter().map(|known| known.chunks).collect::<Vec<_>>(), [700, 3]);
    for (made, known) in [&one, &two].into_iter().zip(&packs) {
        assert_eq!(catalog.pack_num(&made.pack.id).unwrap(), Some(known.num));
        assert_eq!(catalog.pack(known.num).unwrap(), Some(*known));
        assert_eq!(catalog.trailer(known.num).unwrap().unwrap(), made.trailer);
        for (index, id) in made.ids.iter().enumerate() {
            assert_eq!(catalog.find(prefix(id)).unwrap(), [ChunkAt { pack: known.num, index: index as u32 }]);
        }
    }
    assert_eq!(catalog.pack(PackNum(77)).unwrap(), None);
    assert_eq!(catalog.trailer(PackNum(77)).unwrap(), None);
    assert_eq!(catalog.pack_num(&PackId([9; 32])).unwrap(), None);
    assert!(catalog.find(42).unwrap().is_empty());
}

#[test]
fn adding_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let made = Made::from(1, 10);
    catalog.add_packs(&[made.listed(), made.listed()]).unwrap();
    let known = catalog.packs().unwrap();
    assert_eq!(known.len(), 1);
    catalog.add_packs(&[made.listed()]).unwrap();
    assert_eq!(catalog.packs().unwrap(), known);
    assert_eq!(catalog.find(prefix(&made.ids[4])).unwrap().len(), 1, "found once, not once per addition");
}

#[test]
fn removing_and_adding_again() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let (one, two) = (Made::from(1, 10), Made::from(2, 10));
    catalog.add_packs(&[one.listed(), two.listed()]).unwrap();
    let gone = catalog.pack_num(&one.pack.id).unwrap().unwrap();
    catalog.remove_packs(&[one.pack.id, PackId([9; 32])]).unwrap();
    assert!(one.ids.iter().all(|id| catalog.find(prefix(id)).unwrap().is_empty()));
    assert!(two.ids.iter().all(|id| catalog.find(prefix(id)).unwrap().len() == 1));
    assert_eq!(catalog.trailer(gone).unwrap(), None);
    assert_eq!(catalog.pack(gone).unwrap(), None);
    catalog.add_packs(&[one.listed()]).unwrap();
    assert_ne!(catalog.pack_num(&one.pack.id).unwrap().unwrap(), gone, "a number never comes back");
    assert!(one.ids.iter().all(|id| catalog.find(prefix(id)).unwrap().len() == 1));
}

#[test]
fn equal_prefixes_within_and_across_packs() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    for num in 0..30_u8 {
        let ids = [chunk(7, 1), chunk(7, 2), chunk(8, 1), chunk(7, 1), chunk(u64::MAX, 3), chunk(0, 0)];
        let pack = PackRef { id: PackId([num; 32]), size: 1, trailer_offset: 0 };
        catalog.add_packs(&[NewPack { pack, ids: &ids, trailer: &[num] }]).unwrap();
    }
    catalog.remove_packs(&[PackId([3; 32])]).unwrap();
    let nums: Vec<PackNum> = catalog.packs().unwrap().iter().map(|known| known.num).collect();
    let expected = |indexes: &[u32]| -> Vec<ChunkAt> {
        nums.iter().flat_map(|&pack| indexes.iter().map(move |&index| ChunkAt { pack, index })).collect()
    };
    let answers = catalog.find_many(&[8, 7, 9, 7, 0, u64::MAX]).unwrap();
    for (mut answer, indexes) in answers.into_iter().zip([&[2][..], &[0, 1, 3], &[], &[0, 1, 3], &[5], &[4]]) {
        answer.sort();
        assert_eq!(answer, expected(indexes));
    }
}

/// More copies of one prefix than fit into a block, or a page.
#[test]
fn a_prefix_with_thousands_of_copies() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let ids = vec![chunk(7, 1); 100_000];
    for num in 0..10_u8 {
        let pack = PackRef { id: PackId([num; 32]), size: 1, trailer_offset: 0 };
        catalog.add_packs(&[NewPack { pack, ids: &ids[..10_000], trailer: &[] }]).unwrap();
    }
    assert_eq!(catalog.find(7).unwrap().len(), 100_000);
    assert!(catalog.find(6).unwrap().is_empty() && catalog.find(8).unwrap().is_empty());
}

#[test]
fn snapshots_keep_order_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let all: Vec<(SnapshotId, Vec<u8>)> = (0..50_u8).map(|num| (SnapshotId([200 - num; 32]), vec![num; usize::from(num) * 300])).collect();
    catalog.put_snapshots(&all[..20]).unwrap();
    catalog.put_snapshots(&all[20..]).unwrap();
    assert_eq!(catalog.snapshots().unwrap(), all);
    let mut ids: Vec<SnapshotId> = all.iter().map(|(id, _)| *id).collect();
    ids.sort();
    assert_eq!(catalog.snapshot_ids().unwrap(), ids);
    catalog.remove_snapshots(&ids[1..]).unwrap();
    catalog.remove_snapshots(&ids[1..]).unwrap();
    assert_eq!(catalog.snapshots().unwrap(), all[49..]);
    catalog.put_snapshots(&[(ids[0], b"other".to_vec())]).unwrap();
    assert_eq!(catalog.snapshots().unwrap(), [(ids[0], b"other".to_vec())]);
}

#[test]
fn what_was_read_is_remembered_until_the_pack_goes() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let (one, two) = (PackId([1; 32]), PackId([2; 32]));
    let reading = |time_ns, is_sound| PackReading { time_ns, is_sound };
    catalog.put_readings(&[(two, reading(5, true)), (one, reading(-6, false))]).unwrap();
    catalog.put_readings(&[(one, reading(7, true))]).unwrap();
    drop(catalog);
    let catalog = open(dir.path());
    assert_eq!(catalog.readings().unwrap(), [(one, reading(7, true)), (two, reading(5, true))]);
    catalog.remove_packs(&[one]).unwrap();
    assert_eq!(catalog.readings().unwrap(), [(two, reading(5, true))]);
    catalog.clear().unwrap();
    assert!(catalog.readings().unwrap().is_empty());
}

#[test]
fn stamps_are_replaced_per_source() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let (one, two) = (SourceId([1; 32]), SourceId([2; 32]));
    let put = |source, snapshot, words: &[(&str, &str)]| {
        let stamps = words.iter().map(|(name, stamp)| Ok((name.as_bytes().to_vec(), stamp.as_bytes().to_vec())));
        catalog.put_stamps(source, SnapshotId([snapshot; 32]), &mut stamps.into_iter()).unwrap();
    };
    let kept = |source, name: &str| {
        let set = catalog.stamps(source).unwrap().unwrap();
        let around = catalog.stamps_around(&set, name.as_bytes()).unwrap();
        let stamp = around.into_iter().find(|(other, _)| other == name.as_bytes()).map(|(_, stamp)| String::from_utf8(stamp).unwrap());
        (set.snapshot.0[0], stamp)
    };
    assert!(catalog.stamps(one).unwrap().is_none());
    put(one, 1, &[("a", "1"), ("b", "2")]);
    put(two, 2, &[("a", "x")]);
    assert_eq!([kept(one, "a"), kept(one, "b"), kept(one, "c")], [(1, Some("1".into())), (1, Some("2".into())), (1, None)]);
    put(one, 3, &[("", ""), ("b", "3")]);
    assert_eq!([kept(one, ""), kept(one, "a"), kept(one, "b")], [(3, Some("".into())), (3, None), (3, Some("3".into()))]);
    assert_eq!(kept(two, "a"), (2, Some("x".into())));
    put(two, 4, &[]);
    assert_eq!(kept(two, "a"), (4, None));
}

/// Many stamps lie in many blocks. Sets that differ a little leave what was kept for the new one, and nothing else.
#[test]
fn stamps_are_found_in_whichever_block_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let source = SourceId([1; 32]);
    for round in 0..4_u64 {
        let has = |n: u64| !(n + round).is_multiple_of(97) && (round != 2 || n < 1_500);
        let stamp = |n: u64| format!("stamp {}", if n.is_multiple_of(500) { n + round } else { n }).into_bytes();
        let name = |n: u64| format!("dir/{n:05}").into_bytes();
        let mut stamps = (0..3_000).filter(|n| has(*n)).map(|n| Ok((name(n), stamp(n))));
        catalog.put_stamps(source, SnapshotId([round as u8; 32]), &mut stamps).unwrap();
        let set = catalog.stamps(source).unwrap().unwrap();
        assert_eq!(set.snapshot.0[0], round as u8);
        let mut blocks = HashSet::new();
        for n in 0..3_000 {
            let around = catalog.stamps_around(&set, &name(n)).unwrap();
            let found = around.iter().find(|(other, _)| *other == name(n)).map(|(_, stamp)| stamp.clone());
            assert_eq!(found, has(n).then(|| stamp(n)), "{round} {n}");
            assert!(around.iter().map(|(name, _)| name).is_sorted());
            blocks.extend(around.first().map(|(first, _)| first.clone()));
        }
        assert!(blocks.len() > 5, "{}", blocks.len());
    }
}

#[test]
fn clearing_forgets_everything_but_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let made = Made::from(1, 500);
    catalog.add_packs(&[made.listed()]).unwrap();
    catalog.put_snapshots(&[(SnapshotId([1; 32]), vec![1])]).unwrap();
    catalog.put_stamps(SourceId([1; 32]), SnapshotId([1; 32]), &mut std::iter::once(Ok((vec![1], vec![2])))).unwrap();
    let num = catalog.pack_num(&made.pack.id).unwrap().unwrap();
    catalog.clear().unwrap();
    assert!(catalog.packs().unwrap().is_empty() && catalog.snapshots().unwrap().is_empty());
    assert!(catalog.stamps(SourceId([1; 32])).unwrap().is_none() && catalog.trailer(num).unwrap().is_none());
    assert!(catalog.find(prefix(&made.ids[0])).unwrap().is_empty());
    catalog.add_packs(&[made.listed()]).unwrap();
    assert!(catalog.pack_num(&made.pack.id).unwrap().unwrap() > num);
    assert_eq!(catalog.find(prefix(&made.ids[0])).unwrap().len(), 1);
}

#[test]
fn locations_and_repositories_have_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::from(1, 5);
    open(dir.path()).add_packs(&[made.listed()]).unwrap();
    for other in [
        Catalog::open(dir.path(), REPOSITORY, "/elsewhere", &[7; 32]),
        Catalog::open(dir.path(), RepositoryId([1; 32]), "/somewhere", &[7; 32]),
    ] {
        let other = other.unwrap();
        assert!(!other.was_rebuilt() && other.packs().unwrap().is_empty());
    }
    assert_eq!(open(dir.path()).packs().unwrap().len(), 1);
}

#[test]
fn only_the_user_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b");
    let catalog = open(&deep);
    catalog.add_packs(&[Made::from(1, 5).listed()]).unwrap();
    catalog.packs().unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&deep), 0o700);
    let files: Vec<_> = std::fs::read_dir(&deep).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 3, "database, log and its index: {files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600));
}

#[test]
fn what_cannot_be_stored_is_refused_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let trailer = vec![0; 256 << 20];
    let pack = PackRef { id: PackId([1; 32]), size: 1, trailer_offset: 0 };
    let refused = catalog.add_packs(&[NewPack { pack, ids: &[], trailer: &trailer }]);
    assert!(matches!(refused, Err(Error::InvalidArgument(_))));
    assert!(matches!(catalog.put_snapshots(&[(SnapshotId([1; 32]), trailer)]), Err(Error::InvalidArgument(_))));
    assert!(!catalog.is_damaged() && catalog.packs().unwrap().is_empty());
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert!(matches!(Catalog::open(&file.join("cache"), REPOSITORY, "/somewhere", &[7; 32]), Err(Error::Catalog { .. })));
}
