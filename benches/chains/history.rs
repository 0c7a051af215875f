//! Every version of a store in memory: each page is kept once.

use std::collections::HashMap;
use std::path::Path;

use super::common::Result;
use super::common::store::{PAGE_BYTES, Store, StoreSpec};

/// The versions of a file, as lists of pages.
pub struct History {
    pages: Vec<Box<[u8]>>,
    /// By step, the numbers of the pages in `pages`.
    steps: Vec<Vec<u32>>,
}

impl History {
    /// The store before the first step and after each of `steps` steps.
    pub fn make(dir: &Path, spec: StoreSpec, steps: u32) -> Result<Self> {
        let dir = tempfile::tempdir_in(dir)?;
        let path = dir.path().join("store.db");
        let mut store = Store::create(&path, spec)?;
        let mut known: HashMap<blake3::Hash, u32> = HashMap::new();
        let mut history = History { pages: Vec::new(), steps: Vec::new() };
        for n in 0..=steps {
            if n > 0 {
                store.step(n)?;
            }
            let bytes = std::fs::read(&path)?;
            let mut version = Vec::with_capacity(bytes.len() / PAGE_BYTES);
            for page in bytes.chunks(PAGE_BYTES) {
                let next = u32::try_from(history.pages.len())?;
                let number = *known.entry(blake3::hash(page)).or_insert(next);
                if number == next {
                    history.pages.push(page.into());
                }
                version.push(number);
            }
            history.steps.push(version);
        }
        Ok(history)
    }

    /// Steps, the first file not counted.
    pub fn steps(&self) -> usize {
        self.steps.len() - 1
    }

    /// The pages of a version.
    pub fn version(&self, step: usize) -> &[u32] {
        &self.steps[step]
    }

    /// The bytes of these pages.
    pub fn bytes(&self, pages: &[u32]) -> Vec<u8> {
        pages.iter().flat_map(|page| self.pages[*page as usize].iter().copied()).collect()
    }
}
