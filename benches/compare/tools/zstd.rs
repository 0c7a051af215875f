//! The bound of deltas: zstd of the first file, and of each next one with the file before it as the window. To restore is to replay.

use std::path::{Path, PathBuf};

use super::{Place, Tool};
use crate::common::Result;
use crate::common::process::Cost;
use crate::common::tool::Sample;
use crate::history::History;

/// The window may be as long as any file here, 2 GiB; zstd itself shortens it to the files at hand.
const WINDOW: &str = "--long=31";

struct Chain {
    place: Place,
    first: &'static [&'static str],
    count: usize,
}

pub fn make(place: Place) -> Result<Box<dyn Tool>> {
    chain(place, &["-3"])
}

pub fn make_dense(place: Place) -> Result<Box<dyn Tool>> {
    chain(place, &["-19", WINDOW])
}

fn chain(place: Place, first: &'static [&'static str]) -> Result<Box<dyn Tool>> {
    std::fs::create_dir(place.repository())?;
    Ok(Box::new(Chain { place, first, count: 0 }))
}

impl Chain {
    fn link(&self, nth: usize) -> PathBuf {
        self.place.repository().join(format!("{nth}.zst"))
    }

    /// Unpacks link `nth` onto `next`, given the version before it.
    fn replay(&self, nth: usize, before: Option<&Path>, next: &Path) -> Result<Cost> {
        let mut command = self.place.command();
        command.args(["-q", "-d", WINDOW]);
        if let Some(before) = before {
            command.arg(format!("--patch-from={}", before.to_str().ok_or("a path in UTF-8")?));
        }
        command.arg(self.link(nth)).arg("-o").arg(next);
        Ok(self.place.run(&mut command)?.0)
    }
}

impl Tool for Chain {
    fn backup(&mut self, history: &History) -> Result<Sample> {
        let mut command = self.place.command();
        command.arg("-q");
        if self.count == 0 {
            command.args(self.first);
        } else {
            let previous = history.previous();
            command.args(["-3", WINDOW]).arg(format!("--patch-from={}", previous.to_str().ok_or("a path in UTF-8")?));
        }
        command.arg(history.file()).arg("-o").arg(self.link(self.count));
        self.count += 1;
        self.place.backup(&mut command)
    }

    fn restore(&mut self, nth: usize, _count: usize, to: &Path) -> Result<Option<Sample>> {
        let (next, file) = (to.join("next.db"), to.join("memory.db"));
        let mut cost = self.replay(0, None, &file)?;
        for link in 1..=nth {
            cost = cost.then(self.replay(link, Some(&file), &next)?);
            std::fs::rename(&next, &file)?;
        }
        Ok(Some(Sample { cost, ..Sample::default() }))
    }
}
