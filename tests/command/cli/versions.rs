//! Repositories of other format versions are refused by name, and nothing in them is touched.

use super::support::Place;

#[test]
fn another_version_is_refused_with_who_reads_it() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let whole: Vec<String> =
        ["config", "config.copy"].map(|name| std::fs::read_to_string(place.path(".icecore").join(name)).unwrap()).to_vec();
    let before = place.stored("").len();
    for (version, says) in [
        ("1", "config needs icecore 0.1: format version 1, and this icecore reads version 2"),
        ("3", "config needs a newer icecore: format version 3"),
        ("65536", "config needs a newer icecore: format version"),
    ] {
        for (name, text) in ["config", "config.copy"].iter().zip(&whole) {
            let other = text.replace("\"icecore\": 2", &format!("\"icecore\": {version}"));
            assert_ne!(other, *text);
            std::fs::write(place.path(".icecore").join(name), other).unwrap();
        }
        for args in [&["snapshots"][..], &["backup", "sqlite", "a.db"], &["restore", "latest", "--to", "out"], &["prune"], &["check"]] {
            place.run(args).failed(1, &[says]);
        }
        place.run(["init", "--no-encryption"]).failed(1, &["holds a repository already"]);
    }
    for (name, text) in ["config", "config.copy"].iter().zip(&whole) {
        std::fs::write(place.path(".icecore").join(name), text).unwrap();
    }
    assert_eq!(place.stored("").len(), before, "nothing was written meanwhile");
    place.ok(["check", "--read-data"]);
}

/// Somebody who finds the disk finds the page on it.
#[test]
fn the_page_lies_in_the_repository() {
    let place = Place::with_repository();
    let page = std::fs::read_to_string(place.path(".icecore/FORMAT.md")).unwrap();
    assert!(page.starts_with("# The store format, version 2\n") && page.contains("extract.py REPOSITORY"), "{}", &page[..200]);
    // Nothing reads it, and nothing minds that it is gone or is something else.
    std::fs::write(place.path(".icecore/FORMAT.md"), "other").unwrap();
    place.ok(["backup", "sqlite", "a.db"]);
    std::fs::remove_file(place.path(".icecore/FORMAT.md")).unwrap();
    place.ok(["check", "--read-data"]);
}
