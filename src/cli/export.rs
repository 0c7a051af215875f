//! `export`.

use std::path::PathBuf;
use std::time::Instant;

use icecore::engine::place::{Findings, Placement};
use icecore::fs::disk::RealDisk;
use icecore::ops::export::{self, ExportOptions, Exported};
use icecore::ops::journal::Operation;
use icecore::progress::Monitor;
use icecore::store::repo::Repository;
use serde::Serialize;

use super::args::SnapArgs;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::journaled::{Story, journaled};
use super::output::{self, count, printable};
use super::time;
use super::views::Located;

/// Write a snapshot as flat files, with checksums.txt and manifest.json
#[derive(Debug, clap::Args)]
#[command(
    after_help = "DIR becomes the export in one step: until then what was there stays as it was. `sha256sum -c checksums.txt` and SQLite read it without \
                  icecore, and `icecore restore --from-dir DIR NAME=DEST...` restores from it without a repository.\n\
                  What DIR held before is removed if it is an unchanged export, else kept as DIR.pre_export.TIMESTAMP.\n\n\
                  Example:\n  icecore export latest /srv/artefacts/brain"
)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    snap: SnapArgs,
    /// The directory that becomes the export
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Export a database too that SQLite finds damaged
    #[arg(long)]
    accept_damaged: bool,
}

#[derive(Serialize)]
struct Done {
    snapshot: String,
    #[serde(flatten)]
    located: Located,
    files: u64,
    bytes: u64,
    status: &'static str,
    kept: Option<Located>,
    /// What SQLite said of databases, each with its name.
    damage: Vec<String>,
    warnings: Vec<String>,
    not_checked: Vec<String>,
    duration_ms: f64,
    key_derivation_ms: f64,
    #[serde(skip)]
    short_id: String,
}

/// `export`.
pub(crate) fn run(context: &Context<'_>, args: &ExportArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    journaled(context, &repo, Operation::Export, |story| write(context, &repo, args, story))
}

fn write(context: &Context<'_>, repo: &Repository, args: &ExportArgs, story: &mut Story) -> Result<Exit, Failure> {
    let started = Instant::now();
    let progress = context.progress();
    story.detail.clone_from(&args.snap.snap);
    let (id, record) = context.find(repo, &args.snap, &progress)?;
    story.snapshots.push(id);
    story.source = Some(record.source.id);
    story.detail = format!("to {}", args.dir.display());
    for flag in &record.flags {
        progress.warn(&format!("snapshot {} is flagged {}: {}", id.short(), flag.code, flag.detail));
    }
    let now_ns = time::now_ns();
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(now_ns), monitor: &progress };
    let options = ExportOptions { now_ns, accept_damaged: args.accept_damaged };
    let Exported { path, manifest, kept, findings } = export::export(repo, (&id, &record), &args.dir, &options, &placement)?;
    repo.warn_of_healed(&progress);
    drop(progress);
    let done = Done {
        snapshot: id.to_string(),
        located: Located::of(&path),
        files: manifest.files.len() as u64,
        bytes: manifest.bytes,
        status: manifest.status,
        kept: kept.as_deref().map(Located::of),
        damage: told(&findings, |of| &of.damage),
        warnings: told(&findings, |of| &of.warnings),
        not_checked: told(&findings, |of| &of.not_checked),
        duration_ms: output::ms(started.elapsed().as_micros() as u64),
        key_derivation_ms: output::ms(repo.key_derivation().as_micros() as u64),
        short_id: id.short(),
    };
    context.output.report(&done, Done::text)?;
    Ok(Exit::Done)
}

fn told(findings: &[(Vec<u8>, Findings)], which: impl Fn(&Findings) -> &Vec<String>) -> Vec<String> {
    let lines = |(name, of): &(Vec<u8>, Findings)| {
        let name = String::from_utf8_lossy(name).into_owned();
        which(of).iter().map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
    };
    findings.iter().flat_map(lines).collect()
}

impl Done {
    fn text(&self) -> String {
        let mut text = String::new();
        if let Some(kept) = &self.kept {
            text.push_str(&format!("what was there is no unchanged export and is kept as {}\n", printable(&kept.path)));
        }
        let (files, bytes) = (count(self.files, "file"), output::bytes(self.bytes));
        let (took, derivation) = (output::duration(self.duration_ms), output::key_derivation(self.key_derivation_ms));
        text.push_str(&format!(
            "exported snapshot {} to {}: {files}, {bytes}, verified, in {took}{derivation}\n",
            self.short_id,
            printable(&self.located.path)
        ));
        text
    }
}
