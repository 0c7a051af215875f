//! bupstash with its defaults and a key file.

use std::path::Path;
use std::process::Command;

use super::{Place, Tool};
use crate::common::Result;
use crate::common::tool::Sample;
use crate::history::History;

struct Bupstash {
    place: Place,
    count: usize,
}

pub fn make(place: Place) -> Result<Box<dyn Tool>> {
    let bupstash = Bupstash { place, count: 0 };
    let place = &bupstash.place;
    place.run(place.command().arg("new-key").arg("-o").arg(place.dir.join("key")))?;
    place.run(bupstash.command(&place.program).arg("init"))?;
    Ok(Box::new(bupstash))
}

impl Bupstash {
    fn command(&self, program: &Path) -> Command {
        let mut command = Place { program: program.to_path_buf(), dir: self.place.dir.clone() }.command();
        command.env("BUPSTASH_REPOSITORY", self.place.repository()).env("BUPSTASH_KEY", self.place.dir.join("key"));
        command
    }
}

impl Tool for Bupstash {
    fn backup(&mut self, history: &History) -> Result<Sample> {
        let tag = format!("version={}", self.count);
        self.count += 1;
        self.place.backup(self.command(&self.place.program).args(["put", "--quiet", &tag]).arg(history.file()))
    }

    fn restore(&mut self, nth: usize, _count: usize, to: &Path) -> Result<Option<Sample>> {
        // It writes to stdout, which must not pass through this process.
        let mut command = self.command(Path::new("sh"));
        command.args(["-c", r#"exec "$1" get --quiet "version=$2" >"$3""#, "sh"]).arg(&self.place.program);
        self.place.restore(command.arg(nth.to_string()).arg(to.join("memory.db")))
    }
}
