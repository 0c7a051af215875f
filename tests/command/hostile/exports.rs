//! Exports into directories that somebody else may change, and directories with files to restore that somebody else has made.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use icecore::Error;
use icecore::fs::disk::RealDisk;
use icecore::ops::export::{ExportOptions, FromOptions, export, open_directory, restore_given};
use icecore::progress::Silent;

use super::attacker::{Scene, at_every_moment, placement};
use super::support::{Bed, back_up, make_database};

/// A user who is neither root nor the present one.
const SOMEBODY: u32 = 4242;

/// What takes the place of a file: something that has no end, or that nobody writes to.
fn put(path: &Path, what: &str) {
    match what {
        "fifo" => rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap(),
        "zero" => symlink("/dev/zero", path).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        _ => fs::File::create(path).unwrap().set_len(1 << 50).unwrap(),
    }
}

#[test]
fn what_is_no_file_of_bounded_length_is_refused() {
    for name in ["checksums.txt", "manifest.json"] {
        for what in ["fifo", "zero", "directory", "huge"] {
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            put(&dir.path().join(name), what);
            let error = open_directory(dir.path(), &Silent).unwrap_err();
            assert!(matches!(error, Error::Source { .. }), "{name} {what}: {error}");
        }
    }
}

/// With checksums and without: neither is waited for, and nothing is read through a link, which may lead to what only root may read.
#[test]
fn a_named_file_is_a_regular_one_in_the_directory() {
    let outer = tempfile::tempdir().unwrap();
    let outside = outer.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "precious").unwrap();
    for checksums in [false, true] {
        for what in ["fifo", "zero", "link", "way"] {
            let dir = outer.path().join(format!("{what}{checksums}"));
            fs::create_dir(&dir).unwrap();
            let name = match what {
                "link" => {
                    symlink(outside.join("file"), dir.join("file")).unwrap();
                    "file"
                }
                "way" => {
                    symlink(&outside, dir.join("way")).unwrap();
                    "way/file"
                }
                _ => {
                    put(&dir.join("file"), what);
                    "file"
                }
            };
            if checksums {
                let sum = "00".repeat(32);
                fs::write(dir.join("checksums.txt"), format!("{sum}  {name}\n")).unwrap();
                let error = open_directory(&dir, &Silent).unwrap_err().to_string();
                assert!(error.contains(name) && !error.contains("is not what its checksum says"), "{what}: {error}");
                continue;
            }
            let given = open_directory(&dir, &Silent).unwrap();
            assert!(!given.has(name.as_bytes()), "{what}");
            let (disk, dest) = (RealDisk, dir.join("dest"));
            let targets = [(name.as_bytes().to_vec(), dest.clone())];
            let restored = restore_given(&given, &targets, &FromOptions::default(), &placement(&disk), &mut |_| {});
            assert!(restored.is_err() && !dest.exists(), "{what}: {restored:?}");
        }
    }
}

/// The directory that is being filled becomes a link to somebody else's, at each step in turn; and so does the one above, and the one that is replaced.
#[test]
fn an_export_stays_in_the_directory_that_it_has_made() {
    let bed = Bed::new(false);
    drop(make_database(&bed.path("db"), 20));
    let repo = bed.open();
    let report = back_up(&repo, &bed.path("db"), 1);
    let attacks: [&(dyn Fn(&Scene) + Send + Sync); 3] = [
        &|scene| {
            for entry in fs::read_dir(scene.theirs.join("home")).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.contains(".icecore-export-") && !name.ends_with(".aside") {
                    scene.turn(&format!("home/{name}"), "etc");
                }
            }
        },
        &|scene| scene.turn("home", ""),
        &|scene| scene.turn("home/dest", "etc"),
    ];
    for (number, attack) in attacks.into_iter().enumerate() {
        for is_there in [false, true] {
            let prepare = |scene: &Scene| {
                fs::create_dir_all(scene.theirs.join(if is_there { "home/dest" } else { "home" })).unwrap();
                symlink(scene.outside.join("etc"), scene.outside.join("dest")).unwrap();
            };
            let moments = at_every_moment(&prepare, attack, &|scene, disk| {
                let _ = export(
                    &repo,
                    (&report.id, &report.record),
                    &scene.theirs.join("home/dest"),
                    &ExportOptions::default(),
                    &placement(disk),
                );
            });
            assert!(moments > 8, "attack {number}: {moments}");
        }
    }
}

/// What another user has put in the place of an export, or on the way to it, leads nowhere and gives no rights.
#[test]
fn what_another_user_has_put_in_the_place_is_not_followed() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped (1 test): only root can make what belongs to another user");
        return;
    }
    let bed = Bed::new(false);
    drop(make_database(&bed.path("db"), 20));
    let repo = bed.open();
    let report = back_up(&repo, &bed.path("db"), 1);
    let scene = Scene::new();
    let run = |dest: &str| {
        let (disk, options) = (RealDisk, ExportOptions::default());
        export(&repo, (&report.id, &report.record), &scene.theirs.join(dest), &options, &placement(&disk))
    };
    let theirs = |name: &str| std::os::unix::fs::lchown(scene.theirs.join(name), Some(SOMEBODY), Some(SOMEBODY)).unwrap();
    fs::create_dir(scene.outside.join("empty")).unwrap();
    for (name, to) in [("way", ""), ("link", "empty")] {
        symlink(scene.outside.join(to), scene.theirs.join(name)).unwrap();
        theirs(name);
    }
    let before = scene.untouched();
    for dest in ["way/new", "way/new/deep", "way/empty", "link", "link/"] {
        let error = run(dest).unwrap_err().to_string();
        assert!(error.contains("belongs to another user"), "{dest}: {error}");
    }
    assert_eq!(scene.untouched(), before);
    // A directory of theirs does not say who may read; under the hidden name nothing is waited for.
    let open = scene.theirs.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o7777)).unwrap();
    theirs("open");
    put(&scene.theirs.join(".open.icecore-export-0123456789abcdef"), "fifo");
    run("open").unwrap();
    assert_eq!(fs::metadata(&open).unwrap().mode() & 0o7777, 0o700);
}
