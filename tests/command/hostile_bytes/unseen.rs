//! What the times of files do not show.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use super::support::Place;

#[test]
fn a_file_with_the_same_times_is_read_if_that_is_asked_for() {
    let place = Place::without_parity();
    fs::create_dir(place.path("tree")).unwrap();
    let file = place.path("tree/f");
    fs::write(&file, "before").unwrap();
    // Only what has not changed for two seconds is ever taken as unchanged.
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    while now() - fs::metadata(&file).unwrap().ctime() <= 3 {
        std::thread::sleep(Duration::from_millis(50));
    }
    place.ok(["backup", "files", "tree"]);
    let [unchanged, all] = [&["backup", "files", "tree"][..], &["backup", "files", "tree", "--read-all"]].map(|args| {
        let done = place.json(args);
        ["unchanged_streams", "new_chunks", "read_bytes"].map(|name| done[name].as_u64().unwrap())
    });
    assert_eq!(unchanged[..2], [1, 0]);
    assert_eq!(all, [0, 0, unchanged[2] + 6], "the listing and the file");
}
