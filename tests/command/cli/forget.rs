//! `forget`, `protect` and `mark`: exit codes, JSON, and what is said.

use serde_json::Value;

use super::support::Place;

/// Snapshots at noon of the first days of 2026.
fn days(count: usize) -> (Place, Vec<String>) {
    let place = Place::with_repository();
    let take = |day| {
        place.json(["backup", "sqlite", "a.db", "--time", &format!("2026-01-{day:02}T12:00:00Z")])["snapshot"].as_str().unwrap().to_owned()
    };
    let ids = (1..=count).map(take).collect();
    (place, ids)
}

fn listed(place: &Place) -> Vec<String> {
    place.snapshots().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

fn ids_of(decisions: &Value) -> Vec<&str> {
    decisions.as_array().unwrap().iter().map(|decision| decision["snapshot"]["id"].as_str().unwrap()).collect()
}

#[test]
fn by_rules_first_shown_then_done() {
    let (place, ids) = days(6);
    assert_eq!(place.json(["protect", &ids[0]])["snapshot"]["protected"], true);
    assert_eq!(place.json(["mark", &ids[1], "tag", "x", "y"])["snapshot"]["tags"], serde_json::json!(["x", "y"]));
    let flagged = place.json(["mark", "latest", "flag", "taken too early"]);
    assert_eq!(flagged["snapshot"]["flags"], serde_json::json!([{ "code": "by-user", "detail": "taken too early" }]));
    assert_eq!(flagged["being_forgotten"], false);
    let rules = ["forget", "--keep-daily", "2", "--keep-tag", "x,y"];
    let plan = place.json([&rules[..], &["--dry-run"]].concat());
    assert_eq!(listed(&place), ids, "a dry run does nothing");
    let group = &plan["groups"][0];
    assert_eq!((group["host"].is_null(), group["source"].is_string(), group["tags"].is_null()), (true, true, true));
    assert_eq!(ids_of(&group["keep"]), [0, 1, 3, 4, 5].map(|n| &ids[n]));
    assert_eq!(ids_of(&group["forget"]), [&ids[2]]);
    let reasons: Vec<&Value> = group["keep"].as_array().unwrap().iter().map(|decision| &decision["reasons"]).collect();
    let expected = [
        &["protected"][..],
        &["tag x,y"],
        &["daily"],
        &["daily", "newest good one of its source"],
        &["daily", "flagged, newest one of its source"],
    ];
    assert_eq!(reasons, expected.map(|words| Value::from(words.to_vec())).iter().collect::<Vec<_>>());
    assert_eq!((&plan["dry_run"], &plan["kept"], &plan["forgotten"]), (&true.into(), &5.into(), &1.into()));
    assert_eq!((&plan["spared"], &plan["unreadable"]), (&serde_json::json!([]), &serde_json::json!([])));
    let text = place.ok([&rules[..], &["-n", "-q"]].concat()).stdout;
    assert!(text.contains("protected") && text.ends_with("1 snapshot would be forgotten, 5 kept\n"), "{text}");
    let done = place.json(rules);
    assert_eq!((&done["dry_run"], &done["forgotten"], &done["groups"]), (&false.into(), &1.into(), &plan["groups"]));
    assert_eq!(listed(&place), [0, 1, 3, 4, 5].map(|n| ids[n].clone()));
    let list = place.ok(["snapshots"]).stdout;
    assert!(list.contains("  protected\n") && list.contains("  x,y  ") && list.contains("  by-user\n"), "{list}");
    assert!(place.ok(["show", &ids[0]]).stdout.contains("\nprotected yes\n"));
    place.ok(["restore", &ids[3], "--to", "out"]);
    assert!(place.ok(["check", "--read-data"]).stdout.ends_with("no damage found\n"));
}

#[test]
fn by_name() {
    let (place, ids) = days(4);
    place.ok(["protect", &ids[0]]);
    let refused = |args: &[&str], words: &[&str]| {
        place.run([&["forget"], args].concat()).failed(1, words);
        assert_eq!(listed(&place), ids);
    };
    refused(&[&ids[1], &ids[0]], &["nothing was forgotten", "protected", "icecore protect", "--off"]);
    refused(&[&ids[0], "--force"], &["protected"]);
    refused(&["latest"], &["newest good one of its source", "--force"]);
    refused(&["abcdef"], &["snapshot abcdef not found"]);
    let done = place.ok(["forget", &ids[1], &ids[2][..12]]);
    assert!(done.stdout.ends_with("2 snapshots forgotten, 0 kept\n"), "{}", done.stdout);
    assert_eq!(listed(&place), [ids[0].clone(), ids[3].clone()]);
    assert_eq!(place.ok(["-q", "forget", "latest", "--force"]).stdout, "");
    let off = place.ok(["protect", &ids[0], "--off"]);
    assert_eq!(off.stdout, format!("snapshot {}: flags none; tags none\n", &ids[0][..12]));
    assert_eq!(place.json(["forget", &ids[0], "--force"])["forgotten"], 1);
    assert!(listed(&place).is_empty());
}

#[test]
fn space_is_freed_in_the_same_breath() {
    let (place, ids) = days(4);
    for wrong in [&["--prune", "--dry-run"][..], &["--grace", "0"], &["--prune", "--grace", "soon"]] {
        place.run([&["forget", "--keep-last", "1"], wrong].concat()).failed(2, &[]);
    }
    let done = place.json(["forget", &ids[0], "--prune"]);
    assert_eq!((&done["forgotten"], &done["prune"]["deleted_packs"]), (&1.into(), &0.into()), "the grace time is not over: {done}");
    place.database("b.db", 500);
    place.ok(["backup", "sqlite", "b.db"]);
    let before = place.stored("packs").len();
    let done = place.ok(["forget", "latest", "--source", "b.db", "--force", "--prune", "--grace", "0"]).stdout;
    assert!(done.contains("1 snapshot forgotten, 0 kept\n") && done.contains(" deleted ("), "{done}");
    assert!(place.stored("packs").len() < before);
    place.ok(["check", "--read-data"]);
    let entries = place.json(["log"])["entries"].as_array().unwrap().clone();
    let told: Vec<&str> = entries.iter().filter_map(|entry| entry["operation"].as_str()).filter(|word| *word != "backup").collect();
    assert_eq!(told, ["forget", "prune", "forget", "prune", "check"]);
}

/// What was forgotten is told although what comes after it fails.
#[test]
fn a_prune_that_fails_after_it_is_told_apart() {
    let (place, ids) = days(2);
    // Only prune looks there.
    let pending = place.path(".icecore/pending");
    std::fs::remove_dir_all(&pending).unwrap();
    std::fs::write(&pending, "no directory").unwrap();
    let run = place.run(["--json", "forget", &ids[0], "--prune"]);
    assert_eq!(
        (run.code, &run.json()["forgotten"], &run.json()["prune"]),
        (Some(3), &1.into(), &serde_json::Value::Null),
        "{}",
        run.stderr
    );
    assert_eq!(listed(&place), [ids[1].clone()]);
}

#[test]
fn accepting_clears_flags() {
    let (place, ids) = days(2);
    place.ok(["mark", "latest", "flag", "odd"]);
    place.ok(["mark", &place.newest(), "accept", "looked at it"]);
    let show = place.json(["show", "latest"]);
    assert_eq!((&show["snapshot"]["flags"], &show["snapshot"]["accepted"][0]["detail"]), (&serde_json::json!([]), &"odd".into()));
    assert!(place.ok(["show", "latest"]).stdout.contains("\naccepted  by-user: odd\n"));
    assert_eq!(place.json(["backup", "sqlite", "a.db"])["parent"], ids[1].as_str());
    place.ok(["mark", &ids[0], "tag", "old"]);
    assert_eq!(place.json(["show", "latest", "--tag", "old"])["snapshot"]["id"], ids[0].as_str());
    place.ok(["mark", &ids[0], "untag", "old"]);
    place.run(["show", "latest", "--tag", "old"]).failed(1, &["no snapshot with tag `old`"]);
}

#[test]
fn usage() {
    let (place, ids) = days(2);
    let wrong: &[&[&str]] = &[
        &["forget"],
        &["forget", "--dry-run"],
        &["forget", "--tag", "x"],
        &["forget", "--keep-last", "0"],
        &["forget", "--keep-last", "few"],
        &["forget", "--keep-last", "-1"],
        &["forget", "--keep-last", "1", "latest"],
        &["forget", "--keep-last", "1", "--force"],
        &["forget", "--keep-within", "1w"],
        &["forget", "--keep-within", ""],
        &["forget", "--keep-tag", ""],
        &["forget", "--keep-last", "1", "--group-by", "path"],
        &["forget", "--keep-last", "1", "--time-zone", "Nowhere/Nothing"],
        &["forget", "--force"],
        &["protect"],
        &["mark", "latest"],
        &["mark", "latest", "flag"],
        &["mark", "latest", "flag", &"x".repeat(70_000)],
        &["mark", "latest", "tag"],
        &["mark", "latest", "tag", ""],
        &["mark", "latest", "praise"],
    ];
    for args in wrong {
        place.run(*args).failed(2, &[]);
    }
    assert_eq!(listed(&place), ids);
    place.ok([
        "forget",
        "--keep-daily",
        "unlimited",
        "--keep-within-weekly",
        "2y",
        "--time-zone",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "--group-by",
        "tags",
    ]);
    assert_eq!(listed(&place), ids);
    let help = place.ok(["forget", "--help"]).stdout;
    assert!(help.contains("Examples:") && help.contains("--keep-within-hourly"), "{help}");
}

#[test]
fn what_cannot_be_read_stays_and_is_4() {
    let (place, ids) = days(3);
    place.ok(["mark", &ids[0], "tag", "x"]);
    std::fs::write(&place.stored("marks")[0], "nothing").unwrap();
    let run = place.run(["--json", "forget", "--keep-last", "1"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    assert_eq!(listed_with_damage(&place), [ids[0].clone(), ids[2].clone()]);
    assert_eq!(run.json()["unreadable"].as_array().unwrap().len(), 1);
    let check = place.run(["check"]);
    assert!(check.code == Some(4) && check.stdout.contains("mark"), "{}", check.stdout);
}

fn listed_with_damage(place: &Place) -> Vec<String> {
    let list = place.run(["--json", "snapshots"]);
    assert_eq!(list.code, Some(4));
    list.json()["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}
