//! `check`.

use std::collections::BTreeMap;
use std::time::Instant;

use icecore::ops::check::{CheckOptions, CheckReport, Severity, check};
use serde::Serialize;

use super::args::CheckArgs;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output::{self, count, printable};
use super::table::{Align, Table};
use super::views::text_and_hex;

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
    duration_ms: f64,
}

#[derive(Serialize)]
struct FindingView {
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
    let repo = context.open()?;
    let started = Instant::now();
    let progress = context.progress();
    let report = check(&repo, &CheckOptions { read_data: args.read_data }, &progress)?;
    drop(progress);
    let done = Done::of(&report, args.read_data, started.elapsed().as_micros() as u64);
    // What was found is said even with -q.
    match report.findings.is_empty() {
        true => context.output.report(&done, Done::text)?,
        false => context.output.result(&done, Done::text)?,
    }
    if report.is_damaged() { Ok(Exit::Damaged) } else { Ok(Exit::Done) }
}

impl Done {
    fn of(report: &CheckReport, read_data: bool, duration_us: u64) -> Self {
        let findings = report.findings.iter().map(|finding| FindingView {
            severity: match finding.severity {
                Severity::Warning => "warning",
                Severity::Damage => "damage",
            },
            code: finding.code,
            object: finding.object.clone(),
            detail: finding.detail.clone(),
        });
        let touched = report.touched.iter().map(|touched| {
            let (stream, stream_hex) = match touched.stream.as_deref().map(text_and_hex) {
                Some((stream, hex)) => (Some(stream), hex),
                None => (None, None),
            };
            TouchedView { snapshot: touched.snapshot.to_string(), stream, stream_hex, short_id: touched.snapshot.short() }
        });
        Done {
            status: match (report.is_damaged(), report.findings.is_empty()) {
                (true, _) => "damaged",
                (false, false) => "warnings",
                (false, true) => "ok",
            },
            read_data,
            findings: findings.collect(),
            touched: touched.collect(),
            snapshots: report.snapshots,
            packs: report.packs,
            chunks: report.chunks,
            read_bytes: report.read_bytes,
            duration_ms: output::ms(duration_us),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.findings.is_empty() {
            let mut table = Table::new([("SEVERITY", Align::Left), ("OBJECT", Align::Left), ("WHAT IS WRONG", Align::Left)]);
            self.findings.iter().for_each(|f| table.row([f.severity.to_owned(), f.object.clone(), f.detail.clone()]));
            text.push_str(&table.text());
        }
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
        let looked = [count(self.snapshots, "snapshot"), count(self.packs, "pack"), count(self.chunks, "chunk")].join(", ");
        let verdict = match self.status {
            "ok" => "no damage found".to_owned(),
            _ => format!("{} ({})", count(self.findings.len() as u64, "finding"), self.status),
        };
        let (read, took) = (output::bytes(self.read_bytes), output::duration(self.duration_ms));
        text.push_str(&format!("{looked}, {read} read in {took}: {verdict}\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore::id::SnapshotId;
    use icecore::ops::check::{Finding, Touched};

    #[test]
    fn findings_then_what_they_touch_then_counts() {
        let finding = Finding { severity: Severity::Damage, code: "pack", object: "pack 0a".into(), detail: "a bad \u{1b}byte".into() };
        let touched = |byte, stream: Option<&str>| Touched { snapshot: SnapshotId([byte; 32]), stream: stream.map(|s| s.into()) };
        let report = CheckReport {
            findings: vec![finding],
            touched: vec![touched(1, Some("a")), touched(1, Some("b")), touched(2, None)],
            snapshots: 3,
            packs: 1,
            chunks: 9,
            read_bytes: 2048,
        };
        let done = Done::of(&report, true, 1000);
        let expected = "SEVERITY  OBJECT   WHAT IS WRONG\n\
                        damage    pack 0a  a bad \\u{1b}byte\n\
                        snapshots touched: 010101010101 (a, b); 020202020202 (all of it)\n\
                        3 snapshots, 1 pack, 9 chunks, 2.0 KiB read in 1 ms: 1 finding (damaged)\n";
        assert_eq!(done.text(), expected);
        assert_eq!(done.status, "damaged");
    }
}
