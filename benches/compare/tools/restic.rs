//! restic with its defaults and a password file.

use std::path::Path;
use std::process::Command;

use super::{PASSPHRASE, Place, Tool, snapshot_ids};
use crate::common::Result;
use crate::common::tool::Sample;
use crate::history::History;

struct Restic {
    place: Place,
    ids: Vec<String>,
}

pub fn make(place: Place) -> Result<Box<dyn Tool>> {
    std::fs::write(place.dir.join("password"), PASSPHRASE)?;
    let restic = Restic { place, ids: Vec::new() };
    restic.place.run(restic.command().arg("init"))?;
    Ok(Box::new(restic))
}

impl Restic {
    fn command(&self) -> Command {
        let mut command = self.place.command();
        command.env("RESTIC_REPOSITORY", self.place.repository()).env("RESTIC_PASSWORD_FILE", self.place.dir.join("password"));
        command.env("RESTIC_CACHE_DIR", self.place.dir.join("cache")).arg("--quiet");
        command
    }
}

impl Tool for Restic {
    fn backup(&mut self, history: &History) -> Result<Sample> {
        self.place.backup(self.command().arg("backup").arg(history.file()))
    }

    fn restore(&mut self, nth: usize, count: usize, to: &Path) -> Result<Option<Sample>> {
        if self.ids.len() != count {
            self.ids = snapshot_ids(&self.place.run(self.command().args(["snapshots", "--json"]))?.1)?;
        }
        let id = self.ids.get(nth).ok_or("a snapshot is missing")?;
        self.place.restore(self.command().args(["restore", id, "--target"]).arg(to))
    }
}
