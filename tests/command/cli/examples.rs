//! The programs in examples/, run as their users would.

use std::path::Path;
use std::process::{Command, Output};

use super::support::Place;

/// Runs an example beside the program under test, where cargo builds it for the tests.
fn example(place: &Place, name: &str, args: &[&str]) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_icecore")).parent().unwrap().join("examples").join(name);
    let mut command = Command::new(program);
    command.args(args).current_dir(place.path("")).env("ICECORE_PASSWORD", "example").env("TMPDIR", place.path(""));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn examples_back_up_verify_and_compare() {
    let place = Place::new();
    place.database("app.db", 300);
    let text = |output: Output| String::from_utf8(output.stdout).unwrap();
    let made = text(example(&place, "scheduled_backup", &["app.db", "store", "0", "1"]));
    assert!(made.starts_with("snapshot ") && made.lines().count() == 1, "{made}");
    rusqlite::Connection::open(place.path("app.db")).unwrap().execute_batch("CREATE TABLE later(a)").unwrap();
    example(&place, "scheduled_backup", &["app.db", "store", "0", "1"]);
    assert_eq!(text(example(&place, "verify_restore", &["store", "out"])), "app.db: ok\n");
    let compared = text(example(&place, "compare_snapshots", &["store"]));
    let lines: Vec<&str> = compared.lines().collect();
    assert_eq!(lines.len(), 3, "{compared}");
    assert!(lines[0].contains(" sqlite "), "{compared}");
    assert!(lines[2].starts_with("app.db: differs from byte "), "{compared}");
}
