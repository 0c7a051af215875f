//! A repository of Fossil, which is a SQLite database: it takes over the history of a git repository beside the work of others (see [`work`]).
//! Every check-in stores new versions whole and packs those before them anew, as deltas, so content shrinks, moves, and leaves pages that are used
//! again. Some states are rebuilt by Fossil, which makes most of its tables anew, one of them to forget a file that was shunned.
//!
//! The ids that Fossil draws at random differ from run to run; everything else follows from the git repository, the crates that are locked, and
//! the seed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::work::{self, Work};
use crate::common::Result;
use crate::common::tool::find;

/// Where the time of check-ins begins; each is a minute after the one before it.
const MINUTES_A_DAY: usize = 24 * 60;
/// Check-ins of the first state, and of each later one.
const CHECK_INS_FIRST: usize = 40;
const CHECK_INS: usize = 8;
/// Of so many states one is rebuilt at the end.
const REBUILD_EVERY: u32 = 9;
/// The same, with something shunned before it.
const SHUN_AT: u32 = 2 * REBUILD_EVERY;

/// Names a history.
pub struct Spec {
    repository: PathBuf,
    /// The commit that each check-in shows, by state.
    states: Vec<Vec<String>>,
    /// Bytes to reach in the first state.
    bytes: u64,
    seed: u64,
}

impl Spec {
    /// The history of a git repository in so many states, the first of about so many bytes; `None`, and a line, if a program or the history is not
    /// there.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn of(repository: PathBuf, states: u32, bytes: u64, seed: u64) -> Result<Option<Self>> {
        if let Some(missing) = ["fossil", "git", "tar", "cargo"].into_iter().find(|program| find(program, None).is_none()) {
            println!("fossil: left out, there is no program {missing} (Debian: apt-get install fossil)");
            return Ok(None);
        }
        let listed = Command::new("git").arg("-C").arg(&repository).args(["rev-list", "--reverse", "--date-order", "HEAD"]).output()?;
        let commits: Vec<String> = String::from_utf8(listed.stdout)?.lines().map(String::from).collect();
        let counts: Vec<usize> = (0..states.max(1)).map(|nth| if nth == 0 { CHECK_INS_FIRST } else { CHECK_INS }).collect();
        let all: usize = counts.iter().sum();
        if commits.len() < 2 * states as usize {
            println!("fossil: left out, {} has a history of {} commits only", repository.display(), commits.len());
            return Ok(None);
        }
        let mut number = 0;
        let mut next = || {
            number += 1;
            commits[commits.len() * number / all - 1].clone()
        };
        let states = counts.into_iter().map(|count| (0..count).map(|_| next()).collect()).collect();
        Ok(Some(Spec { repository, states, bytes, seed }))
    }
}

/// Makes the first state (number 0) in a new file, or takes the repository there one step further.
///
/// # Errors
/// When a program fails.
pub fn advance(file: &Path, spec: &Spec, nth: u32) -> Result<()> {
    let (checkout, home) = (file.with_extension("checkout"), file.with_extension("home"));
    let fossil = |args: &[&str]| {
        let mut command = Command::new("fossil");
        command.args(args).current_dir(&checkout).env("FOSSIL_HOME", &home).env("HOME", &home).env("FOSSIL_USER", "bench");
        run(&mut command)
    };
    let path = file.to_str().ok_or("a path in UTF-8")?;
    if nth == 0 {
        std::fs::create_dir_all(&checkout)?;
        std::fs::create_dir_all(&home)?;
        fossil(&["init", "--admin-user", "bench", path])?;
        fossil(&["open", "--force", path])?;
        fossil(&["settings", "autosync", "off"])?;
    }
    let before: usize = spec.states.iter().take(nth as usize).map(Vec::len).sum();
    let state = &spec.states[nth as usize];
    let mut shown = None;
    for (number, commit) in state.iter().enumerate() {
        if shown != Some(commit) {
            show(&spec.repository, commit, &checkout)?;
            shown = Some(commit);
        }
        let minute = before + number;
        let work = Work { checkout: &checkout, seed: spec.seed, number: minute as u64, scale: spec.bytes };
        match nth {
            0 => work.begin(number as u64, state.len() as u64)?,
            _ => work.go_on()?,
        }
        fossil(&["addremove", "--dotfiles"])?;
        let date = format!("2026-01-{:02}T{:02}:{:02}:00", 1 + minute / MINUTES_A_DAY, minute / 60 % 24, minute % 60);
        let says = format!("{commit}, as it was, and the work of others");
        fossil(&["commit", "-m", &says, "--no-warnings", "--no-prompt", "--allow-empty", "--allow-older", "--date-override", &date])?;
    }
    if nth == SHUN_AT {
        // The oldest asset, in all its versions but the newest.
        let shun = "INSERT INTO shun (uuid, mtime, scom) SELECT DISTINCT uuid, 0, 'bench' FROM mlink JOIN filename USING (fnid) \
                    JOIN blob ON rid = fid WHERE name LIKE 'assets/%' ORDER BY fid LIMIT 6";
        fossil(&["sql", "-R", path, shun])?;
    }
    if nth > 0 && nth.is_multiple_of(REBUILD_EVERY) {
        fossil(&["rebuild", path])?;
    }
    Ok(())
}

/// Puts the files of a commit into the checkout, in place of those there.
fn show(repository: &Path, commit: &str, checkout: &Path) -> Result<()> {
    for entry in std::fs::read_dir(checkout)? {
        let entry = entry?;
        // What Fossil keeps there itself, and what is not of the git repository.
        if entry.file_name() == ".fslckout" || work::DIRECTORIES.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    let mut archive = Command::new("git").arg("-C").arg(repository).args(["archive", commit]).stdout(Stdio::piped()).spawn()?;
    let output = archive.stdout.take().ok_or("stdout is piped")?;
    run(Command::new("tar").arg("-x").arg("-C").arg(checkout).stdin(output))?;
    if !archive.wait()?.success() {
        return Err(format!("git archive {commit} failed").into());
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
