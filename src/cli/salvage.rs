//! `restore --salvage`.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use icecore::Error;
use icecore::engine::place::Placement;
use icecore::engine::sqlite::salvage::{Losses, Object};
use icecore::fs::disk::RealDisk;
use icecore::ops::restore::salvage::{self, Salvage, Salvaged};
use icecore::ops::restore::{Outcome, RestoreOptions};
use icecore::progress::Monitor;
use icecore::store::repo::Repository;
use serde::Serialize;

use super::context::{Context, find_in};
use super::exit::{Exit, Failure};
use super::journaled::Story;
use super::output::{self, count, printable};
use super::progress::Progress;
use super::restore::{FAILED_SHOWN_MAX, FailedView, RestoreArgs, SHOWN_MAX, of_which_source};
use super::time;
use super::views::{Located, Named};

/// Ranges and tables of a stream that the text names.
const NAMED_MAX: usize = 8;

#[derive(Serialize)]
struct Done {
    snapshot: String,
    /// The directory.
    #[serde(flatten)]
    located: Located,
    /// `done`, `incomplete`, `damaged` or `interrupted`.
    status: &'static str,
    bytes: u64,
    bytes_lost: u64,
    streams: Vec<View>,
    failed: Vec<FailedView>,
    untried: u64,
    links_left_out: u64,
    listing: Option<String>,
    duration_ms: f64,
    key_derivation_ms: f64,
    #[serde(skip)]
    from: String,
}

#[derive(Serialize)]
struct View {
    #[serde(flatten)]
    named: Named,
    #[serde(flatten)]
    located: Located,
    bytes: u64,
    bytes_lost: u64,
    lost: Vec<LostRange>,
    lost_ranges: u64,
    tables: Option<Tables>,
}

#[derive(Serialize)]
struct LostRange {
    offset: u64,
    len: u64,
}

#[derive(Serialize)]
struct Tables {
    untold: Option<String>,
    damaged: Vec<Table>,
    more: u64,
    others: Vec<String>,
}

#[derive(Serialize)]
struct Table {
    name: String,
    table: String,
    count: u64,
    findings: Vec<String>,
}

/// `restore --salvage`.
pub(crate) fn salvage(
    context: &Context<'_>,
    repo: &Repository,
    snap: &str,
    dir: &Path,
    args: &RestoreArgs,
    story: &mut Story,
) -> Result<Exit, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let started = Instant::now();
    let progress = context.progress();
    let (id, record) = find_in(&context.refresh(repo, &progress)?, snap, &args.filter)?.clone();
    story.snapshots.push(id);
    story.source = Some(record.source.id);
    story.detail = format!("salvaged into {}", dir.display());
    for flag in &record.flags {
        progress.warn(&format!("snapshot {} is flagged {}: {}", id.short(), flag.code, flag.detail));
    }
    let names: Vec<Vec<u8>> = args.streams.iter().map(|name| name.as_bytes().to_vec()).collect();
    let options = RestoreOptions { no_xattrs: args.no_xattrs, ..RestoreOptions::default() };
    let placement = Placement { disk: &RealDisk, timestamp: time::compact(time::now_ns()), monitor: &progress };
    let outcome = salvage::salvage(repo, &record, dir, &names, &options, &placement);
    let outcome = outcome.map_err(|error| of_which_source(error, snap, &args.filter))?;
    repo.warn_of_healed(&progress);
    let done = Done {
        snapshot: id.to_string(),
        located: Located::of(dir),
        duration_ms: output::ms(started.elapsed().as_micros() as u64),
        key_derivation_ms: output::ms(repo.key_derivation().as_micros() as u64),
        from: format!("snapshot {}", id.short()),
        ..Done::of(&outcome)
    };
    end(context, done, outcome, progress)
}

/// Says what there is and what is missing. Where nothing was written, that is a failure as of any other command.
fn end(context: &Context<'_>, mut done: Done, outcome: Salvage, progress: Progress) -> Result<Exit, Failure> {
    if !outcome.is_changed() && (outcome.stopped.is_some() || !outcome.failed.is_empty()) {
        drop(progress);
        let Salvage { failed, untried, stopped, .. } = outcome;
        let error = Outcome { failed, untried, stopped, ..Outcome::default() }.whole().err();
        return Err(Failure::from(error.unwrap_or_else(|| Error::bug("a salvage wrote nothing and names no reason"))));
    }
    if let Some(missing) = &done.listing {
        progress.warn(missing);
    }
    for failed in outcome.failed.iter().take(FAILED_SHOWN_MAX) {
        progress.warn(&format!("{} was not salvaged: {}", String::from_utf8_lossy(&failed.name), failed.error));
    }
    if outcome.failed.len() > FAILED_SHOWN_MAX {
        progress.warn(&format!("{} more were not salvaged; --json lists all", outcome.failed.len() - FAILED_SHOWN_MAX));
    }
    let (exit, status) = match &outcome.stopped {
        Some(Error::Cancelled) => (Exit::Interrupted, "interrupted"),
        _ if outcome.has_losses() => (Exit::Damaged, "damaged"),
        None if outcome.failed.is_empty() => (Exit::Done, "done"),
        _ => (Exit::Incomplete, "incomplete"),
    };
    if let Some(error) = &outcome.stopped {
        progress.warn(&format!("the salvage stopped: {error}; {} not tried", count(outcome.untried, "stream")));
    }
    drop(progress);
    done.status = status;
    match exit {
        Exit::Done => context.output.report_as(exit, &done, Done::text),
        // What is missing is said with -q, too.
        _ => context.output.insist_as(exit, &done, Done::text),
    }
}

impl Done {
    fn of(outcome: &Salvage) -> Self {
        let sum = |of: fn(&Salvaged) -> u64| outcome.streams.iter().map(of).fold(0, u64::saturating_add);
        let missing = |why: &String| {
            let places = count(outcome.listing.places, "place");
            format!(
                "the snapshot's listing is damaged in {places}: streams may be missing here, and nobody knows their names; the first damage: {why}"
            )
        };
        Done {
            snapshot: String::new(),
            located: Located::of(Path::new("")),
            status: "done",
            bytes: sum(|stream| stream.bytes),
            bytes_lost: sum(|stream| stream.bytes_lost),
            streams: outcome.streams.iter().map(View::of).collect(),
            failed: outcome.failed.iter().map(FailedView::of).collect(),
            untried: outcome.untried,
            links_left_out: outcome.links,
            listing: outcome.listing.first.as_ref().map(missing),
            duration_ms: 0.0,
            key_derivation_ms: 0.0,
            from: String::new(),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let damaged = || self.streams.iter().filter(|stream| stream.bytes_lost > 0);
        damaged().take(SHOWN_MAX).for_each(|stream| text.push_str(&stream.text()));
        let with_losses = damaged().count();
        if with_losses > SHOWN_MAX {
            text.push_str(&format!("{} more have losses; --json lists all\n", with_losses - SHOWN_MAX));
        }
        if self.links_left_out > 0 {
            text.push_str(&format!("{} left out\n", count(self.links_left_out, "link")));
        }
        let (streams, took) = (count(self.streams.len() as u64, "stream"), output::duration(self.duration_ms));
        let (from, derivation) = (printable(&self.from), output::key_derivation(self.key_derivation_ms));
        let lost = match with_losses {
            0 => "nothing is lost".to_owned(),
            some => format!("{} lost in {}", output::bytes(self.bytes_lost), count(some as u64, "stream")),
        };
        let lacking = match (self.failed.len() as u64, self.untried) {
            (0, 0) => String::new(),
            (failed, 0) => format!("; {failed} not salvaged"),
            (failed, untried) => format!("; {failed} not salvaged, {untried} not tried"),
        };
        text.push_str(&format!("salvaged {streams} of {from}, {}, {lost}, in {took}{derivation}{lacking}\n", output::bytes(self.bytes)));
        text
    }
}

impl View {
    fn of(stream: &Salvaged) -> Self {
        let range = |range: &Range<u64>| LostRange { offset: range.start, len: range.end - range.start };
        View {
            named: Named::of(&stream.name),
            located: Located::of(&stream.path),
            bytes: stream.bytes,
            bytes_lost: stream.bytes_lost,
            lost: stream.lost.iter().map(range).collect(),
            lost_ranges: stream.ranges,
            tables: stream.tables.as_ref().map(Tables::of),
        }
    }

    /// What is missing of it.
    fn text(&self) -> String {
        let mut ranges: Vec<String> =
            self.lost.iter().take(NAMED_MAX).map(|range| format!("{}-{}", range.offset, range.offset + range.len - 1)).collect();
        if self.lost_ranges > ranges.len() as u64 {
            ranges.push(format!("and {} more", self.lost_ranges - ranges.len() as u64));
        }
        let mut text = format!(
            "{}: {} of {} bytes are lost (zeros in the file): {} (counted from 0)\n",
            printable(&self.located.path),
            self.bytes_lost,
            self.bytes,
            ranges.join(", ")
        );
        self.tables.iter().for_each(|tables| text.push_str(&tables.text()));
        text
    }
}

impl Tables {
    fn of(losses: &Losses) -> Self {
        let table = |object: &Object| Table {
            name: object.name.clone(),
            table: object.table.clone(),
            count: object.count,
            findings: object.findings.clone(),
        };
        Tables {
            untold: losses.untold.clone(),
            damaged: losses.objects.iter().map(table).collect(),
            more: losses.more,
            others: losses.others.clone(),
        }
    }

    fn text(&self) -> String {
        if let Some(why) = &self.untold {
            return format!("  which tables have losses cannot be told: {}\n", printable(why));
        }
        let name = |one: &Table| match one.name == one.table {
            true => format!("table {}", one.name),
            false => format!("index {} of table {}", one.name, one.table),
        };
        let named = |one: &Table| format!("  {} has losses: {}\n", printable(&name(one)), count(one.count, "finding"));
        let mut text: String = self.damaged.iter().take(NAMED_MAX).map(named).collect();
        let more = self.more + self.damaged.len().saturating_sub(NAMED_MAX) as u64;
        if more > 0 {
            text.push_str(&format!("  {more} more tables and indexes have losses; --json lists them\n"));
        }
        if self.damaged.is_empty() {
            text.push_str("  no table has losses\n");
        }
        text
    }
}
