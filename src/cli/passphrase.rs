//! Finds the passphrase: in a variable, a file, the output of a command, or on the terminal.
//! It is wiped from memory after use and appears in no message. A file that other users may write is refused, because
//! they could choose the key. An empty passphrase, and a variable that is set but empty, are errors.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use icecore::{Error, Result};
use zeroize::Zeroizing;

/// The longest passphrase, bytes: more than that is a file given by mistake.
const LEN_MAX: usize = 64 << 10;

/// The variables that can give it.
const VARIABLES: [&str; 3] = ["ICECORE_PASSWORD", "ICECORE_PASSWORD_FILE", "ICECORE_PASSWORD_COMMAND"];

/// The time between two looks whether a command has ended or the user has stopped the program.
const LOOK: Duration = Duration::from_millis(50);
/// How long the output of a command may stay open after its end.
const HELD_MAX: Duration = Duration::from_secs(5);

/// The passphrase of a repository that exists.
pub(crate) fn of_repository(location: &str, cancelled: &AtomicBool, warn: &dyn Fn(&str)) -> Result<Zeroizing<String>> {
    match from_environment(cancelled, warn)? {
        Some(passphrase) => Ok(passphrase),
        None => ask(&format!("Passphrase for {location}: ")),
    }
}

/// The passphrase of a repository that is about to be made; typed twice.
pub(crate) fn of_new_repository(location: &str, cancelled: &AtomicBool, warn: &dyn Fn(&str)) -> Result<Zeroizing<String>> {
    if let Some(passphrase) = from_environment(cancelled, warn)? {
        return Ok(passphrase);
    }
    let first = ask(&format!("New passphrase for {location}: "))?;
    let second = ask("Repeat the passphrase: ")?;
    match *first == *second {
        true => Ok(first),
        false => Err(unusable("the two passphrases differ; nothing was made")),
    }
}

fn unusable(detail: &str) -> Error {
    Error::backend("read", "the passphrase", io::Error::other(detail))
}

/// The variable that gives the passphrase, if one is set and not empty.
pub(crate) fn configured() -> Option<&'static str> {
    VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn from_environment(cancelled: &AtomicBool, warn: &dyn Fn(&str)) -> Result<Option<Zeroizing<String>>> {
    if let Some(name) = VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some_and(|value| value.is_empty())) {
        return Err(unusable(&format!("{name} is set, but empty")));
    }
    if let Some(value) = std::env::var_os("ICECORE_PASSWORD") {
        let text = value.into_string().map(Zeroizing::new).map_err(|_| unusable("ICECORE_PASSWORD is not UTF-8"))?;
        return not_empty(text, "ICECORE_PASSWORD").map(Some);
    }
    if let Some(path) = std::env::var_os("ICECORE_PASSWORD_FILE") {
        return from_file(Path::new(&path), warn).map(Some);
    }
    if let Some(command) = std::env::var_os("ICECORE_PASSWORD_COMMAND") {
        return from_command(&command, cancelled).map(Some);
    }
    Ok(None)
}

fn not_empty(text: Zeroizing<String>, name: &str) -> Result<Zeroizing<String>> {
    if text.is_empty() { Err(unusable(&format!("{name} gives an empty passphrase"))) } else { Ok(text) }
}

fn from_file(path: &Path, warn: &dyn Fn(&str)) -> Result<Zeroizing<String>> {
    let failed = |e| Error::backend("read", format!("the passphrase file {}", path.display()), e);
    let file = File::open(path).map_err(failed)?;
    refuse_foreign(&file, path, warn)?;
    first_line(read_bounded(file).map_err(failed)?, "ICECORE_PASSWORD_FILE")
}

/// Refuses a passphrase file that others may write: they could choose the key. Warns if others may read it. Only regular files are looked at;
/// pipes and descriptors of service managers have their own rules.
fn refuse_foreign(file: &File, path: &Path, warn: &dyn Fn(&str)) -> Result<()> {
    let found = file.metadata().map_err(|e| Error::backend("read", format!("the passphrase file {}", path.display()), e))?;
    if !found.is_file() {
        return Ok(());
    }
    let (path, mode) = (path.display(), found.mode());
    let (own, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if found.uid() != own && found.uid() != 0 {
        let text = format!(
            "the passphrase file {path} belongs to another user (number {}), who can exchange it; chown it to yourself",
            found.uid()
        );
        return Err(unusable(&text));
    }
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && found.gid() != group) {
        return Err(unusable(&format!("other users may write the passphrase file {path}, and so exchange it; chmod 600 it")));
    }
    if mode & 0o004 != 0 {
        warn(&format!("every user of this machine may read the passphrase file {path}; chmod 600 it"));
    }
    Ok(())
}

fn from_command(command: &OsStr, cancelled: &AtomicBool) -> Result<Zeroizing<String>> {
    // The command may ask on the terminal itself, so it gets the program's input and standard error.
    let mut child = Command::new("sh")
        .args([OsString::from("-c"), command.to_os_string()])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::backend("run", "ICECORE_PASSWORD_COMMAND", e))?;
    let failed = |e| Error::backend("read", "what ICECORE_PASSWORD_COMMAND prints", e);
    let stdout = child.stdout.take();
    // Reading cannot be interrupted, so another thread does it.
    let (sender, output) = sync_channel(1);
    let read = move || drop(sender.send(stdout.map(read_bounded).unwrap_or_else(|| Ok(Zeroizing::default()))));
    std::thread::Builder::new().name("passphrase".to_owned()).spawn(read).map_err(failed)?;
    let mut ended = None;
    let output = loop {
        match output.recv_timeout(LOOK) {
            Ok(output) => break output,
            Err(_) if cancelled.load(Ordering::Relaxed) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(Error::Cancelled);
            }
            Err(_) => {}
        }
        if child.try_wait().map_err(failed)?.is_some() && ended.get_or_insert_with(Instant::now).elapsed() > HELD_MAX {
            return Err(unusable("ICECORE_PASSWORD_COMMAND has ended, but something that it started holds its output open"));
        }
    };
    let status = child.wait().map_err(failed)?;
    if !status.success() {
        return Err(unusable(&format!("ICECORE_PASSWORD_COMMAND failed ({status})")));
    }
    first_line(output.map_err(failed)?, "ICECORE_PASSWORD_COMMAND")
}

/// Reads all of it into one allocation. Growing it would leave copies of the passphrase in memory.
fn read_bounded(input: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; LEN_MAX + 1]);
    let (mut input, mut len) = (input, 0);
    while let Some(space) = bytes.get_mut(len..).filter(|space| !space.is_empty()) {
        match input.read(space) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    if len > LEN_MAX {
        return Err(io::Error::other(format!("it is longer than {LEN_MAX} bytes")));
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// The text without the end of its last line.
fn first_line(bytes: Zeroizing<Vec<u8>>, name: &str) -> Result<Zeroizing<String>> {
    let line = bytes.strip_suffix(b"\n").map_or(&bytes[..], |line| line.strip_suffix(b"\r").unwrap_or(line));
    let text = std::str::from_utf8(line).map_err(|_| unusable(&format!("{name} gives a passphrase that is not UTF-8")))?;
    not_empty(Zeroizing::new(text.to_owned()), name)
}

fn ask(prompt: &str) -> Result<Zeroizing<String>> {
    if !io::stdin().is_terminal() {
        return Err(unusable(
            "none is given, and there is no terminal to ask on; set ICECORE_PASSWORD, ICECORE_PASSWORD_FILE or ICECORE_PASSWORD_COMMAND",
        ));
    }
    match rpassword::prompt_password(prompt) {
        Ok(typed) => not_empty(Zeroizing::new(typed), "the answer"),
        Err(e) if e.kind() == ErrorKind::Interrupted => Err(Error::Cancelled),
        Err(e) => Err(Error::backend("read", "the passphrase from the terminal", e)),
    }
}
