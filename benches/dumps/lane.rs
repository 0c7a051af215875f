//! One history of one file through all programs.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::common::Result;
use crate::programs::{Programs, Run};
use crate::versions::{Event, Versions};

/// What one version cost.
pub struct Step {
    pub event: Event,
    /// Length of the file.
    pub bytes: u64,
    pub icecore: Run,
    /// Against the version before; none of the first.
    pub patch: Option<Run>,
    pub zstd: Option<Run>,
    pub restic: Option<Run>,
}

/// A file, its repositories, and what its versions cost.
pub struct Lane {
    name: String,
    dir: PathBuf,
    programs: Programs,
    hashes: Vec<blake3::Hash>,
    pub steps: Vec<Step>,
    /// Of the newest version and of the oldest.
    pub restores: [Vec<Run>; 2],
}

impl Lane {
    /// Makes the repositories in a new directory.
    ///
    /// # Errors
    /// What the programs say.
    pub fn new(name: &str, dir: &Path, programs: &Programs) -> Result<Self> {
        let dir = dir.to_path_buf();
        for part in ["source", "icecore", "restic"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        let lane = Lane {
            name: name.into(),
            dir,
            programs: programs.clone(),
            hashes: Vec::new(),
            steps: Vec::new(),
            restores: [Vec::new(), Vec::new()],
        };
        programs.icecore(&lane.dir.join("icecore"), &["init"])?;
        if programs.restic {
            programs.restic(&lane.dir.join("restic"), &["init"])?;
        }
        Ok(lane)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn source(&self) -> PathBuf {
        self.dir.join("source")
    }

    /// Takes the next version through all programs.
    ///
    /// # Errors
    /// What they say.
    pub fn take(&mut self, n: u32, event: Event, versions: &mut dyn Versions) -> Result<()> {
        let (file, before) = (self.source().join("database.dump"), self.dir.join("before"));
        if event != Event::First {
            std::fs::rename(&file, &before)?;
        }
        versions.write(&self.name, &file)?;
        self.hashes.push(hash(&file)?);
        let source = self.source();
        let source = source.to_str().ok_or("a path in UTF-8")?;
        let icecore = || self.programs.icecore(&self.dir.join("icecore"), &["backup", "files", source]);
        let restic = || self.programs.restic(&self.dir.join("restic"), &["backup", source]).map(Some);
        let restic = || if self.programs.restic { restic() } else { Ok(None) };
        // Who goes first finds the file in another state of the machine's caches.
        let (icecore, restic) = match n.is_multiple_of(2) {
            true => (icecore()?, restic()?),
            false => {
                let restic = restic()?;
                (icecore()?, restic)
            }
        };
        let patched = self.programs.others && event != Event::First;
        let patch = if patched { Some(self.programs.zstd(&file, Some(&before), &self.dir)?) } else { None };
        let zstd = if self.programs.others { Some(self.programs.zstd(&file, None, &self.dir)?) } else { None };
        self.steps.push(Step { event, bytes: file.metadata()?.len(), icecore, patch, zstd, restic });
        Ok(())
    }

    /// Restores the newest and the oldest version in turns, and compares them.
    ///
    /// # Errors
    /// What icecore says, or when another file comes back.
    pub fn restore(&mut self, rounds: u32) -> Result<()> {
        let oldest = self.hashes.len() - 1;
        for _ in 0..rounds {
            for (which, back) in [0, oldest].into_iter().enumerate() {
                let to = self.dir.join("restored");
                let args = ["restore", &format!("latest~{back}"), "--to", to.to_str().ok_or("a path in UTF-8")?];
                let run = self.programs.icecore(&self.dir.join("icecore"), &args)?;
                let found = walkdir::WalkDir::new(&to).into_iter().flatten().find(|entry| entry.file_name() == "database.dump");
                let file = found.ok_or("nothing was restored")?;
                if hash(file.path())? != self.hashes[oldest - back] {
                    return Err(format!("{}: {back} back came back with other bytes", self.name).into());
                }
                std::fs::remove_dir_all(&to)?;
                self.restores[which].push(run);
            }
        }
        Ok(())
    }
}

fn hash(file: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file)?)?;
    Ok(hasher.finalize())
}
