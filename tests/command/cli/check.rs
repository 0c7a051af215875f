//! `check` and `scrub`: arguments, what is said, exit codes.

use super::support::Place;

/// A repository with one snapshot whose newest pack is damaged.
fn damaged() -> Place {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    let pack = place.stored("packs").pop().unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    place
}

#[test]
fn findings_have_codes_and_exit_4() {
    let place = damaged();
    let run = place.run(["--json", "check", "--read-data"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let document = run.json();
    let findings = document["findings"].as_array().unwrap();
    let mut codes: Vec<&str> = findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect();
    codes.dedup();
    assert_eq!(codes, ["pack", "chunk", "stream"]);
    for finding in findings {
        assert_eq!(finding["severity"], "damage");
        assert!(finding["object"].is_string() && finding["detail"].is_string(), "{finding}");
    }
    assert_eq!(document["status"], "damaged");
    let help = place.ok(["check", "--help"]).stdout;
    assert!(codes.iter().all(|code| help.contains(&format!("  {code} "))), "{help}");
    let again = place.run(["check"]);
    assert_eq!(again.code, Some(4), "known damage stays known: {}", again.stdout);
    assert_eq!(place.run(["status"]).code, Some(4));
    let elsewhere = place.command().arg("check").env("ICECORE_CACHE_DIR", place.path("another cache")).output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(0), "another machine sees only that the structure is whole");
}

#[test]
fn the_page_has_all_codes() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/check-and-repair.md")).unwrap();
    for (code, says) in icecore::ops::check::CODES {
        assert!(page.contains(&format!("\n| `{code}` | {says} |\n")), "{code}");
    }
}

#[test]
fn damage_is_marked_if_asked_for() {
    let place = damaged();
    assert_eq!(place.run(["check", "--read-data"]).code, Some(4));
    assert_eq!(place.snapshots()[0]["flags"].as_array().unwrap().len(), 0);
    let run = place.run(["check", "--read-data", "--mark"]);
    assert_eq!(run.code, Some(4));
    assert!(run.stdout.contains("1 snapshot marked as damaged\n"), "{}", run.stdout);
    assert_eq!(place.snapshots()[0]["flags"].as_array().unwrap().len(), 1);
}

#[test]
fn a_part_and_a_time() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    let all = place.ok(["check", "--read-data", "--max-duration", "1h"]).stdout;
    assert!(all.contains("data known good: 100 % of packs ("), "{all}");
    let none = place.ok(["check"]).stdout;
    assert!(!none.contains("data known good"), "{none}");
    let drawn = place.ok(["check", "--read-data-subset", "1%"]).stdout;
    assert!(drawn.contains("packs drawn at random: --seed "), "{drawn}");
    assert!(!place.ok(["check", "--read-data-subset", "1/1"]).stdout.contains("seed"));
    for wrong in [
        &["check", "--read-data-subset", "2/1"][..],
        &["check", "--read-data-subset", "x"],
        &["check", "--max-duration", "1h"],
        &["check", "--read-data", "--max-duration", "soon"],
        &["check", "--seed", "1"],
    ] {
        place.run(wrong).failed(2, &[]);
    }
}

#[test]
fn scrub_needs_no_passphrase() {
    let place = Place::new();
    let made = place.command().args(["-R", "store", "init"]).env("ICECORE_PASSWORD", "p").output().unwrap();
    assert!(made.status.success());
    place.database("a.db", 100);
    let backed = place.command().args(["-R", "store", "backup", "sqlite", "a.db"]).env("ICECORE_PASSWORD", "p").output().unwrap();
    assert!(backed.status.success());
    let run = place.ok(["scrub", "store"]);
    assert!(run.stdout.contains("not checked"), "{}", run.stdout);
    assert!(run.stdout.ends_with("no damage found\n"), "{}", run.stdout);
    assert_eq!(place.ok(["-q", "-R", "store", "scrub"]).stdout, "");
    let mut packs = walkdir::WalkDir::new(place.path("store/packs")).into_iter().map(|entry| entry.unwrap().into_path());
    let pack = packs.find(|path| path.is_file()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes.pop();
    std::fs::write(&pack, bytes).unwrap();
    let run = place.run(["-q", "scrub", "store"]);
    assert_eq!(run.code, Some(4));
    assert!(run.stdout.contains("pack "), "{}", run.stdout);
    place.run(["scrub", "nowhere"]).failed(10, &[]);
}
