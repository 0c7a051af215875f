//! What is printed where, and what happens if nobody reads it.

use std::process::Stdio;

use super::support::{Place, Run};

/// Runs it with a standard output that nobody reads.
fn unread(place: &Place, args: &[&str]) -> Run {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    place.command().args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap().into()
}

#[test]
fn a_reader_that_goes_away_ends_the_output_quietly() {
    let place = Place::with_repository();
    for args in [&["backup", "sqlite", "a.db"][..], &["snapshots"], &["--json", "ls", "latest"], &["check"], &["--help"]] {
        let run = unread(&place, args);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{args:?}");
    }
    assert_eq!(place.snapshots().len(), 1);
    let run = unread(&place, &["dump", "latest", "a.db"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(141), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    for args in [&["snapshots"][..], &["dump", "latest", "a.db"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let run: Run = place.command().args(args).stdout(full).stderr(Stdio::piped()).output().unwrap().into();
        run.failed(1, &["standard output", "No space left"]);
    }
}

#[test]
fn quiet_says_nothing_of_what_went_well_and_verbose_says_more() {
    let place = Place::new();
    for args in [&["-q", "init", "--no-encryption"][..], &["-q", "check"]] {
        let run = place.ok(args);
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{args:?}");
    }
    place.database("a.db", 10);
    let run = place.ok(["-v", "backup", "sqlite", "a.db"]);
    assert!(run.stderr.contains("reading ") && run.stderr.contains("committing"), "{}", run.stderr);
    let run = place.ok(["-q", "restore", "latest", "--to", "out"]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
}

#[test]
fn a_dump_is_the_bytes_and_nothing_else() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    let output = place.command().args(["-v", "dump", "latest", "a.db"]).output().unwrap();
    assert_eq!(output.stdout, std::fs::read(place.path("a.db")).unwrap());
}

#[test]
fn every_help_has_an_example() {
    let place = Place::new();
    let commands: [&[&str]; 12] = [
        &[],
        &["init"],
        &["backup"],
        &["backup", "sqlite"],
        &["backup", "files"],
        &["snapshots"],
        &["show"],
        &["ls"],
        &["stats"],
        &["restore"],
        &["dump"],
        &["check"],
    ];
    for command in commands {
        let run = place.ok(command.iter().chain(&["--help"]));
        assert!(run.stdout.contains("\nExample") && run.stdout.contains("\n  icecore "), "{command:?}: {}", run.stdout);
        let first = run.stdout.lines().next().unwrap();
        assert!(first.len() > 10 && !first.starts_with("Usage") && !first.contains("narrow"), "{command:?}: {first}");
    }
    assert!(place.ok(["--version"]).stdout.starts_with("icecore "));
}
