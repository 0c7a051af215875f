//! Trees of many small files: `cargo bench --bench trees [-- --files 200000 --rounds 1 --dir DIR]`.
//!
//! A tree of text files of about 240 bytes is backed up, backed up again unchanged, checked and restored into a new directory, by icecore and by restic
//! in turns, as processes; restic is left out where it is not installed. icecore's restore ends when everything is durable, restic's does not sync:
//! `sync` after it is measured, too. Without `--dir` all of it lies in the directory for temporary files.
#![allow(clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::args::Args;
use common::process::{Cost, again, measure};
use common::report::{median, ms};
use common::rng::Rng;
use common::tool::find;

/// Files when nothing else is asked for: a short run.
const FILES: u32 = 20_000;
/// Files in a directory.
const FILES_PER_DIR: u32 = 500;
/// Words in a file.
const WORDS: u32 = 34;

/// What is done, in this order.
const STEPS: [&str; 6] = ["backup", "unchanged backup", "check", "restore", "restore and sync", "restore in place"];

fn main() -> common::Result<()> {
    let Some(args) = Args::read(&["--files", "--rounds", "--dir", "--make"])? else { return Ok(()) };
    let files = args.number("--files", FILES)?;
    if let Some(dir) = args.value("--make") {
        return make(Path::new(dir), files);
    }
    let above = args.value("--dir").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(above)?;
    let (tree, log) = (dir.path().join("tree"), dir.path().join("stderr"));
    let tree_text = tree.to_str().ok_or("a path in UTF-8")?;
    measure(&mut again(&["--make", tree_text, "--files", &files.to_string()])?, &log)?;
    let restic = find("restic", None);
    let mut costs: Vec<(String, Cost)> = Vec::new();
    for round in 0..args.number("--rounds", 1)? {
        let here = dir.path().join(format!("round-{round}"));
        for (step, cost) in STEPS.iter().zip(of_icecore(&here.join("icecore"), tree_text, &log)?) {
            costs.push((format!("{step} | icecore"), cost));
        }
        if let Some(restic) = &restic {
            for (step, cost) in STEPS.iter().zip(of_restic(restic, &here.join("restic"), tree_text, &log)?) {
                costs.push((format!("{step} | restic"), cost));
            }
        }
        fs::remove_dir_all(&here)?;
    }
    println!("{files} files\n\n| step | program | wall s | CPU s | peak MiB |\n|---|---|--:|--:|--:|");
    for step in STEPS {
        for program in ["icecore", "restic"] {
            let name = format!("{step} | {program}");
            let of = |value: fn(&Cost) -> f64| {
                median(&mut costs.iter().filter(|(of, _)| *of == name).map(|(_, cost)| value(cost)).collect::<Vec<_>>())
            };
            if costs.iter().any(|(of, _)| *of == name) {
                let (wall, cpu) = (of(|cost| ms(cost.wall)) / 1e3, of(|cost| ms(cost.cpu)) / 1e3);
                println!("| {name} | {wall:.2} | {cpu:.2} | {:.0} |", of(|cost| cost.peak_bytes as f64) / f64::from(1 << 20));
            }
        }
    }
    Ok(())
}

fn make(root: &Path, files: u32) -> common::Result<()> {
    let mut rng = Rng::new(7, "trees");
    for number in 0..files {
        let dir = root.join(format!("{:03}/{:02}", number / FILES_PER_DIR / 50, number / FILES_PER_DIR % 50));
        if number % FILES_PER_DIR == 0 {
            fs::create_dir_all(&dir)?;
        }
        let words: Vec<String> = (0..WORDS).map(|_| format!("w{:05}", rng.below(20_000))).collect();
        fs::write(dir.join(format!("file{number:07}.txt")), words.join(" "))?;
    }
    Ok(())
}

/// Synced before each step, so that none pays for another.
fn settle(log: &Path) -> common::Result<Cost> {
    Ok(measure(&mut Command::new("sync"), log)?.0)
}

fn of_icecore(dir: &Path, tree: &str, log: &Path) -> common::Result<Vec<Cost>> {
    fs::create_dir_all(dir)?;
    let run = |args: &[&str]| -> common::Result<Cost> {
        settle(log)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.env("ICECORE_PASSWORD", "a passphrase for benches").env("ICECORE_REPOSITORY", dir.join("repository"));
        command.env("ICECORE_CACHE_DIR", dir.join("cache")).args(args);
        Ok(measure(&mut command, log)?.0)
    };
    let out = dir.join("to");
    let out = out.to_str().ok_or("a path in UTF-8")?;
    run(&["init"])?;
    let mut costs = Vec::new();
    for args in [&["backup", "files", tree][..], &["backup", "files", tree], &["check"], &["restore", "latest", "--to", out]] {
        costs.push(run(args)?);
    }
    costs.push(costs[3].then(settle(log)?));
    costs.push(run(&["-q", "restore", "latest", "--to", out])?);
    Ok(costs)
}

fn of_restic(restic: &Path, dir: &Path, tree: &str, log: &Path) -> common::Result<Vec<Cost>> {
    fs::create_dir_all(dir)?;
    let run = |args: &[&str]| -> common::Result<Cost> {
        settle(log)?;
        let mut command = Command::new(restic);
        command.env("RESTIC_PASSWORD", "a passphrase for benches").env("RESTIC_REPOSITORY", dir.join("repository"));
        command.arg("--cache-dir").arg(dir.join("cache")).args(args);
        Ok(measure(&mut command, log)?.0)
    };
    let out = dir.join("to");
    let out = out.to_str().ok_or("a path in UTF-8")?;
    run(&["init"])?;
    let mut costs = Vec::new();
    for args in [&["backup", tree][..], &["backup", tree], &["check"], &["restore", "latest", "--target", out]] {
        costs.push(run(args)?);
    }
    costs.push(costs[3].then(settle(log)?));
    costs.push(run(&["restore", "latest", "--target", out])?);
    Ok(costs)
}
