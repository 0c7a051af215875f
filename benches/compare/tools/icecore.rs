//! icecore: an encrypted repository, as `icecore init` makes it.

use std::path::Path;

use super::{Place, Tool};
use crate::common::Result;
use crate::common::tool::{Icecore, Sample};
use crate::history::History;

pub fn make(place: Place) -> Result<Box<dyn Tool>> {
    Ok(Box::new(Icecore::init(&place.dir)?))
}

impl Tool for Icecore {
    fn backup(&mut self, history: &History) -> Result<Sample> {
        Icecore::backup(self, &history.file())
    }

    fn restore(&mut self, nth: usize, count: usize, to: &Path) -> Result<Option<Sample>> {
        let back = count - 1 - nth;
        Icecore::restore(self, &format!("latest~{back}"), &to.join("memory.db")).map(Some)
    }
}
