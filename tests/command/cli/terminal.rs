//! What is printed on a terminal: its width, its colours, relative times. Elsewhere nothing is shortened or coloured.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use super::support::{Place, Run};

/// Runs a program whose standard output is a pseudo-terminal with so many columns, and prints what it wrote there.
const ON_TERMINAL: &str = "\
import fcntl, os, pty, struct, subprocess, sys, termios
master, slave = pty.openpty()
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 25, int(sys.argv[1]), 0, 0))
attributes = termios.tcgetattr(slave)
attributes[1] &= ~termios.OPOST
termios.tcsetattr(slave, termios.TCSANOW, attributes)
child = subprocess.Popen(sys.argv[2:], stdout=slave)
os.close(slave)
while True:
    try:
        read = os.read(master, 65536)
    except OSError:
        break
    if not read:
        break
    sys.stdout.buffer.write(read)
sys.exit(child.wait())
";

/// A long name without a space, and one that is a path.
const LONG_NAME: &str = "the-source-with-a-name-that-nobody-wants-to-type-but-somebody-chose";
const DEEP: &str = "a/path/of/many/parts/that/goes/deeper/than/any/terminal/is/wide/and/still/a/bit/further";

fn on_terminal(place: &Place, columns: u32, environment: &[(&str, &str)], args: &[&str]) -> Run {
    let mut command = place.program("python3");
    command.args(["-c", ON_TERMINAL, &columns.to_string(), env!("CARGO_BIN_EXE_icecore")]).args(args);
    command.env_remove("COLUMNS").env_remove("NO_COLOR").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE").env("TERM", "xterm");
    command.envs(environment.iter().copied()).stdin(Stdio::null());
    Run::from(command.output().unwrap())
}

/// The text without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').expect("a colour").1)
}

/// Long names, paths, tags, large numbers, flags, failures, damage.
fn with_history() -> Place {
    let place = Place::without_parity();
    std::fs::create_dir_all(place.path(DEEP)).unwrap();
    place.database(format!("{DEEP}/memory.db"), 3000);
    std::fs::write(place.path(DEEP).join("file"), "x").unwrap();
    let tree = ["backup", "files", "a", "--source", LONG_NAME, "--tag", "nightly", "--tag", "before-the-great-migration"];
    place.ok(tree);
    place.database("b.db", 10);
    place.ok(["backup", "sqlite", "a.db", "b.db", "--host", "a-machine-with-a-long-name.example.org"]);
    place.ok([
        "mark",
        &newest(&place),
        "flag",
        "taken while the migration was running, and not to be relied upon by anybody who reads this",
    ]);
    place.run(["backup", "sqlite", "gone.db", "--source", LONG_NAME]).failed(1, &[]);
    place.ok(tree);
    place.ok(["protect", "latest", "--source", LONG_NAME]);
    place
}

fn newest(place: &Place) -> String {
    place.snapshots().last().unwrap()["id"].as_str().unwrap().to_owned()
}

fn flip(place: &Place, number: usize) {
    let mut packs = place.stored("packs");
    packs.sort_by_key(|pack| std::cmp::Reverse(pack.metadata().unwrap().len()));
    let file = std::fs::File::options().write(true).open(&packs[number]).unwrap();
    file.write_all_at(&[0xee; 64], packs[number].metadata().unwrap().len() / 2).unwrap();
}

#[track_caller]
fn fits(run: &Run, columns: usize) {
    for line in plain(&run.stdout).lines() {
        assert!(line.chars().count() <= columns, "{} columns: {line:?} in\n{}", line.chars().count(), run.stdout);
        assert_eq!(line, line.trim_end(), "blanks at the end");
    }
}

#[test]
fn every_table_fits_the_terminal() {
    let place = with_history();
    let ids: Vec<String> = place.snapshots().iter().map(|one| one["id"].as_str().unwrap()[..12].to_owned()).collect();
    // The tree's: another source gets the same name below.
    let tree = ids.last().unwrap().as_str();
    let commands: [&[&str]; 11] = [
        &["snapshots"],
        &["show", tree],
        &["ls", tree, "--tables"],
        &["stats"],
        &["status"],
        &["log"],
        &["check", "--read-data"],
        &["forget", "--keep-daily", "7", "--dry-run"],
        &["prune", "--dry-run"],
        &["drill", tree, "--no-mark"],
        &["backup", "sqlite", "a.db", "--source", LONG_NAME],
    ];
    for columns in [80, 50] {
        for args in commands {
            let run = on_terminal(&place, columns, &[], args);
            // The flagged source has no good snapshot.
            let expected = if args == ["status"] { 5 } else { 0 };
            assert_eq!(run.code, Some(expected), "{args:?}: {}{}", run.stdout, run.stderr);
            fits(&run, columns as usize);
        }
        let list = plain(&on_terminal(&place, columns, &[], &["snapshots"]).stdout);
        assert!(ids.iter().all(|id| list.contains(id.as_str())), "ids are whole: {list}");
    }
    flip(&place, 0);
    flip(&place, 1);
    for args in [&["check", "--read-data"][..], &["repair", "--dry-run"], &["scrub"], &["status"]] {
        let run = on_terminal(&place, 80, &[], args);
        assert_eq!(run.code, Some(4), "{args:?}: {}", run.stdout);
        fits(&run, 80);
    }
}

#[test]
fn a_pipe_gets_all_of_it() {
    let place = with_history();
    let list = place.ok(["snapshots"]).stdout;
    assert!(list.contains(LONG_NAME) && list.contains("nightly,before-the-great-migration"), "{list}");
    assert!(list.starts_with("TIME ") && list.contains(" +00:00 ") && !list.contains(" ago"), "{list}");
    assert!(place.ok(["ls", "latest", "--source", LONG_NAME]).stdout.contains(&format!("{}/memory.db", &DEEP[2..])));
    let list = plain(&on_terminal(&place, 80, &[], &["snapshots"]).stdout);
    assert!(!list.contains(LONG_NAME) && list.contains("...") && !list.contains("+00:00"), "{list}");
    let show = plain(&on_terminal(&place, 80, &[], &["show", "latest", "--source", LONG_NAME]).stdout);
    assert!(show.contains(" s ago)") || show.contains(" min ago)"), "{show}");
    let wide = plain(&on_terminal(&place, 250, &[], &["snapshots"]).stdout);
    assert!(wide.contains(LONG_NAME) && wide.contains(" s ago  ") | wide.contains(" min ago  "), "{wide}");
    let told = plain(&on_terminal(&place, 250, &[("COLUMNS", "60")], &["snapshots"]).stdout);
    assert!(told.lines().all(|line| line.chars().count() <= 60), "COLUMNS comes first: {told}");
}

#[test]
fn damage_is_told_once_for_each_pack_and_stream() {
    let place = with_history();
    flip(&place, 0);
    flip(&place, 1);
    let run = place.run(["check", "--read-data"]);
    assert_eq!(run.code, Some(4), "{}", run.stdout);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let distinct: HashSet<&&str> = lines.iter().collect();
    assert_eq!(distinct.len(), lines.len(), "{}", run.stdout);
    let packs = lines.iter().filter(|line| line.contains("  pack ")).count();
    let streams: Vec<&&str> = lines.iter().filter(|line| line.starts_with("damage    stream")).collect();
    assert_eq!(packs, 2, "{}", run.stdout);
    // Both snapshots of the tree share the streams that they have lost.
    assert!(
        streams.len() <= 2 && streams.iter().any(|line| line.contains("memory.db") && line.contains("from snapshots ")),
        "{}",
        run.stdout
    );
    assert!(lines.last().is_some_and(|line| line.starts_with("damaged: `icecore repair")), "{}", run.stdout);
    let findings = place.run(["--json", "check", "--read-data"]).json()["findings"].as_array().unwrap().clone();
    assert!(findings.len() > packs + streams.len(), "JSON has all of them");
    let distinct: HashSet<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), findings.len(), "each once");
    for args in [&["repair", "--dry-run"][..], &["scrub"]] {
        let run = place.run(args);
        let lines: Vec<&str> = run.stdout.lines().collect();
        assert_eq!(lines.iter().collect::<HashSet<_>>().len(), lines.len(), "{}", run.stdout);
        assert!(lines.last().is_some_and(|line| line.starts_with("damaged: ")), "{}", run.stdout);
    }
}

#[test]
fn colours_by_severity_where_they_are_wanted() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    let is_coloured = |environment: &[(&str, &str)], args: &[&str]| on_terminal(&place, 80, environment, args).stdout.contains('\u{1b}');
    assert!(is_coloured(&[], &["status"]));
    assert!(!is_coloured(&[("NO_COLOR", "1")], &["status"]));
    assert!(is_coloured(&[("NO_COLOR", "")], &["status"]), "an empty variable counts as none");
    assert!(is_coloured(&[("NO_COLOR", "1")], &["status", "--color", "always"]));
    assert!(!is_coloured(&[], &["--color", "never", "status"]));
    assert!(!is_coloured(&[], &["--color", "always", "--json", "status"]), "never in JSON");
    assert!(!place.ok(["status"]).stdout.contains('\u{1b}'));
    let forced = place.command().arg("status").env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8(forced.stdout).unwrap().contains("\u{1b}[32mok\u{1b}[0m"));
    let always = place.ok(["--color", "always", "status"]).stdout;
    assert!(always.ends_with("\u{1b}[32mok\u{1b}[0m\n"), "{always:?}");
    let list = place.ok(["--color", "always", "snapshots"]).stdout;
    assert_eq!(plain(&list), place.ok(["snapshots"]).stdout, "a colour takes no room");
    let failed = place.run(["--color", "always", "ls", "nothing"]);
    assert!(failed.stderr.starts_with("\u{1b}[31merror:\u{1b}[0m "), "{:?}", failed.stderr);
    place.run(["--color", "sometimes", "status"]).failed(2, &["always"]);
    flip(&place, 0);
    let damaged = place.run(["--color", "always", "check", "--read-data"]).stdout;
    assert!(damaged.contains("\u{1b}[31mdamage\u{1b}[0m  "), "{damaged:?}");
}
