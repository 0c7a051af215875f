//! zpaq with its defaults, in one archive.

use std::path::{Path, PathBuf};

use super::{PASSPHRASE, Place, Tool};
use crate::common::Result;
use crate::common::tool::Sample;
use crate::history::History;

struct Zpaq(Place);

pub fn make(place: Place) -> Result<Box<dyn Tool>> {
    std::fs::create_dir(place.repository())?;
    Ok(Box::new(Zpaq(place)))
}

impl Zpaq {
    fn archive(&self) -> PathBuf {
        self.0.repository().join("archive.zpaq")
    }
}

impl Tool for Zpaq {
    fn backup(&mut self, history: &History) -> Result<Sample> {
        // It knows times to a second only; -force makes it look into the file. -key encrypts.
        self.0.backup(self.0.command().arg("add").arg(self.archive()).arg(history.file()).args(["-force", "-key", PASSPHRASE]))
    }

    fn restore(&mut self, nth: usize, _count: usize, to: &Path) -> Result<Option<Sample>> {
        let until = (nth + 1).to_string();
        self.0.restore(self.0.command().arg("extract").arg(self.archive()).args(["-until", &until, "-key", PASSPHRASE, "-to"]).arg(to))
    }
}
