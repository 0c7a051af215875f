//! A command runs once, also where a backup starts over because the repository turns out damaged.

use std::process::Stdio;

use super::support::{Place, Run};

/// Rows that take little room when they are stored.
fn rows(changed: usize) -> String {
    let text = "the quick brown fox jumps over the lazy dog, again and again, in a row of a table that hardly changes ".repeat(2);
    (0..110_000).map(|number| format!("{number}\t{}{text}\n", if number == changed { "other " } else { "" })).collect()
}

/// The command counts its runs, and its output begins with their number.
const SCRIPT: &str = "echo run >> runs; wc -l < runs; cat data";

/// With a snapshot of the command, whose packs were then damaged where their chunks are.
fn damaged() -> Place {
    let place = Place::with_repository();
    std::fs::write(place.path("data"), rows(usize::MAX)).unwrap();
    place.ok(["backup", "command", "--name", "out", "--", "sh", "-c", SCRIPT]);
    for path in place.stored("packs") {
        let mut bytes = std::fs::read(&path).unwrap();
        let body = bytes.len() * 7 / 10;
        bytes[200..body].iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes).unwrap();
    }
    std::fs::write(place.path("data"), rows(50_000)).unwrap();
    place
}

fn runs(place: &Place) -> usize {
    std::fs::read_to_string(place.path("runs")).unwrap().lines().count()
}

#[test]
fn a_backup_that_starts_over_takes_the_output_that_it_has() {
    let place = damaged();
    let run = place.ok(["backup", "command", "--name", "out", "--", "sh", "-c", SCRIPT]);
    assert!(run.stderr.contains("starting again"), "{}", run.stderr);
    assert_eq!(runs(&place), 2);
    let expected = format!("2\n{}", rows(50_000));
    assert!(place.ok(["dump", "latest", "out"]).stdout == expected);
    assert_eq!(place.snapshots().len(), 2);
}

/// Where there is no room to keep the output there is no snapshot; and the next backup knows what is damaged.
#[test]
fn a_backup_that_cannot_keep_the_output_fails() {
    let place = damaged();
    // Packs of these rows are smaller than this limit, and what is kept of the output is larger.
    let text = format!("ulimit -f 8000; exec \"$0\" backup command --name out -- sh -c '{SCRIPT}'");
    let mut command = place.program("sh");
    command.args(["-c", &text, env!("CARGO_BIN_EXE_icecore")]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run: Run = command.output().unwrap().into();
    run.failed(1, &["does not run twice for one snapshot", "run the backup again"]);
    assert_eq!((runs(&place), place.snapshots().len()), (2, 1));
    assert!(place.stored("pending").is_empty());
    place.ok(["backup", "command", "--name", "out", "--", "sh", "-c", SCRIPT]);
    assert_eq!(runs(&place), 3);
    assert!(place.ok(["dump", "latest", "out"]).stdout == format!("3\n{}", rows(50_000)));
}
