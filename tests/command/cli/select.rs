//! Naming snapshots, and narrowing them.

use super::support::Place;

#[test]
fn by_id_age_time_and_filter() {
    let place = Place::with_repository();
    place.database("b.db", 5);
    let mut ids = Vec::new();
    let hours = [("2026-01-01T00:00:00Z", "x", "a.db"), ("2026-01-02 12:00", "y", "a.db"), ("2026-01-03", "x", "b.db")];
    for (time, tag, file) in hours {
        let done = place.json(["backup", "sqlite", file, "--time", time, "--tag", tag]);
        ids.push(done["snapshot"].as_str().unwrap().to_owned());
    }
    let found = |args: &[&str]| place.json([&["show"], args].concat())["snapshot"]["id"].as_str().unwrap().to_owned();
    assert_eq!(found(&["latest"]), ids[2]);
    assert_eq!(found(&["latest~2"]), ids[0]);
    assert_eq!(found(&[&ids[1]]), ids[1]);
    assert_eq!(found(&[&ids[1][..12]]), ids[1]);
    assert_eq!(found(&["@2026-01-02"]), ids[0]);
    assert_eq!(found(&["@2026-01-02T12:00:00Z"]), ids[1]);
    assert_eq!(found(&["latest~1", "--tag", "x"]), ids[0]);
    assert_eq!(found(&["latest", "--source", "a.db"]), ids[1]);
    place.run(["show", "latest~3"]).failed(1, &["there are 3"]);
    place.run(["show", "@2025-12-31"]).failed(1, &["at or before"]);
    place.run(["show", "latest", "--host", "elsewhere"]).failed(1, &["not found"]);
    let times: Vec<_> = place.snapshots().iter().map(|s| s["time"].as_str().unwrap().to_owned()).collect();
    assert_eq!(times, ["2026-01-01T00:00:00Z", "2026-01-02T12:00:00Z", "2026-01-03T00:00:00Z"]);
    let list = place.ok(["snapshots", "--tag", "x"]).stdout;
    assert!(list.contains(&ids[0][..12]) && !list.contains(&ids[1][..12]) && list.ends_with("2 snapshots\n"), "{list}");
    assert!(list.contains("2026-01-03 00:00:00 +00:00"), "{list}");
}

#[test]
fn a_named_source_goes_on_where_the_path_changes() {
    let place = Place::with_repository();
    let first = place.json(["backup", "sqlite", "a.db", "--source", "brain"]);
    std::fs::rename(place.path("a.db"), place.path("moved.db")).unwrap();
    let other = place.json(["backup", "sqlite", "a.db=moved.db"]);
    let second = place.json(["backup", "sqlite", "a.db=moved.db", "--source", "brain"]);
    assert_eq!((&other["parent"], &second["parent"]), (&serde_json::Value::Null, &first["snapshot"]));
    assert_eq!(second["new_chunks"], 0);
}
