//! Runs a check as an operation: checks, marks snapshots if that is wanted, gives a report, and writes a journal entry.
//!
//! The journal entry says whether packs were read: none, part or all. `icecore status` relies on that. Damage that was
//! found is in the report and gives the outcome `damaged`. An error means that checking or marking failed.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::{CheckMarks, CheckOptions, CheckReport, DataReport, Finding, Severity, Subset, check, mark_found};
use crate::error::Result;
use crate::ops::journal::{Operation, Outcome, READ_DATA_FACT};
use crate::ops::journaled::{Report, Work};
use crate::ops::json;
use crate::ops::text::{bytes, count, duration, ms};

/// What the user wants of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// Read and decode packs, not only the structure.
    pub read_data: bool,
    /// Which packs are read, with `read_data`.
    pub subset: Subset,
    /// Read no more packs after this time; the next check goes on there.
    pub limit: Option<Duration>,
    /// The seed by which packs are drawn, if the subset is random.
    pub seed: Option<u32>,
    /// Whether snapshots are marked by what was found.
    pub mark: bool,
}

/// The result in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There are no findings.
    #[default]
    Ok,
    /// Replicas are bad, and nothing is lost.
    Warnings,
    /// Stored data is damaged.
    Damaged,
}

impl Verdict {
    /// The verdict that these findings give.
    pub fn of(findings: &[Finding]) -> Self {
        match findings.iter().map(|finding| finding.severity).max() {
            None => Verdict::Ok,
            Some(Severity::Warning) => Verdict::Warnings,
            Some(Severity::Damage) => Verdict::Damaged,
        }
    }

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warnings => "warnings",
            Verdict::Damaged => "damaged",
        }
    }

    /// Text for people, with the number of findings.
    pub(in crate::ops) fn told(self, findings: usize) -> String {
        match self {
            Verdict::Ok => "no damage found".to_owned(),
            _ => format!("{} ({})", count(findings as u64, "finding"), self.word()),
        }
    }
}

/// The report of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The result in one word.
    pub status: Verdict,
    /// Whether packs were read.
    pub read_data: bool,
    /// What was found.
    #[serde(flatten)]
    pub report: CheckReport,
    /// The marks that were put on snapshots.
    #[serde(flatten)]
    pub marks: CheckMarks,
    /// How long it took, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
}

impl Checked {
    /// The report in one line.
    pub fn summary(&self) -> String {
        let CheckReport { snapshots, packs, chunks, read_bytes, findings, .. } = &self.report;
        let looked = [count(*snapshots, "snapshot"), count(*packs, "pack"), count(*chunks, "chunk")].join(", ");
        let (read, took) = (bytes(*read_bytes), duration(ms(self.duration_us)));
        format!("{looked}, {read} read in {took}: {}", self.status.told(findings.len()))
    }
}

impl Report for Checked {
    fn outcome(&self) -> Outcome {
        if self.report.is_damaged() { Outcome::Damaged } else { Outcome::Done }
    }
}

impl Serialize for DataReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("chosen_packs", &self.chosen_packs)?;
        map.serialize_entry("read_packs", &self.read_packs)?;
        map.serialize_entry("complete", &self.is_complete())?;
        map.serialize_entry("seed", &self.seed)?;
        map.serialize_entry("frames", &self.frames)?;
        map.serialize_entry("decoded_frames", &self.decoded_frames)?;
        map.serialize_entry("packs_within_7_days", &self.recent_packs.unwrap_or_default())?;
        map.serialize_entry("oldest", &self.oldest_ns.map(json::utc_text))?;
        map.end()
    }
}

impl DataReport {
    /// Whether all chosen packs were read.
    pub fn is_complete(&self) -> bool {
        self.read_packs >= self.chosen_packs
    }
}

/// Checks, marks snapshots if that is wanted, and writes a journal entry.
///
/// # Errors
/// The errors of [`check()`] and [`mark_found`].
pub fn perform(work: &Work<'_>, wish: &Wish) -> Result<Checked> {
    work.journaled(Operation::Check, |story| {
        let &Wish { read_data, subset, limit, seed, mark } = wish;
        let part = if subset == Subset::All && limit.is_none() { "all" } else { "part" };
        story.facts.push((READ_DATA_FACT.to_owned(), if read_data { part } else { "none" }.to_owned()));
        let started = Instant::now();
        let over = || limit.is_some_and(|limit| started.elapsed() >= limit);
        let over: Option<&(dyn Fn() -> bool + Sync)> = if limit.is_some() { Some(&over) } else { None };
        let now_ns = Some(work.worker.now_ns());
        let options = CheckOptions { read_data, subset, seed: seed.unwrap_or_default(), over, now_ns };
        let mut report = check(work.repo, &options, work.monitor)?;
        let marks = if mark { mark_found(work.repo, &report, subset, &work.worker.author())? } else { CheckMarks::default() };
        report.data.iter_mut().for_each(|data| data.seed = seed);
        story.snapshots.extend(report.touched.iter().map(|touched| touched.snapshot));
        story.snapshots.dedup();
        let (status, read_data) = (Verdict::of(&report.findings), report.data.is_some());
        let checked = Checked { status, read_data, report, marks, duration_us: started.elapsed().as_micros() as u64 };
        story.detail = checked.summary();
        Ok(checked)
    })
}
