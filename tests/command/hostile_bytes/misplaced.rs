//! Records of snapshots under the names of other sources.

use std::fs;

use super::support::Place;

/// Every command that looks at records reports such a copy. It stops no backup and adds nothing to the list. A repair removes it.
#[test]
fn a_copied_record_is_told_and_mended() {
    let place = Place::without_parity();
    place.database("b.db", 300);
    place.ok(["backup", "sqlite", "a.db"]);
    place.ok(["backup", "sqlite", "b.db"]);
    let [own, other] = [0, 1].map(|number| place.record(place.snapshots()[number]["id"].as_str().unwrap()));
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let stray = own.with_file_name(format!("{}{}", &name(&other)[..16], &name(&own)[16..]));
    fs::copy(&own, &stray).unwrap();
    let list = place.run(["--json", "snapshots"]);
    assert_eq!((list.code, list.json()["snapshots"].as_array().unwrap().len()), (Some(4), 2));
    assert!(list.stderr.contains(&name(&stray)) && list.stderr.contains("icecore repair"), "{}", list.stderr);
    assert_eq!(place.run(["check"]).code, Some(4));
    let run = place.ok(["backup", "sqlite", "a.db"]);
    assert!(run.stderr.contains("another source"), "{}", run.stderr);
    place.ok(["prune", "--grace", "0"]);
    assert!(place.ok(["repair"]).stdout.contains("put under the right name"));
    assert!(!stray.exists() && own.exists());
    place.ok(["check", "--read-data"]);
    assert_eq!(place.snapshots().len(), 3);
}
