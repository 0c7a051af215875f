//! borg with a repokey: with its defaults, and as one would set it for databases (blocks of 4 KiB, zstd).

use std::path::Path;
use std::process::Command;

use super::{PASSPHRASE, Place, Tool};
use crate::common::Result;
use crate::common::tool::Sample;
use crate::history::History;

struct Borg {
    place: Place,
    options: &'static [&'static str],
    count: usize,
}

pub fn make(place: Place) -> Result<Box<dyn Tool>> {
    init(place, &[])
}

pub fn make_fixed(place: Place) -> Result<Box<dyn Tool>> {
    init(place, &["--chunker-params", "fixed,4096", "--compression", "zstd,3"])
}

fn init(place: Place, options: &'static [&'static str]) -> Result<Box<dyn Tool>> {
    let borg = Borg { place, options, count: 0 };
    borg.place.run(borg.command().args(["init", "--encryption", "repokey"]))?;
    Ok(Box::new(borg))
}

impl Borg {
    fn command(&self) -> Command {
        let mut command = self.place.command();
        command.env("BORG_REPO", self.place.repository()).env("BORG_PASSPHRASE", PASSPHRASE).env("BORG_BASE_DIR", &self.place.dir);
        command
    }
}

impl Tool for Borg {
    fn backup(&mut self, history: &History) -> Result<Sample> {
        let archive = format!("::version-{}", self.count);
        self.count += 1;
        self.place.backup(self.command().arg("create").args(self.options).arg(archive).arg(history.file()))
    }

    fn restore(&mut self, nth: usize, _count: usize, to: &Path) -> Result<Option<Sample>> {
        self.place.restore(self.command().current_dir(to).arg("extract").arg(format!("::version-{nth}")))
    }
}
