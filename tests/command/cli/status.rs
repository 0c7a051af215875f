//! `status`: exit codes for monitoring, and the textfile for node_exporter.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::support::{Place, Run};

fn status(place: &Place, args: &[&str]) -> (Option<i32>, Value) {
    let run = place.run([&["--json", "status"], args].concat());
    (run.code, run.json())
}

fn ago(hours: i64) -> String {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() - hours * 3600).unwrap().to_string()
}

#[test]
fn exit_codes() {
    let place = Place::with_repository();
    place.database("b.db", 10);
    assert_eq!(status(&place, &[]).0, Some(5), "nothing was ever backed up");
    place.ok(["backup", "sqlite", "a.db", "--time", &ago(25)]);
    let (code, document) = status(&place, &["--max-age", "26h"]);
    assert_eq!((code, &document["status"], &document["max_age_s"]), (Some(0), &"ok".into(), &93_600.into()));
    let age = document["sources"][0]["last_good"]["age_s"].as_i64().unwrap();
    assert!((90_000..90_600).contains(&age), "{age}");
    let (code, document) = status(&place, &["--max-age", "24h"]);
    assert_eq!((code, &document["status"], &document["sources"][0]["status"]), (Some(5), &"too-old".into(), &"too-old".into()));
    assert_eq!(status(&place, &[]).0, Some(0), "without --max-age no age is too high");

    // A flagged one does not make it younger; one source that is well does not hide another.
    let flagged = place.json(["backup", "sqlite", "a.db"])["snapshot"].as_str().unwrap().to_owned();
    assert_eq!(status(&place, &["--max-age", "24h"]).0, Some(0));
    place.ok(["mark", &flagged, "flag", "odd"]);
    place.ok(["backup", "sqlite", "b.db"]);
    let (code, document) = status(&place, &["--max-age", "24h"]);
    assert_eq!((code, document["sources"].as_array().unwrap().len()), (Some(5), 2));
    assert_eq!(document["sources"][0]["flagged_after"][0]["snapshot"], flagged.as_str());
    assert_eq!(document["sources"][1]["status"], "ok");
    assert_eq!(status(&place, &["--max-age", "24h", "--source", "b.db"]).0, Some(0));
    assert_eq!(status(&place, &["--source", "nothing"]).0, Some(5));
    // Only flagged ones are left.
    place.ok(["mark", &place.newest(), "flag", "odd"]);
    let (code, document) = status(&place, &["--source", "b.db"]);
    assert_eq!((code, &document["sources"][0]["status"]), (Some(5), &"no-good-snapshot".into()));
    assert_eq!(document["status"], "no-good-snapshot", "the worst state by its name");
    // One from the future is not believed.
    place.ok(["mark", &place.newest(), "accept"]);
    place.run(["backup", "sqlite", "b.db", "--time", "2200-01-01"]);
    let (code, document) = status(&place, &["--source", "b.db", "--max-age", "1h"]);
    assert_eq!((code, &document["sources"][0]["ahead"]), (Some(0), &1.into()));
    place.run(["status", "--max-age", "soon"]).failed(2, &["soon"]);
    place.run(["-R", "nowhere", "status"]).failed(10, &[]);
}

#[test]
fn what_people_read() {
    let place = Place::with_repository();
    assert_eq!(place.run(["status"]).stdout, "no snapshots\nno check in the journal\nno-good-snapshot\n");
    place.ok(["backup", "sqlite", "a.db"]);
    place.ok(["check"]);
    let text = place.ok(["status"]).stdout;
    assert!(
        text.contains("SOURCE") && text.contains("a.db") && text.contains("never") && text.ends_with("no damage found\nok\n"),
        "{text}"
    );
    place.ok(["restore", "latest", "--to", "out"]);
    std::fs::rename(place.path("a.db"), place.path("gone.db")).unwrap();
    place.run(["backup", "sqlite", "a.db"]).failed(1, &[]);
    let text = place.ok(["status"]).stdout;
    assert!(text.contains("ago (restore)") && text.contains("last backup failed, ") && text.contains("no such file"), "{text}");
    assert!(text.ends_with("\nok by age, but the last backup failed: a.db\n"), "{text}");
    assert_eq!(place.ok(["-q", "status"]).stdout, "");
    let run = place.run(["-q", "status", "--max-age", "0"]);
    assert!(run.code == Some(0) || run.stdout.ends_with("too-old\n"), "what is not well is said: {}", run.stdout);
}

#[test]
fn damage_is_4_until_a_check_finds_none() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let pack = place.stored("packs").pop().unwrap();
    let whole = std::fs::read(&pack).unwrap();
    std::fs::write(&pack, &whole[1..]).unwrap();
    assert_eq!(status(&place, &[]).0, Some(0), "nobody has looked");
    assert_eq!(place.run(["check"]).code, Some(4));
    let (code, document) = status(&place, &[]);
    assert_eq!((code, &document["status"], &document["last_check"]["outcome"]), (Some(4), &"damaged".into(), &"damaged".into()));
    std::fs::write(&pack, whole).unwrap();
    place.ok(["check"]);
    assert_eq!(status(&place, &[]).0, Some(0));
    let mut log = place.stored("log");
    log.sort();
    std::fs::write(&log[0], "damaged").unwrap();
    let (code, document) = status(&place, &[]);
    assert_eq!((code, document["unreadable"].as_array().unwrap().len()), (Some(4), 1));
}

/// Labels and value of the samples of each metric.
type Samples = BTreeMap<String, Vec<(BTreeMap<String, String>, f64)>>;

/// A line of the text exposition format: name, labels, value.
fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (name, rest) = line.split_once('{').unwrap();
    let (mut labels, mut rest) = (BTreeMap::new(), rest);
    while let Some((label, after)) = rest.split_once("=\"") {
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    other => panic!("{other} after a backslash: {line}"),
                }),
                (_, c) => value.push(c),
            }
        };
        labels.insert(label.to_owned(), value);
        rest = after[end + 1..].trim_start_matches(',');
    }
    (name.to_owned(), labels, rest.strip_prefix("} ").unwrap().parse().unwrap())
}

/// The samples of a textfile, which must be valid: each metric once, with HELP and TYPE before its samples, names and labels of the right
/// characters, and a line feed at the end.
fn samples(text: &str) -> Samples {
    let mut all = Samples::new();
    let (mut help, mut kind) = ("", "");
    let is_name = |name: &str| name.starts_with("icecore_") && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    assert!(text.ends_with('\n') && !text.contains("\n\n"));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap().0;
            assert!(is_name(help) && !all.contains_key(help), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.strip_suffix(" gauge").unwrap();
            assert_eq!(kind, help);
        } else {
            let (name, labels, value) = sample(line);
            assert_eq!(name, kind, "{line}");
            let found = all.entry(name).or_default();
            assert!(found.iter().all(|(other, _)| *other != labels), "twice: {line}");
            found.push((labels, value));
        }
    }
    all
}

#[test]
fn the_textfile_of_prometheus() {
    let place = Place::with_repository();
    let odd = "a \"quoted\\\" name\nof two lines";
    place.ok(["backup", "sqlite", "a.db", "--source", odd]);
    let write = |args: &[&str]| -> Run { place.run([&["status", "--prometheus", "out/icecore.prom"], args].concat()) };
    write(&[]).failed(1, &["icecore.prom", "textfile"]);
    std::fs::create_dir(place.path("out")).unwrap();
    assert_eq!(write(&[]).code, Some(0));
    let text = || std::fs::read_to_string(place.path("out/icecore.prom")).unwrap();
    let first = samples(&text());
    assert_eq!(first["icecore_source_ok"][0].0["source"], odd);
    assert!(!first.contains_key("icecore_last_check_ok"), "what is not known has no sample");
    assert_eq!((first["icecore_ok"][0].1, first["icecore_snapshots"][0].1), (1.0, 1.0));
    place.ok(["check"]);
    place.ok(["restore", "latest", "--to", "there"]);
    place.ok(["backup", "sqlite", "a.db"]);
    place.ok(["mark", "latest", "--source", "a.db", "flag", "odd"]);
    place.run(["backup", "sqlite", "gone.db", "--source", odd]).failed(1, &[]);
    // The file is written whatever the exit code, in one step, and nothing is left beside it.
    let run = write(&["--max-age", "1h"]);
    assert_eq!(run.code, Some(5), "{}", run.stderr);
    assert_eq!(std::fs::read_dir(place.path("out")).unwrap().count(), 1);
    let second = samples(&text());
    let of = |name: &str, source: &str| second[name].iter().find(|(labels, _)| labels["source"] == source).map(|(_, value)| *value);
    assert_eq!((of("icecore_source_ok", odd), of("icecore_source_ok", "a.db"), second["icecore_ok"][0].1), (Some(1.0), Some(0.0), 0.0));
    assert_eq!(of("icecore_flagged_snapshots_since_good", "a.db"), Some(1.0));
    assert!(of("icecore_last_verified_timestamp_seconds", odd) >= of("icecore_last_good_snapshot_timestamp_seconds", odd));
    assert_eq!(of("icecore_last_good_snapshot_timestamp_seconds", "a.db"), None);
    assert_eq!(second["icecore_last_check_ok"][0].1, 1.0);
    // Every name is documented, and no other.
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitoring.md")).unwrap();
    let documented: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("| `icecore_")?.split('`').next()).collect();
    let written: BTreeSet<&str> = second.keys().map(|name| name.strip_prefix("icecore_").unwrap()).collect();
    assert_eq!(documented, written);
}
