//! Where the versions of each lane come from.

use std::path::{Path, PathBuf};

use crate::bank::Bank;
use crate::common::Result;
use crate::text::Text;

/// What there is to be backed up.
pub const LANES: [&str; 3] = ["custom", "plain", "text"];

/// What happened before a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is the first one.
    First,
    /// Traffic and edits.
    Ordinary,
    /// That, and the tables were clustered.
    Clustered,
}

/// Gives the versions of the lanes, one after the other.
pub trait Versions {
    /// Goes on to version `n`, counted from 0.
    ///
    /// # Errors
    /// When it cannot be made.
    fn advance(&mut self, n: u32) -> Result<Event>;

    /// Writes the version of a lane to a file.
    ///
    /// # Errors
    /// When it cannot be made.
    fn write(&mut self, lane: &str, to: &Path) -> Result<()>;
}

fn kept(dir: &Path, lane: &str, n: u32) -> PathBuf {
    dir.join(lane).join(format!("{n:03}"))
}

/// The name of the file that says what happened before a version.
fn event_file(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("clustered-{n:03}"))
}

/// Versions that were kept.
pub struct Kept {
    dir: PathBuf,
    now: u32,
}

impl Kept {
    /// In this directory.
    pub fn new(dir: PathBuf) -> Self {
        Kept { dir, now: 0 }
    }
}

impl Versions for Kept {
    fn advance(&mut self, n: u32) -> Result<Event> {
        self.now = n;
        Ok(match n {
            0 => Event::First,
            _ if event_file(&self.dir, n).exists() => Event::Clustered,
            _ => Event::Ordinary,
        })
    }

    fn write(&mut self, lane: &str, to: &Path) -> Result<()> {
        std::fs::copy(kept(&self.dir, lane, self.now), to)?;
        Ok(())
    }
}

/// Versions that are made.
pub struct Made {
    /// There only for lanes that need it.
    bank: Option<Bank>,
    text: Option<Text>,
    keep: Option<PathBuf>,
    steps: u32,
    now: u32,
}

impl Made {
    /// Starts what the lanes need.
    ///
    /// # Errors
    /// When the server cannot be started.
    pub fn start(lanes: &[&str], scale: u32, steps: u32, pg_bin: Option<PathBuf>, keep: Option<PathBuf>) -> Result<Self> {
        for lane in keep.iter().flat_map(|dir| lanes.iter().map(|lane| dir.join(lane))) {
            std::fs::create_dir_all(lane)?;
        }
        let dumps = lanes.iter().any(|lane| *lane != "text");
        let bank = if dumps { Some(Bank::start(scale, pg_bin)?) } else { None };
        let text = lanes.contains(&"text").then(|| Text::new(scale));
        Ok(Made { bank, text, keep, steps, now: 0 })
    }
}

impl Versions for Made {
    fn advance(&mut self, n: u32) -> Result<Event> {
        self.now = n;
        if n == 0 {
            return Ok(Event::First);
        }
        self.text.iter_mut().for_each(|text| text.step(n));
        if let Some(bank) = &mut self.bank {
            bank.step(n)?;
        }
        if n + 2 != self.steps {
            return Ok(Event::Ordinary);
        }
        self.bank.iter().try_for_each(Bank::cluster)?;
        self.keep.iter().try_for_each(|dir| std::fs::write(event_file(dir, n), ""))?;
        Ok(Event::Clustered)
    }

    fn write(&mut self, lane: &str, to: &Path) -> Result<()> {
        match (lane, &self.bank, &self.text) {
            ("text", _, Some(text)) => text.write(to)?,
            (_, Some(bank), _) => bank.dump(lane == "custom", to)?,
            _ => return Err(format!("{lane} was not started").into()),
        }
        if let Some(dir) = &self.keep {
            std::fs::copy(to, kept(dir, lane, self.now))?;
        }
        Ok(())
    }
}
