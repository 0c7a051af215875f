//! What a lane cost: a table, then the bars.

use crate::common::report::median;
use crate::lane::{Lane, Step};
use crate::programs::Run;
use crate::versions::Event;

/// An ordinary next dump costs at most this many times of `--patch-from`.
const PATCH_MAX: f64 = 2.5;
/// And this share of restic.
const RESTIC_MAX: f64 = 0.2;
/// The newest version is restored within this many times of the oldest.
const RESTORE_MAX: f64 = 2.0;

/// Prints it.
pub fn print(lane: &Lane) {
    println!("\n{}: bytes that each version added; net is wall time without the key derivation", lane.name());
    println!(
        "{:>4} {:>7} {:>10} {:>10} {:>6} {:>10} {:>6} {:>10} {:>7} {:>7} {:>6} {:>6}  ",
        "", "MB", "icecore", "patch-from", "x", "restic", "x", "zstd -3", "net ms", "cpu ms", "MB/s", "MiB"
    );
    lane.steps.iter().enumerate().for_each(|(n, step)| print_step(n, step));
    let ordinary = || lane.steps.iter().filter(|step| step.event == Event::Ordinary);
    let middle = |value: &dyn Fn(&Step) -> Option<f64>| median(&mut ordinary().filter_map(value).collect::<Vec<_>>());
    let sum = lane.steps.iter().map(|step| step.icecore.bytes).sum::<u64>();
    let bytes = middle(&|step| Some(step.icecore.bytes as f64));
    let (patch, restic) = (middle(&|step| ratio(step, step.patch)), middle(&|step| ratio(step, step.restic)));
    println!(
        "all versions: {sum} bytes; an ordinary one, in the middle: {bytes:.0} bytes, {patch:.2} of patch-from, {restic:.3} of restic"
    );
    let [newest, oldest] = [0, 1].map(|which| &lane.restores[which]);
    let times = |value: fn(&Run) -> f64| {
        let [newest, oldest] = [newest, oldest].map(|runs| median(&mut runs.iter().map(value).collect::<Vec<_>>()));
        (newest, oldest, newest / oldest)
    };
    let ((net, net_oldest, net_times), (cpu, cpu_oldest, cpu_times)) = (times(Run::net_ms), times(Run::cpu_ms));
    let peak = newest.iter().chain(oldest).map(|run| run.cost.peak_bytes).max().unwrap_or(0) >> 20;
    println!(
        "restore of the newest {net:.0} ms net, {cpu:.0} ms CPU; of the oldest {net_oldest:.0} and {cpu_oldest:.0}; at most {peak} MiB"
    );
    let bar = |what: &str, value: f64, most: f64| {
        println!("{}: {what} {value:.2}, at most {most}", if value <= most { "held" } else { "MISSED" })
    };
    if patch > 0.0 {
        bar("of patch-from", patch, PATCH_MAX);
    }
    if restic > 0.0 {
        bar("of restic", restic, RESTIC_MAX);
    }
    bar("restore, net, newest to oldest", net_times, RESTORE_MAX);
    bar("restore, CPU, newest to oldest", cpu_times, RESTORE_MAX);
}

fn ratio(step: &Step, other: Option<Run>) -> Option<f64> {
    Some(step.icecore.bytes as f64 / other?.bytes as f64)
}

fn print_step(n: usize, step: &Step) {
    let (megabytes, run) = (step.bytes as f64 / 1e6, &step.icecore);
    let bytes = |run: Option<Run>| run.map_or(String::from("-"), |run| run.bytes.to_string());
    let times = |run: Option<Run>| ratio(step, run).map_or(String::from("-"), |ratio| format!("{ratio:.2}"));
    let event = if step.event == Event::Clustered { "clustered" } else { "" };
    println!(
        "{n:>4} {megabytes:>7.1} {:>10} {:>10} {:>6} {:>10} {:>6} {:>10} {:>7.0} {:>7.0} {:>6.0} {:>6} {event}",
        run.bytes,
        bytes(step.patch),
        times(step.patch),
        bytes(step.restic),
        times(step.restic),
        bytes(step.zstd),
        run.net_ms(),
        run.cpu_ms(),
        megabytes * 1e3 / run.net_ms(),
        run.cost.peak_bytes >> 20
    );
}
