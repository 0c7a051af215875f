//! The command `check`. It prints findings grouped by pack and stream (`findings.rs`); `--json` has every finding.

use std::time::Duration;

use icecore::id::SnapshotId;
use icecore::ops::check::{CODES, Checked, DataReport, Subset, Verdict, Wish, perform};
use icecore::ops::journaled::{Report, Work};

use super::context::Context;
use super::exit::{Exit, Failure};
use super::findings;
use super::output::count;
use super::screen::Screen;
use super::time::seconds;

/// Check the repository: what is damaged, and which snapshots and streams that touches
#[derive(Debug, clap::Args)]
#[command(after_help = after_help())]
pub(crate) struct CheckArgs {
    /// Read and decode every stored byte, not only the structure
    #[arg(long)]
    read_data: bool,
    /// The same for a part of the packs: n/t (the nth of t parts), x% or a SIZE (K, M, G, T), both drawn at random
    #[arg(long, value_name = "PART", conflicts_with = "read_data")]
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

pub(crate) fn run(context: &Context<'_>, args: &CheckArgs) -> Result<Exit, Failure> {
    let subset = args.read_data_subset.as_deref().map_or(Ok(Subset::All), str::parse)?;
    let read_data = args.read_data || args.read_data_subset.is_some();
    let limit = args.max_duration.as_deref().map(seconds).transpose()?;
    if limit.is_some() && !read_data {
        return Err(Failure::usage("--max-duration is for --read-data or --read-data-subset: without them no data is read"));
    }
    let seed = if matches!(subset, Subset::Share(_) | Subset::Bytes(_)) { Some(args.seed.map_or_else(draw, Ok)?) } else { None };
    if args.seed.is_some() && seed.is_none() {
        return Err(Failure::usage("--seed is for a part that is drawn at random: x% or a SIZE; n/t is always the same part"));
    }
    let repo = context.open()?;
    let limit = limit.map(|limit| Duration::from_secs(limit.unsigned_abs()));
    let wish = Wish { subset, read_data, limit, seed, mark: args.mark };
    let progress = context.progress();
    let checked = perform(&Work { repo: &repo, worker: &context.worker(), monitor: &progress }, &wish)?;
    drop(progress);
    let exit = checked.outcome().into();
    let screen = &context.output.screen;
    // Findings are printed even with -q.
    match checked.report.findings.is_empty() {
        true => context.output.report_as(exit, &checked, |checked| text(checked, screen)),
        false => context.output.insist_as(exit, &checked, |checked| text(checked, screen)),
    }
}

pub(crate) fn draw() -> Result<u32, Failure> {
    getrandom::u32().map_err(|error| Failure::failed(format!("the system gives no random numbers: {error}")))
}

fn data_text(data: &DataReport, packs: u64) -> String {
    let mut text = String::new();
    if !data.is_complete() {
        let chosen = count(data.chosen_packs, "pack");
        text.push_str(&format!("{} of {chosen} read; the next check with --max-duration goes on\n", data.read_packs));
    }
    if let Some(seed) = data.seed {
        text.push_str(&format!("packs drawn at random: --seed {seed} draws them again\n"));
    }
    let recent = data.recent_packs.unwrap_or_default();
    let percent = (recent * 100).checked_div(packs).unwrap_or(100);
    text.push_str(&format!("data known good: {percent} % of packs ({recent} of {packs} read within 7 days)\n"));
    text
}

fn text(checked: &Checked, screen: &Screen) -> String {
    let Checked { report, marks, .. } = checked;
    let mut text = findings::table(&report.findings, &report.touched, screen);
    text.push_str(&marks_text(&marks.damaged, &marks.verified));
    text.push_str(&report.data.as_ref().map_or_else(String::new, |data| data_text(data, report.packs)));
    let next = match (checked.read_data, checked.status) {
        (false, Verdict::Damaged) => "`icecore check --read-data` finds what else is, `icecore repair --dry-run` shows what can be mended",
        _ => "`icecore repair --dry-run` shows what can be mended",
    };
    text + &checked.summary() + "\n" + &findings::advice(checked.status, next, screen)
}

/// How many snapshots were marked as damaged, and how many marks were lifted.
pub(crate) fn marks_text(damaged: &[SnapshotId], verified: &[SnapshotId]) -> String {
    let marked = [(damaged, "damaged"), (verified, "whole again")].into_iter().filter(|(ids, _)| !ids.is_empty());
    marked.map(|(ids, what)| format!("{} marked as {what}\n", count(ids.len() as u64, "snapshot"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use icecore::ops::check::{CheckMarks, CheckReport, Finding, Severity, Touched};

    #[test]
    fn findings_then_what_they_touch_then_counts() {
        let finding = |code, object: String, detail: &str| Finding { severity: Severity::Damage, code, object, detail: detail.into() };
        let ids = [SnapshotId([1; 32]), SnapshotId([2; 32])];
        let streams = [format!("snapshot {}, stream a", ids[0]), format!("snapshot {}, stream b", ids[0]), format!("snapshot {}", ids[1])];
        let mut findings = vec![finding("pack", "pack 0a".into(), "a bad \u{1b}byte")];
        findings.extend(streams.map(|stream| finding("stream", stream, "no pack holds it")));
        let touched = |byte, stream: Option<&str>| Touched { snapshot: SnapshotId([byte; 32]), stream: stream.map(|s| s.into()) };
        let report = CheckReport {
            findings,
            touched: vec![touched(1, Some("a")), touched(1, Some("b")), touched(2, None)],
            snapshots: 3,
            packs: 5,
            chunks: 9,
            read_bytes: 2048,
            data: Some(DataReport { chosen_packs: 4, read_packs: 3, recent_packs: Some(2), seed: Some(7), ..DataReport::default() }),
        };
        let marks = CheckMarks { damaged: vec![SnapshotId([1; 32])], verified: Vec::new() };
        let checked = Checked { status: Verdict::of(&report.findings), read_data: true, report, marks, duration_us: 1000 };
        let expected = "SEVERITY  CODE    OBJECT       WHAT IS WRONG\n\
                        damage    pack    pack 0a      a bad \\u{1b}byte\n\
                        damage    stream  a, b         cannot be given back whole from snapshot 010101010101: no pack holds it\n\
                        damage    stream  all streams  cannot be given back whole from snapshot 020202020202: no pack holds it\n\
                        1 snapshot marked as damaged\n\
                        3 of 4 packs read; the next check with --max-duration goes on\n\
                        packs drawn at random: --seed 7 draws them again\n\
                        data known good: 40 % of packs (2 of 5 read within 7 days)\n\
                        3 snapshots, 5 packs, 9 chunks, 2.0 KiB read in 1 ms: 4 findings (damaged)\n\
                        damaged: `icecore repair --dry-run` shows what can be mended\n";
        assert_eq!(text(&checked, &Screen::default()), expected);
        assert_eq!(checked.status, Verdict::Damaged);
    }
}
