//! Plain files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use icecore::fs::disk::RealDisk;
use icecore::recorded::FileMeta;

use super::support::*;

#[test]
fn the_old_file_is_kept() {
    let (_outer, dir) = scratch();
    let (dest, link) = (dir.join("a.txt"), dir.join("link"));
    symlink("a.txt", &link).unwrap();
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    let owner = fs::metadata(&dir).unwrap();
    let meta = FileMeta { mode: 0o754, mtime_ns: 1_000_000_007, uid: owner.uid(), gid: owner.gid(), ..FileMeta::default() };
    assert!(placement.place_file(&dest, 5, Some(meta), &filler(b"first")).unwrap().kept.is_empty());
    let placed = fs::metadata(&dest).unwrap();
    assert_eq!((placed.mode() & 0o7777, placed.mtime(), placed.mtime_nsec()), (0o754, 1, 7));

    let refused = placement.place_file(&link, 6, None, &filler(b"second")).unwrap_err().to_string();
    assert!(refused.contains("is a symbolic link to a.txt"), "{refused}");
    let second = placement.place_file(&dest, 6, None, &filler(b"second")).unwrap();
    assert_eq!((second.path, second.kept), (dest.clone(), vec![kept(&dest)]));
    assert_eq!(fs::read(&dest).unwrap(), b"second");
    assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o7777, 0o754, "without attributes of its own those of the old one");
    assert_eq!(fs::read(kept(&dest)).unwrap(), b"first");
    assert_eq!(placement.place_file(&dest, 0, None, &filler(b"")).unwrap().kept, [side(&kept(&dest), ".1")]);
    assert_eq!(names(&dir).len(), 4);
    assert!(placement.place_file(&dir, 0, None, &filler(b"")).unwrap_err().to_string().contains("is a directory"));
}
