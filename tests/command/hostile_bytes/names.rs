//! Texts in records: too long for lists, or made to look like something else.

use std::fs;

use icecore::store::format::record;
use icecore::store::format::snapshot::SnapshotRecord;

use super::support::Place;

/// Puts a changed copy of the only snapshot's record beside it, as the host of an unencrypted repository can.
fn forge(place: &Place, change: impl FnOnce(&mut SnapshotRecord)) {
    let file = &place.stored("snapshots")[0];
    let stored = fs::read(file).unwrap();
    let mut snapshot: SnapshotRecord = record::decode(&stored[48..]).unwrap();
    change(&mut snapshot);
    let forged = [&stored[..48], &record::encode(&snapshot).unwrap()].concat();
    let (source, _) = file.file_name().unwrap().to_str().unwrap().split_once('-').unwrap();
    fs::write(file.with_file_name(format!("{source}-{}", blake3::hash(&forged).to_hex())), forged).unwrap();
}

#[test]
fn texts_that_are_too_long_are_damage_and_stop_nobody() {
    let changes: [fn(&mut SnapshotRecord); 4] = [
        |snapshot| snapshot.source.label = "l".repeat(70_000),
        |snapshot| snapshot.tags = vec!["t".repeat(70_000)],
        |snapshot| snapshot.tags = vec!["t".into(); 70_000],
        |snapshot| snapshot.host = "h".repeat(70_000),
    ];
    for change in changes {
        let place = Place::without_parity();
        place.ok(["backup", "sqlite", "a.db"]);
        forge(&place, change);
        for args in [&["snapshots"][..], &["status"], &["forget", "--keep-last", "1", "--dry-run"], &["show", "latest"]] {
            let run = place.run(args);
            assert!([Some(0), Some(4)].contains(&run.code) && run.stderr.contains("at most"), "{args:?}: {:?} {}", run.code, run.stderr);
        }
    }
}

#[test]
fn texts_that_are_too_long_are_not_stored() {
    let place = Place::without_parity();
    for args in [["--tag", &"t".repeat(2000)], ["--source", &"s".repeat(5000)]] {
        place.run(["backup", "sqlite", "a.db"].into_iter().chain(args)).failed(2, &["nothing was stored", "too long"]);
    }
    place.run(["backup", "sqlite", "a.db", "--source", ""]).failed(2, &["nothing was stored", "the name of the source is empty"]);
    assert!(place.stored("snapshots").is_empty() && place.stored("packs").is_empty());
    place.ok(["backup", "sqlite", "a.db"]);
    place.run(["mark", "latest", "tag", &"t".repeat(2000)]).failed(2, &["at most"]);
}

#[test]
fn what_is_shown_stays_on_its_line_and_in_its_order() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    let bad = "x\nerror: all is well\r\u{202e}\u{2066}\u{200f}\u{9b}";
    forge(&place, |snapshot| {
        (snapshot.source.label, snapshot.host, snapshot.user) = (bad.into(), bad.into(), bad.into());
        snapshot.tags = vec![bad.into()];
        snapshot.time_ns += 1;
        snapshot.facts.push((bad.into(), bad.into()));
    });
    let commands: [&[&str]; 7] = [
        &["snapshots"],
        &["show", "latest"],
        &["status"],
        &["--json", "snapshots"],
        &["--json", "show", "latest"],
        &["forget", "--keep-last", "1", "--dry-run"],
        &["snapshots", "--source", "y"],
    ];
    for args in commands {
        let run = place.run(args);
        let text = run.stdout + &run.stderr;
        let acts = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{2066}\u{200f}".contains(c);
        assert!(!text.contains(acts), "{args:?}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("error: all is well")), "{args:?}: {text}");
    }
}
