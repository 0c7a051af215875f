//! Tables B, C and D: plans beside each other.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::common::Result;
use super::common::report::median;
use super::history::History;
use super::plan::{Group, Outcome, Plan, Rule, run};
use super::squeeze::Squeeze;

/// Threads that play plans through.
const THREADS: usize = 2;

/// `work` on every item with a few threads; results in order.
fn parallel<I: Sync, O: Send>(items: &[I], work: impl Fn(&I) -> O + Sync) -> Vec<O> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, O)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let at = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(item) = items.get(at)
                {
                    let result = work(item);
                    done.lock().expect("no thread panics").push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panics");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Bytes of every step as `zstd -3 --patch-from` makes them of the whole files: mean and median.
pub struct Bound {
    mean: f64,
    median: f64,
}

impl Bound {
    /// Measures it with the `zstd` tool, or, where there is none, with the library, which does not do quite the same.
    pub fn of(history: &History, dir: &Path) -> Result<Self> {
        let dir = tempfile::tempdir_in(dir)?;
        let steps: Vec<usize> = (1..=history.steps()).collect();
        let mut bytes = parallel(&steps, |step| {
            let (old, new) = (history.bytes(history.version(step - 1)), history.bytes(history.version(*step)));
            by_tool(dir.path(), *step, &old, &new).unwrap_or_else(|| Squeeze { long: true, ..Squeeze::level(3) }.encode(&new, &old).len())
                as f64
        });
        let bound = Bound { mean: mean(&bytes), median: median(&mut bytes) };
        println!("patch-from at -3: mean {:.0}, median {:.0} bytes a step", bound.mean, bound.median);
        Ok(bound)
    }
}

/// The bytes of `zstd -3 --patch-from`.
fn by_tool(dir: &Path, step: usize, old: &[u8], new: &[u8]) -> Option<usize> {
    let path = |name: &str| dir.join(format!("{step}.{name}"));
    std::fs::write(path("old"), old).ok()?;
    std::fs::write(path("new"), new).ok()?;
    let mut from = std::ffi::OsString::from("--patch-from=");
    from.push(path("old"));
    let status =
        std::process::Command::new("zstd").args(["-3", "-q", "-q", "-f"]).arg(from).arg(path("new")).arg("-o").arg(path("patch")).status();
    let done = status.is_ok_and(|status| status.success());
    let bytes = std::fs::metadata(path("patch")).ok().filter(|_| done)?.len();
    ["old", "new", "patch"].iter().for_each(|name| drop(std::fs::remove_file(path(name))));
    usize::try_from(bytes).ok()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn p99_max(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[(sorted.len() - 1) * 99 / 100], sorted[sorted.len() - 1])
}

/// Plays the plans and prints a row for each. Bytes are frames alone, metadata alone; ratios are of both together to the bound.
pub fn print(title: &str, history: &History, bound: &Bound, plans: &[(String, Plan)]) {
    let outcomes = parallel(plans, |(_, plan)| run(history, *plan));
    println!("\n{title}");
    println!(
        "{:<44} {:>8} {:>8} {:>6} {:>7} {:>7} {:>6} | {:>16} | {:>17} | {:>15} | {:>6}",
        "", "mean", "median", "meta", "x mean", "x med.", "whole", "depth mean/99/max", "frames mean/99/max", "KiB mean/max", "cpu ms"
    );
    plans.iter().zip(&outcomes).for_each(|((name, _), outcome)| row(name, outcome, bound));
}

fn row(name: &str, outcome: &Outcome, bound: &Bound) {
    let mut frames = outcome.frame_bytes.clone();
    let mut all: Vec<f64> = frames.iter().zip(&outcome.metadata_bytes).map(|(a, b)| a + b).collect();
    let (frames_mean, metadata) = (mean(&frames), mean(&outcome.metadata_bytes));
    let (depth99, depth_max) = p99_max(&outcome.depth);
    let (closure99, closure_max) = p99_max(&outcome.frames);
    let (_, kib_max) = p99_max(&outcome.plain_kib);
    println!(
        "{name:<44} {frames_mean:>8.0} {:>8.0} {metadata:>6.0} {:>7.2} {:>7.2} {:>6} | {:>6.1} {depth99:>4.0} {depth_max:>4.0}  | {:>7.1} {closure99:>4.0} {closure_max:>4.0} | {:>7.0} {kib_max:>7.0} | {:>6.1}",
        median(&mut frames),
        mean(&all) / bound.mean,
        median(&mut all) / bound.median,
        outcome.whole_chunks,
        mean(&outcome.depth),
        mean(&outcome.frames),
        mean(&outcome.plain_kib),
        outcome.encode_s * 1e3 / outcome.frame_bytes.len() as f64
    );
}

/// The engine's way.
fn plain(kib: usize, rule: Rule) -> Plan {
    Plan { chunk_pages: kib / 4, rule, group: Group::Neighbours(1), before: 0, changed_pages: false, squeeze: None, segment: None }
}

/// Chunk sizes and rules.
pub fn rules() -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for kib in [16, 32, 64] {
        let rules = [Rule::Endless, Rule::Skip(32), Rule::Skip(16), Rule::Skip(8), Rule::Skip(4), Rule::First];
        plans.extend(rules.map(|rule| (format!("{kib} KiB, {rule:?}"), plain(kib, rule))));
    }
    plans
}

/// Frames shared by neighbours.
pub fn groups() -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for kib in [32, 64] {
        for skip in [16, 8, 4] {
            let mut groups: Vec<Group> = [1, 2, 4, 8].map(Group::Neighbours).to_vec();
            if skip != 4 {
                groups.extend([16, 32, 64].map(|limit| Group::Bounded(8, limit)));
            }
            groups.push(Group::Lineage(8));
            for group in groups {
                plans.push((format!("{kib} KiB, skip {skip}, {group:?}"), Plan { group, ..plain(kib, Rule::Skip(skip)) }));
            }
        }
        for group in [Group::Neighbours(1), Group::Neighbours(8)] {
            plans.push((format!("{kib} KiB, aligned 16, {group:?}"), Plan { group, ..plain(kib, Rule::Aligned(16)) }));
        }
    }
    plans
}

/// Other ideas.
pub fn ideas() -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for kib in [32, 64] {
        let base = plain(kib, Rule::Skip(16));
        let pages = Plan { changed_pages: true, ..base };
        let mut add = |name: &str, plan: Plan| plans.push((format!("{kib} KiB, {name}"), plan));
        add("as it is", base);
        for level in [1, 5, 7] {
            add(&format!("level {level}"), Plan { squeeze: Some(Squeeze::level(level)), ..base });
        }
        for before in [1, 3] {
            add(&format!("{before} before"), Plan { before, ..base });
        }
        add("changed pages", pages);
        for level in [1, 5, 9, 15] {
            add(&format!("changed pages, level {level}"), Plan { squeeze: Some(Squeeze::level(level)), ..pages });
        }
        for (name, plan) in [("", base), ("changed pages, ", pages)] {
            for (level, second) in [(3, 1), (3, 3), (3, 9), (3, 19), (9, 9)] {
                let squeeze = Some(Squeeze { raw_literals: true, ..Squeeze::level(level) });
                let segment = Some(Squeeze::level(second));
                add(&format!("{name}level {level}, segments at {second}"), Plan { squeeze, segment, ..plan });
            }
            add(&format!("{name}level 3, ready frames, segments at 3"), Plan { segment: Some(Squeeze::level(3)), ..plan });
        }
        for most in [4, 32] {
            add(&format!("changed pages, groups of {most}"), Plan { group: Group::Neighbours(most), ..pages });
        }
        add("changed pages, 1 before", Plan { before: 1, ..pages });
        add("changed pages, 3 before", Plan { before: 3, ..pages });
        add("changed pages, bounded 32, 32", Plan { group: Group::Bounded(32, 32), ..pages });
        add("changed pages, bounded 32, 64", Plan { group: Group::Bounded(32, 64), ..pages });
        add("changed pages, aligned, groups of 32", Plan { group: Group::Neighbours(32), rule: Rule::Aligned(16), ..pages });
    }
    plans
}

/// Rules for long histories.
pub fn long_rules() -> Vec<(String, Plan)> {
    let skips = [8, 16, 24, 32, 64].map(Rule::Skip);
    let mixed = [(16, 4), (24, 4), (32, 2), (32, 4), (32, 8), (48, 4), (64, 2), (64, 4), (64, 8), (128, 4)]
        .map(|(first, rest)| Rule::Mixed(first, rest));
    let rules = skips.into_iter().chain(mixed).chain([Rule::Endless]);
    rules.map(|rule| (format!("64 KiB, changed pages, {rule:?}"), Plan { changed_pages: true, ..plain(64, rule) })).collect()
}
