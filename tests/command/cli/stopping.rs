//! Signals while something stalls: the program ends, with its children, and leaves nothing.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::support::{Place, Run};
use super::wait::{LIMIT, until as wait_until};

const ALL: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// Waits for its end; what takes too long is killed, so that nothing of the test is left.
#[track_caller]
fn ended(mut child: Child) -> Run {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("it did not end: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap().into()
}

fn pid_in(path: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(path).ok()?;
    Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
}

/// Whether it runs; one that has ended and that nobody has waited for does not.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
}

fn command(place: &Place, script: &str) -> Command {
    let mut command = place.command();
    command.args(["backup", "command", "--name", "out", "--", "sh", "-c", script]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn no_pending(place: &Place) {
    assert_eq!(place.stored("pending"), Vec::<PathBuf>::new());
    let left: Vec<PathBuf> = place.stored("").into_iter().filter(|path| path.to_string_lossy().contains(".tmp-")).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

/// Before the first byte, in the middle of a long stream, with a shell's child, deaf to SIGTERM, suspended, and with an output that has ended already.
#[test]
fn a_command_that_stalls_is_ended() {
    let scripts = [
        "echo $$ > pid; exec sleep 1000",
        "echo x; echo $$ > pid; exec sleep 1000",
        "head -c 30000000 /dev/urandom; echo $$ > pid; exec sleep 1000",
        "sleep 1000 & echo $! > pid; wait",
        "head -c 30000000 /dev/urandom; trap '' TERM; echo $$ > pid; sleep 1000; sleep 1000",
        "echo $$ > pid; kill -STOP $$",
        "echo x; exec >&-; echo $$ > pid; exec sleep 1000",
        "echo x; exec >&- 2>&-; echo $$ > pid; exec sleep 1000",
    ];
    for (number, script) in scripts.into_iter().enumerate() {
        let place = Place::with_repository();
        let child = command(&place, script).spawn().unwrap();
        wait_until("the command runs", || pid_in(&place.path("pid")).is_some());
        let stalling = pid_in(&place.path("pid")).unwrap();
        kill_process(Pid::from_child(&child), ALL[number % ALL.len()]).unwrap();
        ended(child).failed(130, &["error: interrupted"]);
        assert!(!runs(stalling), "{script:?} runs on");
        assert!(place.snapshots().is_empty());
        no_pending(&place);
    }
}

/// What a command has started and not waited for.
#[test]
fn a_pipe_that_another_process_holds() {
    let place = Place::with_repository();
    let background = |script: &str| {
        let _ = std::fs::remove_file(place.path("pid"));
        let run = ended(command(&place, script).spawn().unwrap());
        let pid = pid_in(&place.path("pid")).unwrap();
        let was_left = runs(pid);
        let _ = kill_process(pid, Signal::KILL);
        (run, was_left)
    };
    // It holds the messages alone, or nothing: all of the output is there.
    for script in ["echo good; sleep 1000 >/dev/null & echo $! > pid", "echo good; sleep 1000 >/dev/null 2>&1 & echo $! > pid"] {
        let (run, was_left) = background(script);
        assert_eq!((run.code, was_left), (Some(0), true), "{}", run.stderr);
        assert_eq!(place.ok(["dump", "latest", "out"]).stdout, "good\n");
    }
    // Whether the output is whole cannot be known.
    let (run, _) = background("echo good; sleep 1000 & echo $! > pid");
    run.failed(1, &["another process that it started holds its output open", ">/dev/null"]);
    // Of one that has failed nothing more is waited for.
    let (run, was_left) = background("echo good; sleep 1000 & echo $! > pid; exit 7");
    run.failed(1, &["failed with exit code 7"]);
    assert!(!was_left);
    // One that goes on writing is part of the command.
    let (run, _) = background("(sleep 1; echo late) & echo $! > pid");
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(place.ok(["dump", "latest", "out"]).stdout, "late\n");
    assert_eq!(place.snapshots().len(), 3);
}

/// The repository's disk fails while the command stalls: that is felt at once, and the command ends.
#[test]
fn a_failure_while_the_command_stalls() {
    let place = Place::with_repository();
    // A file may not be larger than 2 MB, and packs are.
    let script = "head -c 40000000 /dev/urandom; echo $$ > pid; exec sleep 1000";
    let text = format!("ulimit -f 4000; exec \"$0\" backup command --name out -- sh -c '{script}'");
    let mut command = place.program("sh");
    command.args(["-c", &text, env!("CARGO_BIN_EXE_icecore")]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = ended(command.spawn().unwrap());
    run.failed(1, &["File too large"]);
    // It may not even have come to writing its number.
    assert!(pid_in(&place.path("pid")).is_none_or(|pid| !runs(pid)));
    assert!(place.snapshots().is_empty());
    no_pending(&place);
}

/// A file that becomes larger than this process may make it is a failed write, not the end of the process.
#[test]
fn a_limit_on_the_size_of_files_is_an_error() {
    let place = Place::with_repository();
    place.database("big.db", 20_000);
    place.ok(["backup", "sqlite", "big.db"]);
    let limited = |args: &str| -> Run {
        let text = format!("ulimit -f 4000; exec \"$0\" {args}");
        place.program("sh").args(["-c", &text, env!("CARGO_BIN_EXE_icecore")]).output().unwrap().into()
    };
    limited("restore latest big.db=new.db").failed(1, &["File too large"]);
    let names: Vec<_> = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("new.db")), "{names:?}");
    place.database("other.db", 20_000);
    limited("backup sqlite other.db").failed(1, &["File too large"]);
    no_pending(&place);
    assert_eq!(place.snapshots().len(), 1);
    place.ok(["check", "--read-data"]);
}

/// What `nohup` does.
#[test]
fn a_signal_that_is_ignored_stays_so() {
    let place = Place::with_repository();
    let script = "echo x; echo $$ > pid; while [ ! -e on ]; do sleep 0.05; done";
    let text = format!("trap '' HUP QUIT; exec \"$0\" backup command --name out -- sh -c '{script}'");
    let mut command = place.program("sh");
    let child = command.args(["-c", &text, env!("CARGO_BIN_EXE_icecore")]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the command runs", || pid_in(&place.path("pid")).is_some());
    for signal in [Signal::HUP, Signal::QUIT] {
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    std::fs::write(place.path("on"), "").unwrap();
    let run = ended(child);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(place.snapshots().len(), 1);
}

/// A database that somebody has locked is waited for, but not by a user who has lost patience.
#[test]
fn waiting_for_a_lock_can_be_stopped() {
    let place = Place::with_repository();
    let holder = rusqlite::Connection::open(place.path("a.db")).unwrap();
    holder.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let mut command = place.command();
    let child = command.args(["-v", "backup", "sqlite", "a.db"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let has_open = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
        files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|path| path == place.path("a.db").canonicalize().unwrap()))
    };
    wait_until("it has the database open", has_open);
    kill_process(pid, Signal::TERM).unwrap();
    ended(child).failed(130, &["error: interrupted"]);
}

/// A command for the passphrase that does not answer, and one that leaves something behind that holds its pipe.
#[test]
fn waiting_for_a_passphrase_can_be_stopped() {
    let place = Place::new();
    let with = |script: &str| {
        let mut command = place.command();
        command.env("ICECORE_PASSWORD_COMMAND", script).arg("init").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let child = with("echo $$ > pid; exec sleep 1000");
    wait_until("the command runs", || pid_in(&place.path("pid")).is_some());
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    ended(child).failed(130, &["error: interrupted"]);
    assert!(!runs(pid_in(&place.path("pid")).unwrap()));
    let run = ended(with("echo x; sleep 1000 2>/dev/null & echo $! > pid"));
    kill_process(pid_in(&place.path("pid")).unwrap(), Signal::KILL).unwrap();
    run.failed(1, &["something that it started holds its output open"]);
}

/// Nobody reads what is dumped.
#[test]
fn a_dump_whose_reader_stalls_can_be_stopped() {
    let place = Place::with_repository();
    place.database("big.db", 20_000);
    place.ok(["backup", "sqlite", "big.db"]);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = place.command();
    let child = command.args(["dump", "latest", "big.db"]).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    // The command keeps an end of the pipe, too.
    drop(command);
    wait_until("the pipe is full", || rustix::io::ioctl_fionread(&reader).unwrap() >= 64 << 10);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    ended(child).failed(130, &["error: interrupted"]);
}

/// The second signal ends the program at once, whatever it does.
#[test]
fn a_second_signal_does_not_wait() {
    let place = Place::with_repository();
    let child = command(&place, "trap '' TERM; echo $$ > pid; while :; do sleep 1000; done").spawn().unwrap();
    wait_until("the command runs", || pid_in(&place.path("pid")).is_some());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let (group, output) = (pid_in(&place.path("pid")).unwrap(), child.wait_with_output().unwrap());
    assert!(output.status.signal().is_some(), "{:?}", output.status);
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}
