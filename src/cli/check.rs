//! `check`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use icecore::ops::check::{CODES, CheckMarks, CheckOptions, CheckReport, DataReport, Finding, Severity, Subset, check, mark_found};
use icecore::ops::journal::Operation;
use icecore::store::repo::Repository;
use serde::Serialize;

use super::columns::{Align, Table};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::journaled::{Story, author, journaled};
use super::output::{self, count, printable};
use super::time;
use super::time::seconds;
use super::views::text_and_hex;

/// Check the repository: what is damaged, and which snapshots and streams that touches
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct CheckArgs {
    /// Read and decode every stored byte, not only the structure
    #[arg(long)]
    read_data: bool,
    /// The same for a part of the packs: n/t (the nth of t parts), x% or a SIZE (K, M, G, T), both drawn at random
    #[arg(long, value_name = "PART")]
    read_data_subset: Option<String>,
    /// Stop reading after so long (a number with s, m, h or d), and go on there the next time
    #[arg(long, value_name = "SPAN")]
    max_duration: Option<String>,
    /// Draw the packs of x% or SIZE by this number, as an earlier check has printed it
    #[arg(long, value_name = "N", requires = "read_data_subset")]
    seed: Option<u32>,
    /// Mark the snapshots that are damaged, so that they do not count as good; and those that are so no more
    #[arg(long)]
    mark: bool,
}

fn after_help() -> String {
    let width = CODES.iter().map(|(code, _)| code.len()).max().unwrap_or_default();
    let codes: Vec<String> = CODES.iter().map(|(code, says)| format!("  {code:width$}  {says}")).collect();
    format!(
        "What was read is remembered on this machine, by pack. With --max-duration, packs that were found damaged come first, then those that were never read, \
         then those that were read longest ago.\n\n\
         Codes of findings:\n{}\nSeverity is `damage`, or `warning` where a spare copy is bad and the other one serves.\n\n\
         Exit codes: 0 no damage found in what was looked at; 4 damage.\n\n\
         Examples:\n  icecore check --read-data\n  icecore check --read-data-subset 1/7\n  icecore check --read-data --max-duration 30m",
        codes.join("\n")
    )
}

#[derive(Serialize)]
struct Done {
    /// `ok`, `warnings` or `damaged`.
    status: &'static str,
    read_data: bool,
    findings: Vec<FindingView>,
    touched: Vec<TouchedView>,
    snapshots: u64,
    packs: u64,
    chunks: u64,
    read_bytes: u64,
    /// None: nothing was to be read.
    data: Option<DataView>,
    marked_damaged: Vec<String>,
    marked_verified: Vec<String>,
    duration_ms: f64,
}

/// What was read.
#[derive(Serialize)]
struct DataView {
    chosen_packs: u64,
    read_packs: u64,
    /// Whether all chosen packs were read.
    complete: bool,
    /// Of the draw, if there was one.
    seed: Option<u32>,
    frames: u64,
    decoded_frames: u64,
    packs_within_7_days: u64,
    /// None: some pack was never read and whole.
    oldest: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct FindingView {
    severity: &'static str,
    code: &'static str,
    object: String,
    detail: String,
}

#[derive(Serialize)]
struct TouchedView {
    snapshot: String,
    /// None: all of it.
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_hex: Option<String>,
    #[serde(skip)]
    short_id: String,
}

pub(crate) fn run(context: &Context<'_>, args: &CheckArgs) -> Result<Exit, Failure> {
    let subset = args.read_data_subset.as_deref().map_or(Ok(Subset::All), str::parse)?;
    let read_data = args.read_data || args.read_data_subset.is_some();
    let limit = args.max_duration.as_deref().map(seconds).transpose()?;
    if limit.is_some() && !read_data {
        return Err(Failure::usage("--max-duration is for --read-data or --read-data-subset"));
    }
    let seed = if matches!(subset, Subset::Share(_) | Subset::Bytes(_)) { Some(args.seed.map_or_else(draw, Ok)?) } else { None };
    let repo = context.open()?;
    let asked = Asked { subset, read_data, limit, seed, mark: args.mark };
    journaled(context, &repo, Operation::Check, |story| look(context, &repo, &asked, story))
}

/// What is to be checked.
struct Asked {
    subset: Subset,
    read_data: bool,
    limit: Option<i64>,
    seed: Option<u32>,
    mark: bool,
}

fn look(context: &Context<'_>, repo: &Repository, asked: &Asked, story: &mut Story) -> Result<Exit, Failure> {
    let Asked { subset, read_data, limit, seed, .. } = *asked;
    let part = if subset == Subset::All && limit.is_none() { "all" } else { "part" };
    story.facts.push(("read_data".to_owned(), if read_data { part } else { "none" }.to_owned()));
    let started = Instant::now();
    let limit = limit.map(|limit| Duration::from_secs(limit.unsigned_abs()));
    let over = || limit.is_some_and(|limit| started.elapsed() >= limit);
    let over: Option<&(dyn Fn() -> bool + Sync)> = if limit.is_some() { Some(&over) } else { None };
    let now_ns = time::now_ns();
    let options = CheckOptions { read_data, subset, seed: seed.unwrap_or_default(), over, now_ns: Some(now_ns) };
    let progress = context.progress();
    let report = check(repo, &options, &progress)?;
    let marks = if asked.mark { mark_found(repo, &report, subset, &author())? } else { CheckMarks::default() };
    drop(progress);
    let done = Done::of(&report, seed, &marks, started.elapsed().as_micros() as u64);
    story.detail = done.summary();
    story.snapshots.extend(report.touched.iter().map(|touched| touched.snapshot));
    story.snapshots.dedup();
    // What was found is said even with -q.
    let exit = if report.is_damaged() { Exit::Damaged } else { Exit::Done };
    match report.findings.is_empty() {
        true => context.output.report_as(exit, &done, Done::text),
        false => context.output.insist_as(exit, &done, Done::text),
    }
}

pub(crate) fn draw() -> Result<u32, Failure> {
    getrandom::u32().map_err(|error| Failure::failed(format!("the system gives no random numbers: {error}")))
}

/// In a word, what the findings say.
pub(crate) fn verdict(findings: &[Finding]) -> &'static str {
    match findings.iter().map(|finding| finding.severity).max() {
        None => "ok",
        Some(Severity::Warning) => "warnings",
        Some(Severity::Damage) => "damaged",
    }
}

/// The findings for people; nothing if there are none.
pub(crate) fn findings_table(findings: &[FindingView]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut table = Table::new([("SEVERITY", Align::Left), ("CODE", Align::Left), ("OBJECT", Align::Left), ("WHAT IS WRONG", Align::Left)]);
    findings.iter().for_each(|f| table.row([f.severity.to_owned(), f.code.to_owned(), f.object.clone(), f.detail.clone()]));
    table.text()
}

impl FindingView {
    pub(crate) fn of(finding: &Finding) -> Self {
        FindingView {
            severity: match finding.severity {
                Severity::Warning => "warning",
                Severity::Damage => "damage",
            },
            code: finding.code,
            object: finding.object.clone(),
            detail: finding.detail.clone(),
        }
    }
}

impl DataView {
    fn of(data: &DataReport, seed: Option<u32>) -> Self {
        DataView {
            chosen_packs: data.chosen_packs,
            read_packs: data.read_packs,
            complete: data.read_packs >= data.chosen_packs,
            seed,
            frames: data.frames,
            decoded_frames: data.decoded_frames,
            packs_within_7_days: data.recent_packs.unwrap_or_default(),
            oldest: data.oldest_ns.map(time::utc),
        }
    }

    fn text(&self, packs: u64) -> String {
        let mut text = String::new();
        if !self.complete {
            text.push_str(&format!(
                "{} of {} read; the next check with --max-duration goes on\n",
                self.read_packs,
                count(self.chosen_packs, "pack")
            ));
        }
        if let Some(seed) = self.seed {
            text.push_str(&format!("packs drawn at random: --seed {seed} draws them again\n"));
        }
        let percent = (self.packs_within_7_days * 100).checked_div(packs).unwrap_or(100);
        text.push_str(&format!("read data of {percent} % of packs within 7 days\n"));
        text
    }
}

impl Done {
    fn of(report: &CheckReport, seed: Option<u32>, marks: &CheckMarks, duration_us: u64) -> Self {
        let touched = report.touched.iter().map(|touched| {
            let (stream, stream_hex) = match touched.stream.as_deref().map(text_and_hex) {
                Some((stream, hex)) => (Some(stream), hex),
                None => (None, None),
            };
            TouchedView { snapshot: touched.snapshot.to_string(), stream, stream_hex, short_id: touched.snapshot.short() }
        });
        Done {
            status: verdict(&report.findings),
            read_data: report.data.is_some(),
            findings: report.findings.iter().map(FindingView::of).collect(),
            touched: touched.collect(),
            snapshots: report.snapshots,
            packs: report.packs,
            chunks: report.chunks,
            read_bytes: report.read_bytes,
            data: report.data.as_ref().map(|data| DataView::of(data, seed)),
            marked_damaged: marks.damaged.iter().map(ToString::to_string).collect(),
            marked_verified: marks.verified.iter().map(ToString::to_string).collect(),
            duration_ms: output::ms(duration_us),
        }
    }

    fn text(&self) -> String {
        let mut text = findings_table(&self.findings);
        let mut snapshots: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for touched in &self.touched {
            snapshots.entry(&touched.short_id).or_default().extend(touched.stream.as_deref());
        }
        if !snapshots.is_empty() {
            let names = snapshots.iter().map(|(id, streams)| match streams.is_empty() {
                true => format!("{id} (all of it)"),
                false => format!("{id} ({})", printable(&streams.join(", "))),
            });
            text.push_str(&format!("snapshots touched: {}\n", names.collect::<Vec<_>>().join("; ")));
        }
        for (ids, what) in [(&self.marked_damaged, "damaged"), (&self.marked_verified, "whole again")] {
            if !ids.is_empty() {
                text.push_str(&format!("{} marked as {what}\n", count(ids.len() as u64, "snapshot")));
            }
        }
        text.push_str(&self.data.as_ref().map_or_else(String::new, |data| data.text(self.packs)));
        text + &self.summary() + "\n"
    }

    fn summary(&self) -> String {
        let looked = [count(self.snapshots, "snapshot"), count(self.packs, "pack"), count(self.chunks, "chunk")].join(", ");
        let verdict = match self.status {
            "ok" => "no damage found".to_owned(),
            _ => format!("{} ({})", count(self.findings.len() as u64, "finding"), self.status),
        };
        let (read, took) = (output::bytes(self.read_bytes), output::duration(self.duration_ms));
        format!("{looked}, {read} read in {took}: {verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore::id::SnapshotId;
    use icecore::ops::check::Touched;

    #[test]
    fn findings_then_what_they_touch_then_counts() {
        let finding = Finding { severity: Severity::Damage, code: "pack", object: "pack 0a".into(), detail: "a bad \u{1b}byte".into() };
        let touched = |byte, stream: Option<&str>| Touched { snapshot: SnapshotId([byte; 32]), stream: stream.map(|s| s.into()) };
        let report = CheckReport {
            findings: vec![finding],
            touched: vec![touched(1, Some("a")), touched(1, Some("b")), touched(2, None)],
            snapshots: 3,
            packs: 5,
            chunks: 9,
            read_bytes: 2048,
            data: Some(DataReport { chosen_packs: 4, read_packs: 3, recent_packs: Some(2), ..DataReport::default() }),
        };
        let marks = CheckMarks { damaged: vec![SnapshotId([1; 32])], verified: Vec::new() };
        let done = Done::of(&report, Some(7), &marks, 1000);
        let expected = "SEVERITY  CODE  OBJECT   WHAT IS WRONG\n\
                        damage    pack  pack 0a  a bad \\u{1b}byte\n\
                        snapshots touched: 010101010101 (a, b); 020202020202 (all of it)\n\
                        1 snapshot marked as damaged\n\
                        3 of 4 packs read; the next check with --max-duration goes on\n\
                        packs drawn at random: --seed 7 draws them again\n\
                        read data of 40 % of packs within 7 days\n\
                        3 snapshots, 5 packs, 9 chunks, 2.0 KiB read in 1 ms: 1 finding (damaged)\n";
        assert_eq!(done.text(), expected);
        assert_eq!(done.status, "damaged");
    }
}
