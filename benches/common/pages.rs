//! Which pages of a database file changed.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::store::PAGE_BYTES;

/// One hash per page of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages(Vec<blake3::Hash>);

impl Pages {
    /// Hashes the pages of a file as it is on disk.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut pages = Vec::new();
        let mut block = vec![0; PAGE_BYTES * 256];
        loop {
            let mut filled = 0;
            while filled < block.len() {
                match file.read(&mut block[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            pages.extend(block[..filled].chunks(PAGE_BYTES).map(blake3::hash));
            if filled < block.len() {
                return Ok(Pages(pages));
            }
        }
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How many pages are new or other than the page of the same number in `old`.
    pub fn changed_since(&self, old: &Pages) -> usize {
        let same = self.0.iter().zip(&old.0).filter(|(new, old)| new == old).count();
        self.0.len() - same
    }
}
