//! `restore --salvage`: what can still be read of damaged streams.

use std::ffi::OsString;
use std::path::Path;

use icecore::engine::sqlite::salvage::{Losses, Object};
use icecore::ops::journaled::{Report, Work};
use icecore::ops::restore::salvage::Salvaged;
use icecore::ops::restore::{RestoreOptions, SalvageReport, perform_salvage};
use icecore::ops::select::Wanted;
use icecore::store::repo::Repository;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::output::{self, count, printable};

/// How many damaged streams the text names.
const SHOWN_MAX: usize = 20;
/// How many lost ranges and tables of a stream the text names.
const NAMED_MAX: usize = 8;

/// `restore --salvage`.
pub(crate) fn salvage(
    context: &Context<'_>,
    repo: &Repository,
    wanted: &Wanted,
    (dir, streams): (&Path, &[OsString]),
    no_xattrs: bool,
) -> Result<Exit, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let progress = context.progress();
    let names: Vec<Vec<u8>> = streams.iter().map(|name| name.as_bytes().to_vec()).collect();
    let options = RestoreOptions { no_xattrs, ..RestoreOptions::default() };
    let work = Work { repo, worker: &context.worker(), monitor: &progress };
    let report = perform_salvage(&work, wanted, dir, &names, &options)?;
    drop(progress);
    let exit = report.outcome().into();
    match exit {
        Exit::Done => context.output.report_as(exit, &report, text),
        // Losses are printed even with -q.
        _ => context.output.insist_as(exit, &report, text),
    }
}

fn text(report: &SalvageReport) -> String {
    let mut text = String::new();
    let damaged = || report.streams.iter().filter(|stream| stream.bytes_lost > 0);
    damaged().take(SHOWN_MAX).for_each(|stream| text.push_str(&stream_text(stream)));
    let with_losses = damaged().count();
    if with_losses > SHOWN_MAX {
        text.push_str(&format!("{} more have losses; --json lists all\n", with_losses - SHOWN_MAX));
    }
    if report.links_left_out > 0 {
        text.push_str(&format!("{} left out\n", count(report.links_left_out, "link")));
    }
    let streams = count(report.streams.len() as u64, "stream");
    let took = output::took(report.duration_us, report.key_derivation_us, &[]);
    let from = format!("snapshot {}", report.snapshot.short());
    let lost = match with_losses {
        0 if report.failed.is_empty() && report.untried == 0 => "nothing is lost".to_owned(),
        0 => "no losses in what was salvaged".to_owned(),
        some => format!("{} lost in {}", output::bytes(report.bytes_lost), count(some as u64, "stream")),
    };
    let lacking = match (report.failed.len() as u64, report.untried) {
        (0, 0) => String::new(),
        (failed, 0) => format!("; {failed} not salvaged"),
        (failed, untried) => format!("; {failed} not salvaged, {untried} not tried"),
    };
    text.push_str(&format!("salvaged {streams} of {from}, {}, {lost}, in {took}{lacking}\n", output::bytes(report.bytes)));
    text
}

/// The losses of one stream.
fn stream_text(stream: &Salvaged) -> String {
    let mut ranges: Vec<String> = stream.lost.iter().take(NAMED_MAX).map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
    if stream.ranges > ranges.len() as u64 {
        ranges.push(format!("and {} more", stream.ranges - ranges.len() as u64));
    }
    let mut text = format!(
        "{}: {} of {} bytes are lost (zeros in the file): {} (counted from 0)\n",
        printable(&stream.path.to_string_lossy()),
        stream.bytes_lost,
        stream.bytes,
        ranges.join(", ")
    );
    stream.tables.iter().for_each(|tables| text.push_str(&tables_text(tables)));
    text
}

fn tables_text(losses: &Losses) -> String {
    if let Some(why) = &losses.untold {
        return format!("  which tables have losses cannot be told: {}\n", printable(why));
    }
    let name = |one: &Object| match one.name == one.table {
        true => format!("table {}", one.name),
        false => format!("index {} of table {}", one.name, one.table),
    };
    let named = |one: &Object| format!("  {} has losses: {}\n", printable(&name(one)), count(one.count, "finding"));
    let mut text: String = losses.objects.iter().take(NAMED_MAX).map(named).collect();
    let more = losses.more + losses.objects.len().saturating_sub(NAMED_MAX) as u64;
    if more > 0 {
        text.push_str(&format!("  {more} more tables and indexes have losses; --json lists them\n"));
    }
    if losses.objects.is_empty() {
        text.push_str("  no table has losses\n");
    }
    text
}
