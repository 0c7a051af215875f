//! A repository of Fossil, which is a SQLite database: it takes over the history of a git repository, one check-in for each commit. Every check-in
//! stores new versions whole and packs those before them anew, as deltas, so content shrinks, moves, and leaves pages that are used again.
//!
//! The ids that Fossil draws at random differ from run to run; everything else follows from the git repository.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::Result;
use crate::common::tool::find;

/// Where the time of check-ins begins; each is a minute after the one before it.
const MINUTES_A_DAY: usize = 24 * 60;

/// Names a history.
pub struct Spec {
    repository: PathBuf,
    /// What is checked in until each state.
    states: Vec<Vec<String>>,
}

impl Spec {
    /// The history of a git repository in so many states; `None`, and a line, if a program or the history is not there.
    ///
    /// # Errors
    /// When git cannot be run.
    pub fn of(repository: PathBuf, states: u32) -> Result<Option<Self>> {
        if let Some(missing) = ["fossil", "git", "tar"].into_iter().find(|program| find(program, None).is_none()) {
            println!("fossil: left out, there is no program {missing}");
            return Ok(None);
        }
        let listed = Command::new("git").arg("-C").arg(&repository).args(["rev-list", "--reverse", "--date-order", "HEAD"]).output()?;
        let commits: Vec<String> = String::from_utf8(listed.stdout)?.lines().map(String::from).collect();
        let states = states.max(1) as usize;
        if commits.len() < 2 * states {
            println!("fossil: left out, {} has a history of {} commits only", repository.display(), commits.len());
            return Ok(None);
        }
        let part = |nth: usize| commits[commits.len() * nth / states..commits.len() * (nth + 1) / states].to_vec();
        Ok(Some(Spec { repository, states: (0..states).map(part).collect() }))
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
    for (number, commit) in spec.states[nth as usize].iter().enumerate() {
        show(&spec.repository, commit, &checkout)?;
        fossil(&["addremove", "--dotfiles"])?;
        let minute = before + number;
        let date = format!("2026-01-{:02}T{:02}:{:02}:00", 1 + minute / MINUTES_A_DAY, minute / 60 % 24, minute % 60);
        let says = format!("{commit}, as it was");
        fossil(&["commit", "-m", &says, "--no-warnings", "--no-prompt", "--allow-empty", "--allow-older", "--date-override", &date])?;
    }
    Ok(())
}

/// Puts the files of a commit into the checkout, in place of those there.
fn show(repository: &Path, commit: &str, checkout: &Path) -> Result<()> {
    for entry in std::fs::read_dir(checkout)? {
        let entry = entry?;
        // What Fossil keeps there itself.
        if entry.file_name() == ".fslckout" {
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
