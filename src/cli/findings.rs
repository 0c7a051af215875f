//! Findings of `check`, `repair` and `scrub` as a table: one row for each damaged pack and one for the streams that the same snapshots
//! have lost. The JSON documents have every finding.

use std::collections::{BTreeMap, HashSet};

use icecore::id::SnapshotId;
use icecore::ops::check::{Finding, Severity, Touched, Verdict};

use super::columns::{Column, Table};
use super::output::{count, printable};
use super::screen::{Screen, Tone};

/// Snapshots, or streams, that a row names.
const NAMED_MAX: usize = 3;
/// Rows of streams; what damages more of them is mostly the same.
const STREAM_ROWS_MAX: usize = 50;
/// Digits of an id in text.
const ID_LEN: usize = 12;
/// Longer runs of hex digits are ids.
const ID_RUN_MIN: usize = 32;

/// The findings, for people; nothing if there are none.
pub(crate) fn table(findings: &[Finding], touched: &[Touched], screen: &Screen) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let columns = [Column::left("SEVERITY"), Column::left("CODE"), Column::left("OBJECT").shortened(17)];
    let mut table = Table::new(columns.into_iter().chain([Column::left("WHAT IS WRONG").in_lines(30).rank(1)]));
    let mut row = |severity: Severity, code: &str, object: &str, detail: &str| {
        table.row([severity.word(), code, &short_ids(object), &short_ids(detail)].map(str::to_owned));
        table.paint("SEVERITY", Some(if severity == Severity::Damage { Tone::Bad } else { Tone::Doubtful }));
    };
    let mut seen: HashSet<&str> = HashSet::new();
    for finding in findings.iter().filter(|finding| finding.code != "stream") {
        if !finding.object.starts_with("pack ") {
            row(finding.severity, finding.code, &finding.object, &finding.detail);
        } else if seen.insert(&finding.object) {
            let of_pack: Vec<&Finding> = findings.iter().filter(|other| other.object == finding.object).collect();
            let severity = of_pack.iter().map(|one| one.severity).max().unwrap_or(finding.severity);
            let more = match of_pack.len().saturating_sub(1) as u64 {
                0 => String::new(),
                more => format!("; {}", count(more, "further finding")),
            };
            row(severity, finding.code, &finding.object, &format!("{}{more}", finding.detail));
        }
    }
    let reasons: BTreeMap<&str, &Finding> =
        findings.iter().filter(|finding| finding.code == "stream").map(|finding| (finding.object.as_str(), finding)).collect();
    let groups = groups(touched);
    for (snapshots, streams) in groups.iter().take(STREAM_ROWS_MAX) {
        let object = match (snapshots.first(), streams.first()) {
            (Some(snapshot), Some(Some(stream))) => format!("snapshot {snapshot}, stream {}", String::from_utf8_lossy(stream)),
            (Some(snapshot), _) => format!("snapshot {snapshot}"),
            _ => String::new(),
        };
        // A snapshot whose record is damaged has a finding of its own.
        let Some(finding) = reasons.get(object.as_str()) else { continue };
        let detail = format!("cannot be given back whole from {}: {}", shown_snapshots(snapshots), finding.detail);
        row(finding.severity, "stream", &shown_streams(streams), &detail);
    }
    let hidden = groups.len().saturating_sub(STREAM_ROWS_MAX) as u64;
    let more = if hidden > 0 { format!("{} like these; --json has all\n", count(hidden, "more row")) } else { String::new() };
    table.text(screen) + &more
}

/// What was lost, for people: a line for the streams that the same snapshots have lost.
pub(crate) fn lost_text(lost: &[Touched]) -> String {
    let line = |(snapshots, streams): (Vec<SnapshotId>, Streams<'_>)| {
        format!("  {}: {}\n", printable(&shown_streams(&streams)), shown_snapshots(&snapshots))
    };
    groups(lost).into_iter().map(line).collect()
}

/// The last line: the worst state by its name, and what to do about it.
pub(crate) fn advice(status: Verdict, what_next: &str, screen: &Screen) -> String {
    match status {
        Verdict::Ok => String::new(),
        Verdict::Warnings => format!("{}: nothing is lost; {what_next}\n", screen.paint(Tone::Doubtful, status.word())),
        Verdict::Damaged => format!("{}: {what_next}\n", screen.paint(Tone::Bad, status.word())),
    }
}

/// Streams; `None` is the whole snapshot.
type Streams<'t> = Vec<Option<&'t [u8]>>;

/// Snapshots with the streams that all of them have lost.
fn groups(touched: &[Touched]) -> Vec<(Vec<SnapshotId>, Streams<'_>)> {
    let mut by_stream: BTreeMap<Option<&[u8]>, Vec<SnapshotId>> = BTreeMap::new();
    for one in touched {
        by_stream.entry(one.stream.as_deref()).or_default().push(one.snapshot);
    }
    let mut by_snapshots: BTreeMap<Vec<SnapshotId>, Streams<'_>> = BTreeMap::new();
    for (stream, snapshots) in by_stream {
        by_snapshots.entry(snapshots).or_default().push(stream);
    }
    by_snapshots.into_iter().collect()
}

/// `snapshots 3b63..., 4c12... and 17 more`.
fn shown_snapshots(snapshots: &[SnapshotId]) -> String {
    let word = if snapshots.len() == 1 { "snapshot" } else { "snapshots" };
    format!("{word} {}", some(snapshots.iter().map(SnapshotId::short)))
}

fn shown_streams(streams: &[Option<&[u8]>]) -> String {
    let name = |stream: &Option<&[u8]>| stream.map_or_else(|| "all streams".to_owned(), |name| String::from_utf8_lossy(name).into_owned());
    some(streams.iter().map(name))
}

/// The first few, and how many more there are.
fn some(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    let named = all.take(NAMED_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// The text with ids cut to the digits that people use.
pub(crate) fn short_ids(text: &str) -> String {
    let mut short = String::with_capacity(text.len());
    let mut run = String::new();
    for c in text.chars().map(Some).chain([None]) {
        match c {
            Some(digit @ ('0'..='9' | 'a'..='f')) => run.push(digit),
            other => {
                let kept = if run.len() >= ID_RUN_MIN { run.get(..ID_LEN).unwrap_or(&run) } else { &run };
                short.push_str(kept);
                run.clear();
                short.extend(other);
            }
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: &'static str, object: &str, detail: &str) -> Finding {
        Finding { severity: Severity::Damage, code, object: object.to_owned(), detail: detail.to_owned() }
    }

    fn stream(byte: u8, name: &str) -> (Finding, Touched) {
        let snapshot = SnapshotId([byte; 32]);
        let finding = finding("stream", &format!("snapshot {snapshot}, stream {name}"), "no pack holds it");
        (finding, Touched { snapshot, stream: Some(name.into()) })
    }

    #[test]
    fn one_row_for_each_pack_and_for_streams_of_the_same_snapshots() {
        let pack = "pack 00000000000011112222333344445555";
        let mut findings =
            vec![finding("pack", pack, "it is short"), finding("chunk", pack, "a bad \u{1b}byte"), finding("log", "log x", "bad")];
        let (streams, touched): (Vec<Finding>, Vec<Touched>) =
            (1..=5).flat_map(|byte| [stream(byte, "a"), stream(byte, "b")]).chain([stream(1, "c")]).unzip();
        findings.extend(streams);
        let expected = "SEVERITY  CODE    OBJECT             WHAT IS WRONG\n\
            damage    pack    pack 000000000000  it is short; 1 further finding\n\
            damage    log     log x              bad\n\
            damage    stream  c                  cannot be given back whole from snapshot 010101010101: no pack holds it\n\
            damage    stream  a, b               cannot be given back whole from snapshots 010101010101, 020202020202, 030303030303 and 2 more: \
            no pack holds it\n";
        assert_eq!(table(&findings, &touched, &Screen::default()), expected);
        let lost = "  c: snapshot 010101010101\n  a, b: snapshots 010101010101, 020202020202, 030303030303 and 2 more\n";
        assert_eq!(lost_text(&touched), lost);
    }

    #[test]
    fn only_ids_are_cut() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(short_ids(&format!("pack {id}: dead beef, {id}.")), "pack 0123456789ab: dead beef, 0123456789ab.");
        assert_eq!(short_ids(id), "0123456789ab");
    }
}
