//! What a Rust program gets of an operation is what the command line prints of it, and both tell the journal alike.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use icecore::{
    BackupOptions, CommandSource, Environment, Keep, Key, Monitor, Outcome, Report, RestoreOptions, Rules, Settings, Silent, SqliteOptions,
    SqliteSource, Store,
};
use serde::Serialize;
use serde_json::Value;

use super::support::Place;

/// Saturday, 2026-11-28 00:00 UTC.
fn clock() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_824_000)
}

fn open(place: &Place, clock: fn() -> SystemTime) -> Store {
    let settings = Settings { user: "robot".into(), clock, ..Settings::new(place.path("library-cache"), "web1") };
    Store::open(&place.path(".icecore"), Key::None, settings).unwrap()
}

fn source(place: &Place) -> SqliteSource {
    SqliteSource::new(vec![("a.db".into(), place.path("a.db"))], SqliteOptions::default()).unwrap()
}

/// The document without what differs from run to run, read from its text: so are those that are printed, and numbers lose their last digit there.
fn document(report: &impl Serialize, without: &[&str]) -> Value {
    without_fields(serde_json::from_str(&serde_json::to_string(report).unwrap()).unwrap(), without)
}

fn without_fields(mut document: Value, without: &[&str]) -> Value {
    match &mut document {
        Value::Object(fields) => {
            fields.retain(|name, _| name != "schema" && !without.contains(&name.as_str()));
            fields.values_mut().for_each(|value| *value = without_fields(value.take(), without));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| *value = without_fields(value.take(), without)),
        _ => {}
    }
    document
}

#[test]
fn the_library_gives_what_the_command_line_prints() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let store = open(&place, SystemTime::now);
    store.backup(&source(&place), &BackupOptions::default(), &Silent).unwrap();
    let printed = |args: &[&str], without: &[&str]| without_fields(place.json(args), without);
    assert_eq!(document(&store.stats(&Silent).unwrap(), &[]), printed(&["stats"], &[]));
    assert_eq!(document(&store.log(None).unwrap(), &[]), printed(&["log"], &[]));
    let clocks = ["time", "age_s", "duration_ms", "oldest", "detail"];
    assert_eq!(document(&store.check(true, &Silent).unwrap(), &clocks), printed(&["check", "--read-data"], &clocks));
    let in_runs = ["time", "age_s", "detail", "host", "ahead"];
    assert_eq!(document(&store.status(None, &Silent).unwrap(), &in_runs), printed(&["status"], &in_runs));
    let newest = place.newest();
    let takes = ["duration_ms", "key_derivation_ms", "path"];
    let restored = store.snapshot(&newest).unwrap().restore(&place.path("one"), "kept", &RestoreOptions::default(), &Silent).unwrap();
    assert_eq!(document(&restored, &takes), printed(&["restore", &newest, "--to", "two"], &takes));
    let exported = store.snapshot(&newest).unwrap().export(&place.path("flat"), &Silent).unwrap();
    assert_eq!(document(&exported, &takes), printed(&["export", &newest, "flat2"], &takes));
    assert_eq!(document(&store.repair(&Silent).unwrap(), &[]), printed(&["repair"], &[]));
    // Files of what is unfinished come and go with the catalogs of others.
    assert_eq!(document(&store.prune(&Silent).unwrap(), &[]), printed(&["prune"], &[]));
}

/// Hears of warnings.
#[derive(Default)]
struct Ears(Mutex<Vec<String>>);

impl Monitor for Ears {
    fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
    fn cancelled(&self) -> bool {
        false
    }
}

#[test]
fn what_the_library_does_is_in_the_journal_by_its_host_user_and_clock() {
    let place = Place::with_repository();
    let store = open(&place, clock);
    let taken = store.backup(&source(&place), &BackupOptions::default(), &Silent).unwrap();
    assert_eq!((taken.outcome(), taken.flags.len(), taken.streams), (Outcome::Done, 0, 1));
    let command = vec!["sh".into(), "-c".into(), "exit 7".into()];
    let environment = Environment { variables: std::env::vars_os().collect(), os_user: None };
    let failing = CommandSource::new("failing".into(), command, environment).unwrap();
    store.backup(&failing, &BackupOptions::default(), &Silent).unwrap_err();
    let snapshot = store.snapshot("latest").unwrap();
    assert!(snapshot.restore(&place.path("out"), "kept", &RestoreOptions::default(), &Silent).unwrap().is_whole());
    snapshot.export(&place.path("flat"), &Silent).unwrap();
    let drilled = snapshot.drill(&place.path("staging"), &Silent).unwrap();
    assert!(drilled.passed && drilled.marked, "{:?}", drilled.failure());
    assert_eq!(snapshot.accept("as it should be").unwrap().snapshot.id.to_string(), snapshot.id());
    assert!(snapshot.protect(true).unwrap().snapshot.protected);
    store.check(false, &Silent).unwrap();
    store.repair(&Silent).unwrap();
    // Wrong arguments are not told.
    store.forget(&Rules::default(), &Silent).unwrap_err();
    let mut rules = Rules::default();
    rules.count[0] = Keep::Newest(1);
    let forgotten = store.forget_and_prune(&rules, &Silent).unwrap();
    assert_eq!((forgotten.kept, forgotten.forgotten, forgotten.prune.is_some(), forgotten.prune_failed.is_none()), (1, 0, true, true));
    store.prune(&Silent).unwrap();

    let log = place.json(["log"]);
    let entries = log["entries"].as_array().unwrap();
    let told: Vec<(&str, &str, u64)> = entries
        .iter()
        .map(|entry| (entry["operation"].as_str().unwrap(), entry["outcome"].as_str().unwrap(), entry["exit_code"].as_u64().unwrap()))
        .collect();
    let done = |operation: &'static str| (operation, "done", 0);
    let mut expected = vec![done("backup"), ("backup", "failed", 1)];
    expected.extend(["restore", "export", "drill", "mark", "mark", "check", "repair", "forget", "prune", "prune"].map(done));
    // All at one time by this clock, so in no order.
    let sorted = |mut all: Vec<_>| {
        all.sort();
        all
    };
    assert_eq!(sorted(told), sorted(expected));
    for entry in entries {
        assert_eq!((&entry["host"], &entry["user"], &entry["time"]), (&"web1".into(), &"robot".into(), &"2026-11-28T00:00:00Z".into()));
    }
    let of = |operation: &str, outcome: &str| {
        entries.iter().find(|entry| entry["operation"] == operation && entry["outcome"] == outcome).unwrap()
    };
    assert_eq!(of("backup", "done")["facts"], serde_json::json!({ "label": source_label(&log, &snapshot.id()), "kind": "sqlite" }));
    assert_eq!(
        (&of("backup", "failed")["facts"]["label"], &of("backup", "failed")["facts"]["kind"]),
        (&"failing".into(), &"command".into())
    );
    assert_eq!(of("check", "done")["facts"]["read_data"], "none");
    for operation in ["restore", "export", "drill", "mark"] {
        assert_eq!(of(operation, "done")["snapshots"], serde_json::json!([snapshot.id()]), "{operation}");
    }
}

/// The label that the entry of a backup begins with.
fn source_label(log: &Value, snapshot: &str) -> Value {
    let entries = log["entries"].as_array().unwrap();
    let entry = entries.iter().find(|entry| entry["operation"] == "backup" && entry["snapshots"][0] == snapshot).unwrap();
    entry["detail"].as_str().unwrap().rsplit_once(": ").unwrap().0.into()
}

#[test]
fn a_journal_that_the_library_cannot_write_is_a_warning() {
    let place = Place::with_repository();
    std::fs::remove_dir_all(place.path(".icecore/log")).unwrap();
    std::fs::write(place.path(".icecore/log"), "no directory").unwrap();
    let store = open(&place, clock);
    let ears = Ears::default();
    store.backup(&source(&place), &BackupOptions::default(), &ears).unwrap();
    let heard = ears.0.into_inner().unwrap();
    assert!(heard.iter().any(|line| line.starts_with("the journal could not be written: ")), "{heard:?}");
    assert_eq!(place.snapshots().len(), 1);
}
