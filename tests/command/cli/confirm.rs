//! Forgetting by rules asks on a terminal, and nowhere else.

use super::support::{Place, Run};

/// Runs the program on a terminal of its own and answers its question. Gives what the terminal has shown.
const ON_TERMINAL: &str = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
shown = b''
asked = False
while True:
    try:
        some = os.read(terminal, 4096)
    except OSError:
        some = b''
    if not some:
        break
    shown += some
    if b'[y/N]' in shown and not asked:
        asked = True
        os.write(terminal, sys.argv[1].encode())
sys.stdout.buffer.write(shown.replace(b'\\r\\n', b'\\n'))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

fn on_terminal(place: &Place, answer: &str, args: &[&str]) -> Run {
    let mut python = place.program("python3");
    python.args(["-c", ON_TERMINAL, answer, env!("CARGO_BIN_EXE_icecore")]).args(args).output().unwrap().into()
}

#[test]
fn rules_ask_on_a_terminal() {
    let place = Place::with_repository();
    let mut ids = Vec::new();
    for day in 1..=4 {
        let time = format!("2026-01-0{day}T12:00:00Z");
        ids.push(place.json(["backup", "sqlite", "a.db", "--time", &time])["snapshot"].as_str().unwrap().to_owned());
    }
    for answer in ["n\n", "\n", "maybe\n", "\u{4}"] {
        let run = on_terminal(&place, answer, &["forget", "--keep-last", "3"]);
        assert_eq!(run.code, Some(1), "{}", run.stdout);
        for shown in [&ids[0][..12], "Forget 1 snapshot? [y/N]", " nothing was forgotten"] {
            assert!(run.stdout.contains(shown), "{shown}: {}", run.stdout);
        }
    }
    let interrupted = on_terminal(&place, "\u{3}", &["forget", "--keep-last", "3"]);
    assert_eq!(interrupted.code, Some(130), "{}", interrupted.stdout);
    assert_eq!(place.snapshots().len(), 4);
    assert_eq!(place.json(["log"])["entries"].as_array().unwrap().len(), 4, "no entry of what was not done");
    let run = on_terminal(&place, "y\n", &["forget", "--keep-last", "3", "--prune"]);
    assert_eq!(run.code, Some(0), "{}", run.stdout);
    assert!(
        run.stdout.contains("Forget 1 snapshot and free the space? [y/N]") && run.stdout.contains("\n1 snapshot forgotten, 3 kept\n"),
        "{}",
        run.stdout
    );
    assert_eq!(run.stdout.matches(&ids[0][..12]).count(), 1, "the plan is shown once: {}", run.stdout);
    // No question where nothing would go, for a plan, with --yes, for ids, and with JSON.
    for (args, left) in [
        (&["forget", "--keep-last", "3"][..], 3),
        (&["forget", "--keep-last", "2", "--dry-run"], 3),
        (&["forget", "--keep-last", "2", "--yes"], 2),
        (&["forget", &ids[2]], 1),
    ] {
        let run = on_terminal(&place, "n\n", args);
        assert_eq!((run.code, run.stdout.contains("[y/N]"), place.snapshots().len()), (Some(0), false, left), "{args:?}: {}", run.stdout);
    }
    place.ok(["backup", "sqlite", "a.db"]);
    let run = on_terminal(&place, "n\n", &["--json", "forget", "--keep-last", "1"]);
    assert_eq!((run.code, place.snapshots().len()), (Some(0), 1), "{}", run.stdout);
    place.run(["forget", &ids[3], "--yes"]).failed(2, &["--yes"]);
}

/// As under cron.
#[test]
fn without_a_terminal_there_is_no_question() {
    let place = Place::with_repository();
    place.ok(["backup", "sqlite", "a.db"]);
    place.ok(["backup", "sqlite", "a.db"]);
    let run = place.ok(["forget", "--keep-last", "1"]);
    assert!(run.stdout.ends_with("1 snapshot forgotten, 1 kept\n") && run.stderr.is_empty(), "{}{}", run.stdout, run.stderr);
}
