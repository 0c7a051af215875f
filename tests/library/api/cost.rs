//! What a snapshot costs, counted in chunks and bytes.

use icecore::store::backend::ObjectKind;
use icecore::store::repo::Repository;

use super::support::{Bed, add_rows, back_up, make_database, stream};

fn stored_bytes(repo: &Repository) -> u64 {
    [ObjectKind::Pack, ObjectKind::Snapshot, ObjectKind::Pending]
        .into_iter()
        .flat_map(|kind| repo.backend().list(kind).unwrap())
        .map(|info| info.unwrap().size)
        .sum()
}

#[test]
fn a_deep_tree_costs_what_changed_and_comes_back() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 60_000);
    let repo = bed.open();
    let first = back_up(&repo, &path, 1);
    assert!(first.record.logical_bytes > 128 * 65_536, "more chunks than one node holds: {}", first.record.logical_bytes);
    let before = stored_bytes(&repo);
    let image = std::fs::read(&path).unwrap();

    db.execute("UPDATE memory SET body = replace(body, 'row', 'now') WHERE id = 30000", []).unwrap();
    let second = back_up(&repo, &path, 2);
    assert!(second.record.stats.new_chunks <= 3, "a changed row is in one chunk, or two, beside the listing: {:?}", second.record.stats);
    // The listing of one stream is shorter than what a delta of it would save.
    let whole = second.record.stats.zstd_bytes + second.record.stats.raw_bytes;
    assert!(whole < 100, "all of it as deltas: {:?}", second.record.stats);
    let cost = stored_bytes(&repo) - before;
    assert!(cost < 4096, "one changed row cost {cost} bytes");

    assert!(stream(&repo, &first.id, "db").unwrap() == image);
    assert!(stream(&repo, &second.id, "db").unwrap() == std::fs::read(&path).unwrap());
}

#[test]
fn a_step_without_a_change_stores_no_pack() {
    let bed = Bed::new(true);
    let path = bed.path("db.sqlite");
    let _db = make_database(&path, 3000);
    let repo = bed.open();
    back_up(&repo, &path, 1);
    let before = stored_bytes(&repo);
    let again = back_up(&repo, &path, 2);
    assert!(again.record.packs.is_empty(), "{:?}", again.record.packs);
    assert!(stored_bytes(&repo) - before < 2048);
}

#[test]
fn equal_databases_are_stored_once() {
    let bed = Bed::new(false);
    let (one, two) = (bed.path("one.sqlite"), bed.path("two.sqlite"));
    let db = make_database(&one, 3000);
    add_rows(&db, 5000, 10);
    drop(db);
    std::fs::copy(&one, &two).unwrap();
    let repo = bed.open();
    back_up(&repo, &one, 1);
    let other = back_up(&repo, &two, 2);
    assert_eq!(other.record.parent, None, "another path is another source");
    assert_eq!(other.record.stats.new_chunks, 1, "the listing, which has the file's time: {:?}", other.record.stats);
    assert!(other.record.stats.new_plain_bytes < 256);
}
