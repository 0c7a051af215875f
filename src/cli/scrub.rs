//! `scrub`.

use std::path::PathBuf;

use icecore::ops::journaled::Report;
use icecore::ops::scrub::{ScrubReport, scrub};

use super::check::findings_table;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::location;

/// Verify stored bytes without a passphrase: for those who keep a repository for somebody else
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Packs, snapshot records and marks are compared with their names, which are hashes of their bytes; everything else with its checksum, \
                        as far as it has one. The findings have the codes of `check`. What needs the key is not checked: it is named in the output.\n\n\
                        Exit codes: 0 all is as its name or checksum says; 4 it is not.\n\nExample:\n  icecore scrub /srv/backups/store"
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
    // What was found is said even with -q.
    match report.findings.is_empty() {
        true => context.output.report(&report, text)?,
        false => context.output.result(&report, text)?,
    }
    Ok(report.outcome().into())
}

fn text(report: &ScrubReport) -> String {
    let mut text = findings_table(&report.findings);
    text.push_str(&format!("not checked, as it takes the key or a second look:\n  {}\n", report.not_checked.join("\n  ")));
    text + &report.summary() + "\n"
}
