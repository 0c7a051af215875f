//! `scrub`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use icecore::fs::disk::RealDisk;
use icecore::ops::scrub::{NOT_CHECKED, scrub};
use icecore::store::backend::local::LocalBackend;
use serde::Serialize;

use super::check::{FindingView, findings_table, verdict};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output::{self, count};

/// Verify stored bytes without a passphrase: for whoever keeps a repository for somebody else
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

#[derive(Serialize)]
struct Done {
    /// `ok`, `warnings` or `damaged`.
    status: &'static str,
    findings: Vec<FindingView>,
    packs: u64,
    records: u64,
    read_bytes: u64,
    not_checked: [&'static str; NOT_CHECKED.len()],
    duration_ms: f64,
}

pub(crate) fn run(context: &Context<'_>, args: &ScrubArgs) -> Result<Exit, Failure> {
    let path = args.dir.clone().map_or_else(|| context.repository_path(), Ok)?;
    let backend = LocalBackend::open(&path, Arc::new(RealDisk))?;
    let started = Instant::now();
    let progress = context.progress();
    let report = scrub(&backend, context.threads(), &progress)?;
    drop(progress);
    let done = Done {
        status: verdict(&report.findings),
        findings: report.findings.iter().map(FindingView::of).collect(),
        packs: report.packs,
        records: report.records,
        read_bytes: report.read_bytes,
        not_checked: NOT_CHECKED,
        duration_ms: output::ms(started.elapsed().as_micros() as u64),
    };
    // What was found is said even with -q.
    match report.findings.is_empty() {
        true => context.output.report(&done, Done::text)?,
        false => context.output.result(&done, Done::text)?,
    }
    if report.is_damaged() { Ok(Exit::Damaged) } else { Ok(Exit::Done) }
}

impl Done {
    fn text(&self) -> String {
        let mut text = findings_table(&self.findings);
        let looked = [count(self.packs, "pack"), count(self.records, "record")].join(", ");
        let verdict = match self.status {
            "ok" => "no damage found".to_owned(),
            _ => format!("{} ({})", count(self.findings.len() as u64, "finding"), self.status),
        };
        let (read, took) = (output::bytes(self.read_bytes), output::duration(self.duration_ms));
        text.push_str(&format!("not checked, as it takes the key or a second look:\n  {}\n", self.not_checked.join("\n  ")));
        text.push_str(&format!("{looked}, {read} read in {took}: {verdict}\n"));
        text
    }
}
