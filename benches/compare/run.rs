//! Takes all tools through one history, in turns.

use std::path::{Path, PathBuf};

use crate::Plan;
use crate::common::Result;
use crate::common::tool::{Sample, find, sync_check};
use crate::history::History;
use crate::tools::{Kind, Place, Role, Tool, version};

/// Which snapshots are restored, in the order of [`Outcome::restores`].
pub const RESTORED: [&str; 3] = ["newest", "middle", "oldest"];

/// What one row measured.
pub struct Outcome {
    /// The row's name.
    pub name: &'static str,
    /// What it is compared as.
    pub role: Role,
    /// First backups, each into a repository of its own; the last one is kept.
    pub firsts: Vec<Sample>,
    /// Backups of step 1 and on.
    pub later: Vec<Sample>,
    /// Places in `later` of the steps with a VACUUM.
    pub vacuums: Vec<usize>,
    /// Restores by [`RESTORED`]; those of others than icecore with sync and quick_check, which icecore's restore does itself.
    pub restores: [Vec<Sample>; 3],
}

struct Contender {
    kind: &'static Kind,
    place: Place,
    tool: Box<dyn Tool>,
    outcome: Outcome,
    /// It failed and does nothing more.
    stopped: bool,
}

/// Runs the plan in an empty directory.
///
/// # Errors
/// When the history cannot be made or icecore fails. A peer that fails gets a line; it is left out, unless it failed at a restore.
pub fn run(plan: &Plan, dir: &Path) -> Result<Vec<Outcome>> {
    let installed: Vec<_> = plan.kinds.iter().filter_map(|kind| Some((*kind, program(kind, plan.peers.as_deref())?))).collect();
    let mut history = History::create(&dir.join("history"), plan.spec.clone())?;
    let mut contenders = Vec::new();
    for (kind, program) in installed {
        match first_repository(kind, program, dir) {
            Ok(contender) => contenders.push(contender),
            Err(error) => give_up(kind, &*error)?,
        }
    }
    let mut turn = 0;
    for round in 0..plan.rounds {
        eprintln!("first backup, round {} of {}", round + 1, plan.rounds);
        in_turns(&mut contenders, &mut turn, |contender| contender.first(round, &history))?;
    }
    for n in 1..=plan.steps {
        eprintln!("step {n} of {}", plan.steps);
        history.advance(n)?;
        let vacuum = plan.spec.vacuum_steps.contains(&n);
        in_turns(&mut contenders, &mut turn, |contender| contender.later(vacuum, &history))?;
    }
    let newest = history.versions() - 1;
    for round in 0..plan.rounds {
        eprintln!("restores, round {} of {}", round + 1, plan.rounds);
        for (which, nth) in [newest, newest / 2, 0].into_iter().enumerate() {
            in_turns(&mut contenders, &mut turn, |contender| contender.restore(which, nth, &history, &dir.join("restored")))?;
        }
    }
    // Of a row that lacks a step, no sum would be worth comparing.
    let outcomes = contenders.into_iter().map(|contender| contender.outcome);
    Ok(outcomes.filter(|outcome| outcome.later.len() == plan.steps as usize).collect())
}

/// The program of a row; `None`, and a line, when it is not there.
fn program(kind: &Kind, peers: Option<&Path>) -> Option<PathBuf> {
    let Some((name, argument)) = kind.program else { return Some(PathBuf::new()) };
    let found = find(name, peers);
    match &found {
        Some(program) => println!("{}: {}", kind.name, version(program, argument)),
        None => println!("{}: left out, there is no program {name} in --peers or PATH", kind.name),
    }
    found
}

fn first_repository(kind: &'static Kind, program: PathBuf, dir: &Path) -> Result<Contender> {
    let place = Place { program, dir: dir.join(kind.name) };
    let tool = fresh(kind, &place)?;
    let outcome = Outcome {
        name: kind.name,
        role: kind.role,
        firsts: Vec::new(),
        later: Vec::new(),
        vacuums: Vec::new(),
        restores: [const { Vec::new() }; 3],
    };
    Ok(Contender { kind, place, tool, outcome, stopped: false })
}

fn fresh(kind: &Kind, place: &Place) -> Result<Box<dyn Tool>> {
    if place.dir.exists() {
        std::fs::remove_dir_all(&place.dir)?;
    }
    std::fs::create_dir(&place.dir)?;
    (kind.make)(place.clone())
}

/// Lets every contender do a job; who begins moves on by one each time.
fn in_turns(contenders: &mut [Contender], turn: &mut usize, mut job: impl FnMut(&mut Contender) -> Result<()>) -> Result<()> {
    *turn += 1;
    let count = contenders.len();
    for nth in 0..count {
        let contender = &mut contenders[(*turn + nth) % count];
        if contender.stopped {
            continue;
        }
        if let Err(error) = job(contender) {
            give_up(contender.kind, &*error)?;
            contender.stopped = true;
        }
    }
    Ok(())
}

fn give_up(kind: &Kind, error: &dyn std::error::Error) -> Result<()> {
    if kind.role == Role::Icecore {
        return Err(error.to_string().into());
    }
    // Some print a backtrace.
    let text: Vec<String> = error.to_string().lines().take(8).map(String::from).collect();
    println!("{}: goes no further, it failed: {}", kind.name, text.join("\n    "));
    Ok(())
}

impl Contender {
    fn first(&mut self, round: u32, history: &History) -> Result<()> {
        if round > 0 {
            self.tool = fresh(self.kind, &self.place)?;
        }
        self.outcome.firsts.push(self.tool.backup(history)?);
        Ok(())
    }

    fn later(&mut self, vacuum: bool, history: &History) -> Result<()> {
        if vacuum {
            self.outcome.vacuums.push(self.outcome.later.len());
        }
        self.outcome.later.push(self.tool.backup(history)?);
        Ok(())
    }

    /// Restores into an empty directory, which is removed again.
    fn restore(&mut self, which: usize, nth: usize, history: &History, to: &Path) -> Result<()> {
        if to.exists() {
            std::fs::remove_dir_all(to)?;
        }
        std::fs::create_dir(to)?;
        let Some(mut sample) = self.tool.restore(nth, history.versions(), to)? else { return Ok(()) };
        let file = restored_file(to)?;
        if self.kind.role != Role::Icecore {
            sample.cost = sample.cost.then(sync_check(&file, &self.place.dir.join("stderr"))?);
        }
        if !history.is(nth, &file)? {
            return Err(format!("version {nth} came back with other bytes").into());
        }
        self.outcome.restores[which].push(sample);
        Ok(std::fs::remove_dir_all(to)?)
    }
}

/// The file in a directory: most programs put it under the path it was backed up from.
fn restored_file(dir: &Path) -> Result<PathBuf> {
    for entry in walkdir::WalkDir::new(dir) {
        let entry = entry?;
        if entry.file_type().is_file() && entry.file_name() == "memory.db" {
            return Ok(entry.into_path());
        }
    }
    Err("nothing was restored".into())
}
