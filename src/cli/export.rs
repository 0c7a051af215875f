//! The command `export`.

use std::path::PathBuf;

use icecore::ops::export::{ExportReport, perform};
use icecore::ops::journaled::{Report, Work};

use super::args::SnapArgs;
use super::context::{Context, wanted};
use super::exit::{Exit, Failure};
use super::location::refuse_as_directory;
use super::output::{self, count, printable};

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

/// `export`.
pub(crate) fn run(context: &Context<'_>, args: &ExportArgs) -> Result<Exit, Failure> {
    refuse_as_directory("DIR", &args.dir)?;
    let repo = context.open()?;
    let progress = context.progress();
    let wanted = wanted(&args.snap.snap, &args.snap.filter)?;
    let report = perform(&Work { repo: &repo, worker: &context.worker(), monitor: &progress }, &wanted, &args.dir, args.accept_damaged)?;
    drop(progress);
    context.output.report(&report, text)?;
    Ok(report.outcome().into())
}

fn text(report: &ExportReport) -> String {
    let mut text = String::new();
    if let Some(kept) = &report.kept {
        text.push_str(&format!("what was there is not an unchanged export and is kept as {}\n", printable(&kept.to_string_lossy())));
    }
    let (files, bytes) = (count(report.files, "file"), output::bytes(report.bytes));
    let took = output::took(report.duration_us, report.key_derivation_us, &[]);
    text.push_str(&format!(
        "exported snapshot {} to {}: {files}, {bytes}, verified, in {took}\n",
        report.snapshot.short(),
        printable(&report.path.to_string_lossy())
    ));
    text
}
