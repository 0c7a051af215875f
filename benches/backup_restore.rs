//! Backup, restore and check of one database, end to end, with the binary as a process.
//!
//! `cargo bench --bench backup_restore -- [--size 100MB] [--runs 5] [--steps 3] [--large] [--dir DIR]`
//!
//! `--large` measures 4 GiB once instead (another size with `--size`); it needs three times that much disk. In every run icecore and
//! the programs it is compared with take turns on the same files, so that the ratios hold on a busy machine too. All files are in the
//! page cache. Every restored file is compared with the original.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::Result;
use common::args::Args;
use common::process::{again, measure};
use common::report::Report;
use common::store::{Shape, Store, StoreSpec};
use common::tool::{Icecore, copy_sync_check, quick_check, sync, zstd};

const ZSTD: &str = "zstd -3 -T0";
const COPY: &str = "cp + sync + quick_check";

fn main() -> Result<()> {
    let known = ["--size", "--runs", "--steps", "--large", "--dir", "--quick-check", "--create", "--step"];
    let Some(args) = Args::read(&known)? else { return Ok(()) };
    let large = args.flag("--large");
    let default = if large { StoreSpec::bulk(4 << 30) } else { StoreSpec::default() };
    let spec = StoreSpec { bytes: args.bytes("--size", default.bytes)?, vacuum_steps: Vec::new(), ..default };
    if let Some(path) = args.value("--quick-check") {
        return quick_check(Path::new(path));
    }
    if let Some(path) = args.value("--create") {
        return Store::create(Path::new(path), spec).map(drop);
    }
    if let Some(path) = args.value("--step") {
        return Store::open(Path::new(path), spec)?.step(args.number("--steps", 1)?);
    }
    let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
    let bench = Bench { dir: dir.path().to_path_buf(), spec, steps: args.number("--steps", if large { 1 } else { 3 })? };
    bench.child("--create", &bench.path("origin.db"), 0)?;
    let mut report = Report::default();
    for run in 0..args.number("--runs", if large { 1 } else { 5 })? {
        eprintln!("run {}", run + 1);
        bench.run(&mut report)?;
    }
    let bytes = std::fs::metadata(bench.path("origin.db"))?.len();
    report.print(&format!("backup_restore, {bytes} bytes"));
    Ok(())
}

struct Bench {
    dir: PathBuf,
    spec: StoreSpec,
    steps: u32,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Works on a store in a child, which may use what memory it likes.
    fn child(&self, job: &str, store: &Path, step: u32) -> Result<()> {
        let (size, step) = (self.spec.bytes.to_string(), step.to_string());
        let path = store.to_str().ok_or("a path in UTF-8")?;
        let mut command = again(&[job, path, "--size", &size, "--steps", &step])?;
        if self.spec.shape == Shape::Bulk {
            command.arg("--large");
        }
        measure(&mut command, &self.path("stderr")).map(drop)
    }

    fn run(&self, report: &mut Report) -> Result<()> {
        let (store, log) = (self.path("store.db"), self.path("stderr"));
        let (packed, copy, restored) = (self.path("store.zst"), self.path("copy.db"), self.path("restored.db"));
        std::fs::copy(self.path("origin.db"), &store)?;
        File::open(&store)?.sync_all()?;

        let cost = zstd(&store, &packed, &log)?;
        let packed_bytes = std::fs::metadata(&packed)?.len();
        report.add_cost(ZSTD, cost, packed_bytes);
        report.add_cost("zstd -3 -T0 + sync", cost.then(sync(&packed, &log)?), packed_bytes);
        remove(&packed)?;

        let dir = self.path("icecore");
        let icecore = Icecore::init(&dir)?;
        let parity_dir = self.path("icecore-parity");
        let with_parity = Icecore::init_with(&parity_dir, &["--parity", "3%"])?;
        // A file that changed less than two seconds ago is never taken as unchanged.
        std::thread::sleep(Duration::from_millis(2_500));
        report.add("first backup", Some(ZSTD), icecore.backup(&store)?);
        report.add("first backup, 3 % parity", Some(ZSTD), with_parity.backup(&store)?);
        report.add("unchanged backup", None, icecore.backup(&store)?);
        File::options().write(true).open(&store)?.set_modified(SystemTime::now())?;
        report.add("unchanged, but touched", None, icecore.backup(&store)?);
        for step in 1..=self.steps {
            self.child("--step", &store, step)?;
            File::open(&store)?.sync_all()?;
            report.add("one step later", None, icecore.backup(&store)?);
            report.add("one step later, 3 % parity", None, with_parity.backup(&store)?);
        }

        report.add_cost(COPY, copy_sync_check(&store, &copy, &log)?, std::fs::metadata(&store)?.len());
        remove(&copy)?;
        report.add("restore", Some(COPY), icecore.restore("latest", &restored)?);
        if !same(&store, &restored)? {
            return Err("the restored file is not the one that was backed up".into());
        }
        remove(&restored)?;
        report.add("check --read-data", None, icecore.check()?);
        report.add("check --read-data, 3 % parity", None, with_parity.check()?);
        std::fs::remove_dir_all(parity_dir)?;
        remove(&store)?;
        Ok(std::fs::remove_dir_all(dir)?)
    }
}

fn remove(path: &Path) -> Result<()> {
    Ok(std::fs::remove_file(path)?)
}

/// Whether two files have the same bytes; in small memory, see [`common::process`].
fn same(a: &Path, b: &Path) -> Result<bool> {
    let (mut a, mut b) = (File::open(a)?, File::open(b)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        let count = a.by_ref().take(1 << 20).read_to_end(&mut left)?;
        b.by_ref().take(1 << 20).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}
