//! A corrupt database is noticed at backup: the snapshot is flagged, and the next one costs no more for that.

use std::os::unix::fs::FileExt;

use super::support::{Bed, back_up, make_database, step};

#[test]
fn a_corrupt_page_flags_the_snapshot_and_the_next_good_one_is_still_a_small_delta() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    let db = make_database(&path, 3000);
    let repo = bed.open();
    let good = back_up(&repo, &path, 1);
    assert!(good.record.flags.is_empty(), "{:?}", good.record.flags);
    step(&db, 1);
    drop(db);

    let whole = std::fs::read(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0x55; 4096], 4096 * 20).unwrap();
    let bad = back_up(&repo, &path, 2);
    assert_eq!(bad.record.flags.len(), 1, "{:?}", bad.record.flags);
    assert_eq!((&bad.record.flags[0].code[..], bad.record.flags[0].stream.as_deref()), ("damaged", Some(&b"db"[..])));
    assert!(bad.record.flags[0].detail.contains("page 21"), "{:?}", bad.record.flags);

    file.write_all_at(&whole, 0).unwrap();
    let mended = back_up(&repo, &path, 3);
    assert!(mended.record.flags.is_empty());
    assert_eq!(mended.record.parent, Some(bad.id));
    let stats = mended.record.stats;
    assert!(
        stats.new_chunks <= 2 && stats.zstd_bytes + stats.raw_bytes < 2000,
        "the chunk with the page, as a delta, and the listing: {stats:?}"
    );
}
