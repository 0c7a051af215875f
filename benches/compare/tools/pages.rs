//! The bound of page stores: new and changed pages of 4 KiB, each compressed by itself with zstd -3. It counts and stores nothing.

use std::path::Path;

use super::{Place, Tool};
use crate::common::Result;
use crate::common::process::again;
use crate::common::tool::Sample;
use crate::history::History;

struct Pages {
    place: Place,
    total_bytes: u64,
    first: bool,
}

pub fn make(place: Place) -> Result<Box<dyn Tool>> {
    Ok(Box::new(Pages { place, total_bytes: 0, first: true }))
}

impl Tool for Pages {
    fn backup(&mut self, history: &History) -> Result<Sample> {
        let (file, previous) = (history.file(), history.previous());
        let mut args = vec!["--changed-pages", file.to_str().ok_or("a path in UTF-8")?];
        if !std::mem::take(&mut self.first) {
            args.extend(["--since", previous.to_str().ok_or("a path in UTF-8")?]);
        }
        let (cost, output) = self.place.run(&mut again(&args)?)?;
        let stored_bytes = String::from_utf8(output)?.trim().parse()?;
        self.total_bytes += stored_bytes;
        Ok(Sample { cost, stored_bytes, repository_bytes: self.total_bytes, ..Sample::default() })
    }

    fn restore(&mut self, _nth: usize, _count: usize, _to: &Path) -> Result<Option<Sample>> {
        Ok(None)
    }
}
