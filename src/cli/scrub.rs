//! The command `scrub`: verifies stored bytes without a key.

use std::path::PathBuf;

use icecore::ops::journaled::Report;
use icecore::ops::scrub::{ScrubReport, scrub};

use super::context::Context;
use super::exit::{Exit, Failure};
use super::findings;
use super::location;
use super::screen::Screen;
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Packs, snapshot records and marks are compared with their names, which are hashes of their bytes; everything else with its checksum, \
                        if it has one. The findings have the codes of `check`. Objects that cannot be checked without the key are named in the output.\n\n\
                        Exit codes: 0 every object is as its name or checksum says; 4 damage found.\n\nExample:\n  icecore scrub /srv/backups/store"
)]
pub(crate) struct ScrubArgs {
    /// The repository [default: as -R]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(context: &Context<'_>, args: &ScrubArgs) -> Result<Exit, Failure> {
    if args.dir.is_some() && context.names_repository() {
        return Err(Failure::usage("DIR and -R both name a repository: give one of them"));
    }
    if let Some(dir) = &args.dir {
        location::refuse_as_repository(dir.as_os_str())?;
    }
    let path = args.dir.clone().map_or_else(|| context.repository_path(), Ok)?;
    let backend = context.backend(&path)?;
    let progress = context.progress();
    let report = scrub(&backend, context.threads(), &progress)?;
    drop(progress);
    let screen = &context.output.screen;
    // Findings are printed even with -q.
    match report.findings.is_empty() {
        true => context.output.report(&report, |report| text(report, screen))?,
        false => context.output.result(&report, |report| text(report, screen))?,
    }
    Ok(report.outcome().into())
}

fn text(report: &ScrubReport, screen: &Screen) -> String {
    let mut text = findings::table(&report.findings, &[], screen);
    text.push_str(&format!("not checked, as it takes the key or a second look:\n  {}\n", report.not_checked.join("\n  ")));
    let next = "`icecore check --read-data`, with the key, says which snapshots have lost something";
    text + &report.summary() + "\n" + &findings::advice(report.status, next, screen)
}
