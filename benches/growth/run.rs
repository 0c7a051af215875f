//! Takes icecore and the chain through a history.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Result;
use crate::common::process::{again, measure};
use crate::common::report::ms;
use crate::common::tool::{Icecore, Sample, find};

/// What a run does.
pub struct Job {
    /// Steps after the first state.
    pub steps: u32,
    /// From which length on the ratio counts, in steps.
    pub length_min: usize,
    /// Where states and links are kept, if they are.
    pub states: Option<PathBuf>,
    /// What names the corpus to a child.
    pub make: Vec<String>,
}

/// What both store after a state, bytes in all.
struct Length {
    chain: u64,
    icecore: u64,
    backup: Sample,
}

/// Runs it in an empty directory.
///
/// # Errors
/// When a state cannot be made, icecore fails, or a restored file is not what was backed up.
pub fn run(job: &Job, dir: &Path) -> Result<()> {
    if find("zstd", None).is_none() {
        println!("left out: there is no program zstd");
        return Ok(());
    }
    let history = History::new(job, dir)?;
    let data = dir.join("data");
    std::fs::create_dir(&data)?;
    let shown = data.join("store.db");
    let icecore = Icecore::init(&dir.join("icecore"))?;
    let (mut chain, mut lengths, mut hashes) = (0, Vec::new(), Vec::new());
    for nth in 0..=job.steps {
        let state = history.state(nth)?;
        std::fs::copy(&state, &shown)?;
        File::open(&shown)?.sync_all()?;
        hashes.push(hash(&shown)?);
        chain += history.link(nth)?;
        let backup = icecore.backup(&shown)?;
        let length = Length { chain, icecore: backup.repository_bytes, backup };
        print(nth, &length, lengths.last());
        lengths.push(length);
    }
    let ratio = |length: &Length| length.icecore as f64 / length.chain as f64;
    let worst = lengths.iter().enumerate().skip(job.length_min).max_by(|a, b| ratio(a.1).total_cmp(&ratio(b.1)));
    if let Some((steps, length)) = worst {
        println!("worst ratio from {} steps on: {:.3}, after {steps}", job.length_min, ratio(length));
    }
    let last = lengths.last().ok_or("no state")?;
    let peak = lengths.iter().map(|length| length.backup.cost.peak_bytes).max().unwrap_or(0);
    println!(
        "after all: icecore {} bytes, chain {}, ratio {:.3}; peak memory of a backup {:.1} MiB",
        last.icecore,
        last.chain,
        ratio(last),
        mib(peak)
    );
    for (name, back) in [("newest", 0), ("middle", job.steps as usize / 2), ("oldest", job.steps as usize)] {
        let restored = dir.join("restored.db");
        let sample = icecore.restore(&format!("latest~{back}"), &restored)?;
        if hash(&restored)? != hashes[hashes.len() - 1 - back] {
            return Err(format!("the {name} state came back with other bytes").into());
        }
        std::fs::remove_file(&restored)?;
        let net = ms(sample.cost.wall) - sample.key_derivation_ms.unwrap_or(0.0);
        println!("restore {name}: {net:.0} ms, CPU {:.0} ms, peak {:.1} MiB", ms(sample.cost.cpu), mib(sample.cost.peak_bytes));
    }
    icecore.check()?;
    Ok(())
}

fn print(nth: u32, length: &Length, before: Option<&Length>) {
    let (chain, icecore) = before.map_or((0, 0), |before| (before.chain, before.icecore));
    println!(
        "{nth:>3}: chain {:>10}, icecore {:>10}; in all {:>11} {:>11}, ratio {:.3}; {:>6.0} ms CPU, {:>5.1} MiB",
        length.chain - chain,
        length.icecore - icecore,
        length.chain,
        length.icecore,
        length.icecore as f64 / length.chain as f64,
        ms(length.backup.cost.cpu),
        mib(length.backup.cost.peak_bytes)
    );
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The states, and the links of the chain.
struct History<'j> {
    job: &'j Job,
    /// The database that moves on.
    database: PathBuf,
    dir: PathBuf,
    log: PathBuf,
}

impl<'j> History<'j> {
    fn new(job: &'j Job, dir: &Path) -> Result<Self> {
        let kept = job.states.clone().unwrap_or_else(|| dir.join("states"));
        std::fs::create_dir_all(&kept)?;
        Ok(History { job, database: kept.join("working.db"), dir: kept, log: dir.join("stderr") })
    }

    fn path(&self, nth: u32, ending: &str) -> PathBuf {
        self.dir.join(format!("{nth:03}.{ending}"))
    }

    /// The file of this state; makes it where it is not there yet.
    fn state(&self, nth: u32) -> Result<PathBuf> {
        let path = self.path(nth, "db");
        if !path.exists() {
            let mut args = vec!["--make".to_string(), self.database.to_string_lossy().into_owned(), "--nth".into(), nth.to_string()];
            args.extend(self.job.make.iter().cloned());
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            measure(&mut again(&args)?, &self.log)?;
            std::fs::copy(&self.database, &path)?;
        }
        if nth > 1 && self.job.states.is_none() {
            // Nothing is compared with it any more.
            std::fs::remove_file(self.path(nth - 2, "db"))?;
        }
        Ok(path)
    }

    /// The bytes of this link of the chain.
    fn link(&self, nth: u32) -> Result<u64> {
        let link = self.path(nth, "zst");
        if !link.exists() {
            let mut command = Command::new("zstd");
            command.args(["-q", "-3"]);
            if nth > 0 {
                let before = self.path(nth - 1, "db");
                command.arg("--long=31").arg(format!("--patch-from={}", before.to_str().ok_or("a path in UTF-8")?));
            }
            measure(command.arg(self.path(nth, "db")).arg("-o").arg(&link), &self.log)?;
        }
        Ok(std::fs::metadata(link)?.len())
    }
}

/// The hash of a file, in small memory.
fn hash(file: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut File::open(file)?, &mut hasher)?;
    Ok(hasher.finalize())
}
