//! The store, step by step, as the tools see it: one path whose file changes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::common::Result;
use crate::common::process::{again, measure};
use crate::common::store::StoreSpec;

/// A store that is taken through its steps.
pub struct History {
    dir: PathBuf,
    spec: StoreSpec,
    hashes: Vec<blake3::Hash>,
}

impl History {
    /// Makes the store in an empty directory and shows it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(dir: &Path, spec: StoreSpec) -> Result<Self> {
        std::fs::create_dir_all(dir.join("data"))?;
        let mut history = History { dir: dir.to_path_buf(), spec, hashes: Vec::new() };
        history.child("--create", 0)?;
        history.show()?;
        Ok(history)
    }

    /// Takes the store through step `n`, and shows it.
    ///
    /// # Errors
    /// When the step fails.
    pub fn advance(&mut self, n: u32) -> Result<()> {
        std::fs::copy(self.file(), self.previous())?;
        self.child("--step", n)?;
        self.show()
    }

    /// What the tools back up. It has one path and one inode, as a database in use has; each step is written over it.
    pub fn file(&self) -> PathBuf {
        self.dir.join("data").join("memory.db")
    }

    /// The file of the step before.
    pub fn previous(&self) -> PathBuf {
        self.dir.join("previous.db")
    }

    /// How many versions there were.
    pub fn versions(&self) -> usize {
        self.hashes.len()
    }

    /// Whether this file is version `nth`, counted from 0.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is(&self, nth: usize, file: &Path) -> Result<bool> {
        Ok(self.hashes.get(nth) == Some(&hash(file)?))
    }

    fn show(&mut self) -> Result<()> {
        std::fs::copy(self.dir.join("store.db"), self.file())?;
        // So that no tool waits for what is not its own.
        File::open(self.file())?.sync_all()?;
        self.hashes.push(hash(&self.file())?);
        Ok(())
    }

    /// Works on the store in a child, which may use what memory it likes.
    fn child(&self, job: &str, n: u32) -> Result<()> {
        let store = self.dir.join("store.db");
        let vacuum_at = self.spec.vacuum_steps.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let (size, n) = (self.spec.bytes.to_string(), n.to_string());
        let args = [job, store.to_str().ok_or("a path in UTF-8")?, "--size", &size, "--vacuum-at", &vacuum_at, "--nth", &n];
        measure(&mut again(&args)?, &self.dir.join("stderr")).map(drop)
    }
}

/// The hash of a file, in small memory.
fn hash(file: &Path) -> Result<blake3::Hash> {
    let mut file = File::open(file)?;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&block[..count]),
        };
    }
}
