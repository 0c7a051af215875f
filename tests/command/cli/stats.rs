//! `stats` and the costs in `show`: for people and as JSON, the same.

use serde_json::Value;

use super::support::Place;

fn place() -> Place {
    let place = Place::with_repository();
    for rows in [50, 60, 70] {
        place.database("a.db", rows);
        place.ok(["backup", "sqlite", "a.db"]);
    }
    place
}

fn stored(value: &Value) -> u64 {
    value["stored_bytes"].as_u64().unwrap()
}

#[test]
fn snapshots_add_up_to_the_repository() {
    let place = place();
    let stats = place.json(["stats"]);
    let rows = stats["per_snapshot"].as_array().unwrap();
    assert_eq!((rows.len(), &stats["snapshots"]), (3, &3.into()));
    let files: u64 = place.stored("").iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert_eq!(stored(&stats), files);
    assert_eq!(rows.iter().map(stored).sum::<u64>() + stored(&stats["other"]), files);
    let listed: Vec<Value> = place.snapshots().iter().map(|snapshot| snapshot["id"].clone()).collect();
    assert_eq!(rows.iter().map(|row| row["snapshot"].clone()).collect::<Vec<_>>(), listed, "oldest first");

    let show = place.json(["show", "latest"]);
    let row = rows.last().unwrap();
    let shared = row.as_object().unwrap().keys().filter(|key| show.get(*key).is_some() && *key != "snapshot");
    assert!(shared.clone().count() > 10);
    shared.for_each(|key| assert_eq!(show[key], row[key], "{key}"));
}

#[test]
fn the_newest_have_rows() {
    let place = place();
    let newest = place.json(["stats", "--limit", "1"]);
    let all = place.json(["stats"]);
    assert_eq!(newest["per_snapshot"], serde_json::json!([all["per_snapshot"][2]]));
    assert_eq!(newest["depth"], all["depth"], "sums are over all");

    let text = place.ok(["stats"]).stdout;
    let table: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("TIME")).collect();
    let headings: Vec<&str> = table[0].split_whitespace().collect();
    let expected = ["TIME", "ID", "SOURCE", "SIZE", "NEW", "RAW", "ZSTD", "DELTA", "PATCH", "META", "STORED", "RATIO", "DEPTH", "WORK"];
    assert_eq!((headings.as_slice(), table.len()), (&expected[..], 4), "{text}");
    let id = all["per_snapshot"][0]["snapshot"].as_str().unwrap();
    assert!(id.starts_with(table[1].split_whitespace().nth(3).unwrap()), "{text}");

    let text = place.ok(["stats", "--limit", "2"]).stdout;
    assert!(text.ends_with("\n1 snapshot more before these: see --limit\n"), "{text}");
    let text = place.ok(["stats", "--limit", "0"]).stdout;
    assert!(!text.contains("TIME") && text.contains("\ndepth       mean "), "{text}");
}

#[test]
fn damage_is_named_and_the_rest_is_shown() {
    let place = place();
    let lost = place.json(["show", "latest"])["packs"][0]["id"].as_str().unwrap().to_owned();
    std::fs::remove_file(place.stored("packs").into_iter().find(|path| path.ends_with(&lost)).unwrap()).unwrap();
    std::fs::remove_dir_all(place.path("cache")).unwrap();
    let run = place.run(["--json", "stats"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let stats = run.json();
    assert_eq!(stats["per_snapshot"][2]["depth"], Value::Null);
    assert!(stats["per_snapshot"][1]["depth"]["mean"].is_number());
    assert_eq!(stats["unreadable"].as_array().unwrap().len(), 1);
    assert_eq!(run.stderr.lines().count(), 1);
    let run = place.run(["stats"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let last: Vec<&str> = run.stdout.lines().last().unwrap().split_whitespace().rev().take(2).collect();
    assert_eq!(last, ["-", "-"], "{}", run.stdout);
}
