//! What is put in place is open to nobody to whom it was not open before.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use icecore::engine::files::restore::tree::Tree;
use icecore::engine::sqlite::restore::DatabaseOptions;
use icecore::fs::disk::RealDisk;
use icecore::recorded::{Attribute, FileMeta};

use super::support::*;
use super::xattrs::{ACCESS, CAPABILITY, DEFAULT, acl, are_there, capability, of, set};

fn said(listener: &Listener) -> Vec<String> {
    listener.warnings.lock().unwrap().clone()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn own(dir: &Path, mode: u32, attributes: &[(&str, Vec<u8>)]) -> FileMeta {
    let owner = fs::metadata(dir).unwrap();
    let attributes = attributes.iter().map(|(name, value)| Attribute { name: (*name).into(), value: value.clone() }).collect();
    FileMeta { mode, mtime_ns: 1, uid: owner.uid(), gid: owner.gid(), holes: 0, attributes }
}

#[test]
fn lists_and_attributes_come_back() {
    let (_outer, dir) = scratch();
    if !are_there(&dir, ACCESS, &acl(6, 6, 0, 6, 0)) || !are_there(&dir, "user.x", b"") {
        return;
    }
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    let list = acl(6, 6, 0, 6, 0);
    let attributes = [(ACCESS, list.clone()), ("user.comment", b"why".to_vec()), ("user.empty", Vec::new())];
    let meta = own(&dir, 0o660, &attributes);
    placement.place_file(&dir.join("f"), 3, Some(meta.clone()), &filler(b"abc")).unwrap();
    let new = bytes(NEW);
    placement.place_database(&dir.join("d"), new.len() as u64, Some(meta.clone()), &filler(&new), DatabaseOptions::default()).unwrap();
    for name in ["f", "d"] {
        assert_eq!(of(&dir.join(name)), attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(), "{name}");
        assert_eq!(mode(&dir.join(name)), 0o660);
    }
    // Over one with a list, without attributes of its own: the new one is for those for whom the old one was.
    placement.place_file(&dir.join("f"), 3, None, &filler(b"def")).unwrap();
    assert_eq!(of(&dir.join("f")).get(ACCESS), Some(&list));
    // Without the list the mask must not be the group's.
    placement.place_file(&dir.join("g"), 3, Some(meta.without_attributes()), &filler(b"abc")).unwrap();
    assert_eq!((mode(&dir.join("g")), of(&dir.join("g")).len()), (0o600, 0));
    assert_eq!(said(&listener), Vec::<String>::new());
}

#[test]
fn a_list_that_cannot_be_set_leaves_a_narrow_mode_and_is_said() {
    let (_outer, dir) = scratch();
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    // The system refuses a list without an end.
    let broken = own(&dir, 0o664, &[(ACCESS, acl(6, 6, 4, 6, 4)[..20].to_vec())]);
    placement.place_file(&dir.join("f"), 3, Some(broken), &filler(b"abc")).unwrap();
    assert_eq!(mode(&dir.join("f")), 0o600);
    assert!(said(&listener).iter().any(|line| line.contains("access control list")), "{:?}", said(&listener));
}

#[test]
fn what_a_directory_gives_new_files_opens_no_restored_one() {
    let (_outer, dir) = scratch();
    if !are_there(&dir, ACCESS, &acl(6, 6, 0, 6, 0)) {
        return;
    }
    set(&dir, DEFAULT, &acl(7, 7, 7, 7, 7));
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    placement.place_file(&dir.join("f"), 3, Some(own(&dir, 0o640, &[])), &filler(b"abc")).unwrap();
    let tree = Tree::open(&placement, &dir).unwrap();
    tree.directory(b"sub", Some(own(&dir, 0o750, &[]))).unwrap();
    tree.finish().unwrap();
    for (name, bits) in [("f", 0o640), ("sub", 0o750)] {
        assert_eq!((of(&dir.join(name)).len(), mode(&dir.join(name))), (0, bits), "{name}");
    }
    let list = acl(7, 5, 0, 5, 0);
    let tree = Tree::open(&placement, &dir).unwrap();
    tree.directory(b"listed", Some(own(&dir, 0o750, &[(ACCESS, list.clone()), (DEFAULT, list.clone())]))).unwrap();
    tree.finish().unwrap();
    assert_eq!(of(&dir.join("listed")), [(ACCESS.to_owned(), list.clone()), (DEFAULT.to_owned(), list)].into());
}

#[test]
fn capabilities_are_for_root_to_give() {
    let (_outer, dir) = scratch();
    if !are_there(&dir, CAPABILITY, &capability()) {
        return;
    }
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    // The owner is another one than that of the new file at first: giving it away would take a capability that is there already.
    let meta = FileMeta { uid: 12345, gid: 12345, ..own(&dir, 0o755, &[(CAPABILITY, capability())]) };
    placement.place_file(&dir.join("program"), 3, Some(meta.clone()), &filler(b"abc")).unwrap();
    assert_eq!(of(&dir.join("program")).get(CAPABILITY), Some(&capability()));
    // Names that icecore does not store are not restored either, even if a forged repository has them.
    let meta = FileMeta { attributes: vec![Attribute { name: b"trusted.overlay.opaque".into(), value: b"y".into() }], ..meta };
    placement.place_file(&dir.join("other"), 3, Some(meta), &filler(b"abc")).unwrap();
    assert_eq!(of(&dir.join("other")).len(), 0);
}

#[test]
fn links_have_times_and_owners_of_their_own() {
    let (_outer, dir) = scratch();
    fs::write(dir.join("target"), "x").unwrap();
    fs::set_permissions(dir.join("target"), fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(dir.join("target")).unwrap();
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    let is_root = rustix::process::geteuid().is_root();
    let mut meta = own(&dir, 0o777, &[]);
    (meta.mtime_ns, meta.uid) = (-1_500_000_000, if is_root { 12345 } else { meta.uid });
    for _ in 0..2 {
        let tree = Tree::open(&placement, &dir).unwrap();
        tree.symlink(b"link", b"target", Some(meta.clone())).unwrap();
        tree.finish().unwrap();
        let link = fs::symlink_metadata(dir.join("link")).unwrap();
        assert_eq!((link.mtime(), link.mtime_nsec(), link.uid()), (-2, 500_000_000, meta.uid));
        // One that is there already gets them, too.
        rustix::fs::utimensat(rustix::fs::CWD, dir.join("link"), &now(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    let after = fs::metadata(dir.join("target")).unwrap();
    assert_eq!((after.mtime_nsec(), after.uid()), (before.mtime_nsec(), before.uid()), "what it points to is not touched");
}

fn now() -> rustix::fs::Timestamps {
    let time = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW as _ };
    rustix::fs::Timestamps { last_access: time, last_modification: time }
}

#[test]
fn files_with_holes_need_no_space_for_them() {
    let (_outer, dir) = scratch();
    let listener = Listener::default();
    let placement = placement(&RealDisk, &listener);
    // More than any disk has.
    let len = 8u64 << 40;
    let meta = FileMeta { holes: len - 4096, ..own(&dir, 0o600, &[]) };
    let fill = |file: &fs::File| {
        std::os::unix::fs::FileExt::write_all_at(file, b"end", len - 3).map_err(|e| icecore::Error::destination("test", e.to_string()))
    };
    placement.place_file(&dir.join("image"), len, Some(meta), &fill).unwrap();
    let image = fs::metadata(dir.join("image")).unwrap();
    assert_eq!(image.len(), len);
    assert!(image.blocks() * 512 < 1 << 20, "{}", image.blocks());
}
