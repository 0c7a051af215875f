//! What is checked in beside the history of the git repository: sources of others that are kept in the repository and patched, tables of text that
//! grow, and binary assets that are added and retouched.
//!
//! The sources are those of the crates that Cargo.lock names. A machine that built the bench has them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Result;
use crate::common::prose::Prose;
use crate::common::rng::{Rng, mix};

/// The directories of a checkout that this makes.
pub const DIRECTORIES: [&str; 3] = ["vendored", "tables", "assets"];

/// The size of a first state for which the amounts below are meant, bytes.
const SCALE: u64 = 57_000_000;
/// Bytes of sources that the first state takes over: they take about a quarter in Fossil.
const SOURCES_LEN: u64 = 120_000_000;
/// Bytes of assets in the first state.
const ASSETS_LEN: u64 = 13_000_000;
/// Sources larger than this are left out: generated tables and archives.
const SOURCE_LEN_MAX: u64 = 1_500_000;
/// Files of sources that a check-in patches.
const PATCHED: u64 = 50;
/// Tables, and their bytes.
const TABLES: u64 = 8;
const TABLE_LEN: usize = 1_200_000;
/// Tables that a check-in edits.
const TABLES_EDITED: u64 = 3;
/// Assets that a check-in retouches. Of so many check-ins one adds an asset.
const RETOUCHED: u64 = 3;
const ASSET_EVERY: u64 = 2;
/// Bytes of an asset.
const ASSET_LEN: (u64, u64) = (20_000, 300_000);

/// The work of one check-in.
pub struct Work<'a> {
    /// The checkout.
    pub checkout: &'a Path,
    /// The seed of all.
    pub seed: u64,
    /// The number of the check-in.
    pub number: u64,
    /// Bytes of the first state.
    pub scale: u64,
}

impl Work<'_> {
    /// The part `nth` of so many of the first state, with edits of what is there.
    ///
    /// # Errors
    /// When a file cannot be read or written, or the crates are not there.
    pub fn begin(&self, nth: u64, parts: u64) -> Result<()> {
        let mut rng = self.rng("begin");
        let sources = self.sources()?;
        let of = |len: usize, nth: u64| (len as u64 * nth / parts) as usize;
        for (from, to) in &sources[of(sources.len(), nth)..of(sources.len(), nth + 1)] {
            let to = self.checkout.join("vendored").join(to);
            std::fs::create_dir_all(to.parent().ok_or("a file lies in a directory")?)?;
            std::fs::write(to, std::fs::read(from)?)?;
        }
        let mut bytes = self.scaled(ASSETS_LEN) / parts;
        while bytes > 0 {
            bytes = bytes.saturating_sub(self.add_asset(&mut rng)?);
        }
        if nth == 0 {
            let prose = Prose::new(self.seed ^ 78);
            for table in 0..TABLES {
                let lines = (0..).map(|row| line(&prose, &mut rng, row * 10)).scan(0, |len, line| {
                    *len += line.len() as u64 + 1;
                    (*len < self.scaled(TABLE_LEN as u64)).then_some(line)
                });
                self.write(&format!("tables/{table}.csv"), &lines.collect::<Vec<_>>())?;
            }
        }
        self.edit(&mut rng)
    }

    /// What a later check-in does.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn go_on(&self) -> Result<()> {
        let mut rng = self.rng("go on");
        if self.number.is_multiple_of(ASSET_EVERY) {
            self.add_asset(&mut rng)?;
        }
        self.edit(&mut rng)
    }

    fn rng(&self, usage: &str) -> Rng {
        Rng::new(mix(self.seed) ^ self.number, usage)
    }

    fn scaled(&self, amount: u64) -> u64 {
        (amount as u128 * u128::from(self.scale) / u128::from(SCALE)) as u64
    }

    /// The files to take over, and their names: crates in the order of their names, as many as there is room for.
    fn sources(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let args = ["metadata", "--format-version", "1", "--locked", "--offline"];
        let output = Command::new("cargo").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let packages = metadata["packages"].as_array().ok_or("cargo metadata lists packages")?;
        let vendored = packages.iter().filter(|package| !package["source"].is_null());
        let mut manifests: Vec<&Path> = vendored.filter_map(|package| Some(Path::new(package["manifest_path"].as_str()?))).collect();
        manifests.sort_unstable();
        let mut room = self.scaled(SOURCES_LEN);
        let mut sources = Vec::new();
        for dir in manifests.into_iter().filter_map(Path::parent) {
            let name = Path::new(dir.file_name().ok_or("a crate has a name")?);
            for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
                let entry = entry?;
                let len = entry.metadata()?.len();
                if entry.file_type().is_file() && len <= SOURCE_LEN_MAX.min(room) {
                    room -= len;
                    sources.push((entry.path().to_path_buf(), name.join(entry.path().strip_prefix(dir)?)));
                }
            }
        }
        Ok(sources)
    }

    /// Adds an asset; its bytes.
    fn add_asset(&self, rng: &mut Rng) -> Result<u64> {
        let dir = self.checkout.join("assets");
        std::fs::create_dir_all(&dir)?;
        let len = rng.between(ASSET_LEN.0, ASSET_LEN.1);
        let bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).collect();
        std::fs::write(dir.join(format!("{:04}.bin", std::fs::read_dir(&dir)?.count())), bytes)?;
        Ok(len)
    }

    /// Patches sources, edits tables and retouches assets.
    fn edit(&self, rng: &mut Rng) -> Result<()> {
        let prose = Prose::new(self.seed ^ 79);
        let sources = files(&self.checkout.join("vendored"), "rs")?;
        for _ in 0..self.scaled(PATCHED).min(sources.len() as u64) {
            // A few files are patched often.
            let most = 1 + rng.below(sources.len() as u64);
            let place = rng.below(most);
            patch(&sources[place as usize], &prose, rng)?;
        }
        for _ in 0..TABLES_EDITED {
            self.edit_table(rng.below(TABLES), &prose, rng)?;
        }
        let assets = files(&self.checkout.join("assets"), "bin")?;
        for _ in 0..RETOUCHED {
            let path = &assets[rng.below(assets.len() as u64) as usize];
            let mut bytes = std::fs::read(path)?;
            let start = rng.below(bytes.len() as u64) as usize;
            let other: Vec<u8> = (0..rng.between(500, 4_000)).map(|_| (rng.next() & 255) as u8).collect();
            // What stands behind it moves by a little.
            let end = bytes.len().min(start + 2_000);
            bytes.splice(start..end, other);
            std::fs::write(path, bytes)?;
        }
        Ok(())
    }

    /// Changes some of the newest rows of a table, removes some, and puts in others: what is compressed of those before them stays as it is.
    fn edit_table(&self, table: u64, prose: &Prose, rng: &mut Rng) -> Result<()> {
        let name = format!("tables/{table}.csv");
        let mut lines: Vec<String> = std::fs::read_to_string(self.checkout.join(&name))?.lines().map(String::from).collect();
        for _ in 0..12 {
            let place = lines.len() - 1 - rng.below(lines.len() as u64 / 8) as usize;
            let key = lines[place].split(';').next().and_then(|key| key.parse().ok()).unwrap_or(0);
            match rng.below(4) {
                0 => lines[place] = line(prose, rng, key),
                1 => drop(lines.remove(place)),
                _ => lines.insert(place + 1, line(prose, rng, key + 1)),
            }
        }
        self.write(&name, &lines)
    }

    fn write(&self, name: &str, lines: &[String]) -> Result<()> {
        let path = self.checkout.join(name);
        std::fs::create_dir_all(path.parent().ok_or("a file lies in a directory")?)?;
        Ok(std::fs::write(path, lines.join("\n") + "\n")?)
    }
}

/// A row of a table.
fn line(prose: &Prose, rng: &mut Rng, key: u64) -> String {
    let mut text = String::new();
    prose.sentence(rng, key / 1000, &mut text);
    format!("{key};{};{:.4};{text}", prose.word(rng), rng.unit() * 1000.0)
}

/// The files of this extension below a directory, in order.
fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() && entry.path().extension().is_some_and(|of_file| of_file == extension) {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

/// Edits a source here and there: a comment comes, a line goes, a few lines move.
fn patch(path: &Path, prose: &Prose, rng: &mut Rng) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(()) };
    let mut lines: Vec<String> = text.lines().map(String::from).collect();
    for _ in 0..rng.between(1, 6) {
        let place = rng.below(lines.len() as u64 + 1) as usize;
        let mut comment = String::from("// ");
        prose.sentence(rng, 5, &mut comment);
        match rng.below(3) {
            1 if place < lines.len() => drop(lines.remove(place)),
            2 if place + 6 < lines.len() => {
                let moved: Vec<String> = lines.drain(place..place + 6).collect();
                let to = rng.below(lines.len() as u64 + 1) as usize;
                lines.splice(to..to, moved);
            }
            _ => lines.insert(place, comment),
        }
    }
    Ok(std::fs::write(path, lines.join("\n") + "\n")?)
}
