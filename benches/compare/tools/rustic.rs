//! rustic: with its defaults, and with blocks of 4 KiB.

use std::path::Path;
use std::process::Command;

use super::{PASSPHRASE, Place, Tool, snapshot_ids};
use crate::common::Result;
use crate::common::tool::Sample;
use crate::history::History;

struct Rustic {
    place: Place,
    ids: Vec<String>,
}

pub fn make(place: Place) -> Result<Box<dyn Tool>> {
    init(place, &[])
}

pub fn make_fixed(place: Place) -> Result<Box<dyn Tool>> {
    init(place, &["--set-chunker", "fixed_size", "--set-chunk-size", "4KiB"])
}

fn init(place: Place, options: &[&str]) -> Result<Box<dyn Tool>> {
    let rustic = Rustic { place, ids: Vec::new() };
    rustic.place.run(rustic.command().arg("init").args(options))?;
    Ok(Box::new(rustic))
}

impl Rustic {
    fn command(&self) -> Command {
        let mut command = self.place.command();
        command.env("RUSTIC_REPOSITORY", self.place.repository()).env("RUSTIC_PASSWORD", PASSPHRASE);
        command.env("RUSTIC_CACHE_DIR", self.place.dir.join("cache")).env("RUSTIC_NO_PROGRESS", "true");
        command
    }
}

impl Tool for Rustic {
    fn backup(&mut self, history: &History) -> Result<Sample> {
        self.place.backup(self.command().arg("backup").arg(history.file()))
    }

    fn restore(&mut self, nth: usize, count: usize, to: &Path) -> Result<Option<Sample>> {
        if self.ids.len() != count {
            self.ids = snapshot_ids(&self.place.run(self.command().args(["snapshots", "--json"]))?.1)?;
        }
        let id = self.ids.get(nth).ok_or("a snapshot is missing")?;
        self.place.restore(self.command().args(["restore", id]).arg(to))
    }
}
