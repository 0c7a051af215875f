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
    let a = |name: &'static str| [name, "--source", "a.db"];
    assert_eq!(found(&a("latest")), ids[1]);
    assert_eq!(found(&a("latest~1")), ids[0]);
    assert_eq!(found(&[&ids[1]]), ids[1]);
    assert_eq!(found(&[&ids[1][..12]]), ids[1]);
    assert_eq!(found(&a("@2026-01-02")), ids[0]);
    assert_eq!(found(&a("@2026-01-02T12:00:00Z")), ids[1]);
    assert_eq!(found(&["latest", "--tag", "y"]), ids[1]);
    place.run([&["show"], &a("latest~2")[..]].concat()).failed(1, &["only 2 good snapshots of source `a.db`", "latest~1 is the oldest"]);
    place
        .run([&["show"], &a("@2025-12-31")[..]].concat())
        .failed(1, &["at or before 2025-12-31T00:00:00Z", "the oldest one is", &ids[0][..12]]);
    place.run(["show", "latest", "--host", "elsewhere"]).failed(1, &["there is no snapshot of host `elsewhere`"]);
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

#[test]
fn several_sources_are_listed_in_a_form_that_can_be_pasted() {
    let place = Place::with_repository();
    std::fs::create_dir_all(place.path("srv/app/two words")).unwrap();
    std::fs::write(place.path("srv/app/file"), "x").unwrap();
    place.database("srv/app/two words/b.db", 5);
    for args in [
        &["sqlite", "a.db"][..],
        &["files", "srv/app"],
        &["sqlite", "srv/app/two words/b.db"],
        &["sqlite", "a.db", "--source", "it's"],
        &["command", "--name", "words", "--source", "twice", "--", "echo", "x"],
        &["sqlite", "a.db", "--source", "twice"],
    ] {
        place.ok([&["backup"], args].concat());
    }
    let ids: Vec<String> = place.snapshots().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect();
    for command in
        ["show latest", "ls latest", "dump latest a.db", "restore latest --to out", "export latest out", "drill latest", "protect latest"]
    {
        let run = place.run(command.split(' '));
        run.failed(2, &["6 sources", "--source a.db ", "--source srv/app ", "--source 'srv/app/two words/b.db' ", "--source 'it'\\''s' "]);
        assert!(!run.stderr.contains("--source twice"), "it means two: {}", run.stderr);
    }
    place.run(["show", "@2200-01-01"]).failed(2, &["--source a.db "]);
    place.run(["log", "--snapshot", "latest"]).failed(2, &["--source a.db "]);
    place.run(["forget", "latest", "--force"]).failed(2, &["--source a.db "]);
    assert!(!place.path("out").exists());
    // Every option that is listed means one source.
    let listed = place.run(["show", "latest"]).stderr;
    let options: Vec<&str> = listed.lines().filter_map(|line| line.trim_start().strip_prefix("--source ")?.split("  ").next()).collect();
    assert_eq!(options.len(), 6, "{listed}");
    let mut found: Vec<String> = Vec::new();
    for option in options {
        let line = format!("{} --json show latest --source {option}", env!("CARGO_BIN_EXE_icecore"));
        let output = place.program("sh").args(["-c", &line]).output().unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{line}: {e}: {output:?}"));
        found.push(shown["snapshot"]["id"].as_str().unwrap().to_owned());
    }
    found.sort();
    let mut all = ids.clone();
    all.sort();
    assert_eq!(found, all);
    // By a path, by the last part of one, by the start of the id of the source; not by a few digits, which could be a name.
    let of = |source: &str| place.json(["show", "latest", "--source", source])["snapshot"]["id"].as_str().unwrap().to_owned();
    let source = place.json(["show", &ids[1]])["snapshot"]["source"]["id"].as_str().unwrap().to_owned();
    assert_eq!((of("srv/app"), of("app"), of(&source[..8])), (ids[1].clone(), ids[1].clone(), ids[1].clone()));
    place.run(["show", "latest", "--source", &source[..3]]).failed(1, &["there is no snapshot of source"]);
    place.run(["show", "latest", "--source", "srv/appx"]).failed(1, &["did you mean `srv/app`?"]);
    assert_eq!(place.ok(["snapshots", "--source", "app"]).stdout.lines().last(), Some("1 snapshot"));
    for args in [&["snapshots"][..], &["forget", "--keep-last", "1"]] {
        let run = place.ok([args, &["--source", "srv/appx"]].concat());
        assert_eq!(run.stderr, "warning: no snapshot is of source `srv/appx`; did you mean `srv/app`?\n");
    }
    assert_eq!(place.json(["forget", "--keep-last", "1", "--source", "twice", "--dry-run"])["kept"], 2, "a name goes before a short name");
}

#[test]
fn latest_passes_over_flagged_snapshots() {
    let place = Place::with_repository();
    let mut ids = Vec::new();
    for day in 1..=4 {
        let time = format!("2026-01-0{day}T12:00:00Z");
        ids.push(place.json(["backup", "sqlite", "a.db", "--time", &time])["snapshot"].as_str().unwrap().to_owned());
    }
    let found = |snap: &str| place.json(["show", snap])["snapshot"]["id"].as_str().unwrap().to_owned();
    assert_eq!((found("latest"), found("latest~1")), (ids[3].clone(), ids[2].clone()));
    for id in [&ids[3], &ids[1]] {
        place.ok(["mark", id, "flag", "odd"]);
    }
    assert_eq!((found("latest"), found("latest~1"), found("@2026-01-03")), (ids[2].clone(), ids[0].clone(), ids[0].clone()));
    let run = place.ok(["restore", "latest", "--to", "out"]);
    assert!(
        run.stderr.contains(&format!("1 newer snapshot is flagged and passed over, the newest is {} (by-user)", &ids[3][..12])),
        "{}",
        run.stderr
    );
    assert!(run.stdout.contains(&ids[2][..12]), "{}", run.stdout);
    assert_eq!(place.ok(["show", "latest~1"]).stderr.matches("passed over").count(), 1);
    assert_eq!(place.ok(["show", &ids[3]]).stderr, "", "an id means any snapshot");
    place.run(["show", "latest~2"]).failed(1, &["only 2 good snapshots", "latest~1 is the oldest", "2 more, flagged"]);
    // What is accepted has to be named.
    place.run(["mark", "latest", "accept"]).failed(2, &[&ids[2][..12], "give the id of the flagged one"]);
    for id in [&ids[2], &ids[0]] {
        place.ok(["mark", id, "flag", "odd"]);
    }
    let accept = format!("icecore mark {} accept", &ids[3][..12]);
    for snap in ["latest", "latest~1"] {
        place
            .run(["restore", snap, "--to", "other"])
            .failed(1, &["no good snapshot", "is flagged (by-user)", "Take it by its id", &accept]);
    }
    place.run(["show", "@2026-01-02"]).failed(1, &["no good snapshot at or before 2026-01-02T00:00:00Z", &ids[0][..12]]);
    place.ok(accept.split(' ').skip(1));
    assert_eq!(found("latest"), ids[3]);
}

#[test]
fn times_as_people_say_them() {
    let place = Place::with_repository();
    let now = jiff::Timestamp::now().as_second();
    let mut ids = Vec::new();
    for hours_ago in [80, 30, 10, 1] {
        let time = jiff::Timestamp::from_second(now - hours_ago * 3600).unwrap().to_string();
        ids.push(place.json(["backup", "sqlite", "a.db", "--time", &time])["snapshot"].as_str().unwrap().to_owned());
    }
    let found = |snap: &str| place.json(["show", snap])["snapshot"]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        [found("@-5m"), found("@-2h"), found("@-20h"), found("@-2d")],
        [ids[3].clone(), ids[2].clone(), ids[1].clone(), ids[0].clone()]
    );
    assert_eq!(found("@today"), ids[3]);
    // Whatever the clock shows: the newest one that is not of today.
    let midnight = now - now.rem_euclid(86_400);
    let of_before = [80, 30, 10, 1].iter().filter(|hours| now - **hours * 3600 < midnight).count();
    assert_eq!(found("@yesterday"), ids[of_before - 1]);
    assert!(ids.contains(&found("@23:59")) && ids.contains(&found("@00:00")));
    place.run(["show", "@noon"]).failed(2, &["\"noon\" is not a time", "12:30", "yesterday", "-3h", "2026-11-23 03:15"]);
    place.run(["log", "--since", "tomorrow"]).failed(2, &["not a time", "yesterday"]);
    assert_eq!(place.json(["log", "--since", "yesterday"])["entries"].as_array().unwrap().len(), 4);
}
