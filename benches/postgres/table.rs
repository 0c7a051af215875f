//! What the dumps cost: a table, medians, the bars.

use crate::Version;
use crate::common::report::median;
use crate::programs::Run;

/// A dump is stored within this many times of the time that pg_dump takes to write it.
const PG_DUMP_MAX: f64 = 1.15;
/// An ordinary next dump costs at most this many times of `--patch-from`.
const PATCH_MAX: f64 = 2.5;
/// And this share of restic.
const RESTIC_MAX: f64 = 0.2;
/// The memory that icecore may have.
const PEAK_MIB_MAX: f64 = 128.0;

/// Prints it.
pub fn print(names: &[&str], versions: &[Version]) {
    let Some((first, next)) = versions.split_first() else { return };
    println!("\nbytes that each version added, and what it took: wall without icecore's key derivation / CPU, ms");
    print!("{:>4} {:>7} {:>10}", "", "MB", "patch-from");
    names.iter().for_each(|name| print!(" {:>10} {:>13}", name, "ms"));
    println!();
    versions.iter().enumerate().for_each(|(n, version)| print_version(n, version));
    for (what, versions) in [("first", std::slice::from_ref(first)), ("next", next)] {
        print_medians(what, names, versions);
    }
    bars(names, first, next);
}

fn print_version(n: usize, version: &Version) {
    let patch = version.patch.map_or(String::from("-"), |run| run.bytes.to_string());
    print!("{n:>4} {:>7.1} {patch:>10}", version.bytes as f64 / 1e6);
    for runs in &version.runs {
        let bytes = of(runs, |run| run.bytes as f64);
        print!(" {bytes:>10.0} {:>13}", format!("{:.0} / {:.0}", of(runs, Run::net_ms), of(runs, Run::cpu_ms)));
    }
    println!();
}

/// The median of one program's runs for one version.
fn of(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    median(&mut runs.iter().map(value).collect::<Vec<_>>())
}

/// The median over versions of what one program took.
fn over(versions: &[Version], which: usize, value: impl Fn(&Version, &Run) -> f64) -> f64 {
    median(&mut versions.iter().flat_map(|version| version.runs[which].iter().map(|run| value(version, run))).collect::<Vec<_>>())
}

fn print_medians(what: &str, names: &[&str], versions: &[Version]) {
    for (which, name) in names.iter().enumerate() {
        let value = |value: fn(&Run) -> f64| over(versions, which, |_, run| value(run));
        let speed = over(versions, which, |version, run| version.bytes as f64 / 1e3 / run.net_ms());
        let all = value(|run| run.cost.wall.as_secs_f64() * 1e3);
        let (net, cpu, peak) = (value(Run::net_ms), value(Run::cpu_ms), value(|run| (run.cost.peak_bytes >> 20) as f64));
        let bytes = value(|run| run.bytes as f64);
        println!("{what} {name}: {all:.0} ms wall, {net:.0} net, {cpu:.0} CPU, {speed:.0} MB/s, {bytes:.0} bytes, {peak:.0} MiB");
    }
}

fn bars(names: &[&str], first: &Version, next: &[Version]) {
    let place = |wanted: &str| names.iter().position(|name| *name == wanted);
    let (Some(pg_dump), Some(icecore)) = (place("pg_dump"), place("icecore")) else { return };
    let bar = |what: &str, value: f64, most: f64| {
        println!("{}: {what} {value:.2}, at most {most}", if value <= most { "held" } else { "MISSED" })
    };
    // Those of one step ran one after the other, so the ratio is that of each step.
    let times = |version: &Version| of(&version.runs[icecore], Run::net_ms) / of(&version.runs[pg_dump], Run::net_ms);
    let middle = |value: &dyn Fn(&Version) -> Option<f64>| {
        let mut values: Vec<f64> = next.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| median(&mut values))
    };
    bar("first dump, wall of pg_dump's", times(first), PG_DUMP_MAX);
    let bytes = |version: &Version, which: usize| of(&version.runs[which], |run| run.bytes as f64);
    let bars = [
        ("next dump, wall of pg_dump's", middle(&|version| Some(times(version))), PG_DUMP_MAX),
        ("next dump, bytes of patch-from", middle(&|version| Some(bytes(version, icecore) / version.patch?.bytes as f64)), PATCH_MAX),
        (
            "next dump, bytes of restic",
            place("restic").and_then(|restic| middle(&|version| Some(bytes(version, icecore) / bytes(version, restic)))),
            RESTIC_MAX,
        ),
    ];
    bars.into_iter().filter_map(|(what, value, most)| Some((what, value?, most))).for_each(|(what, value, most)| bar(what, value, most));
    let all = std::iter::once(first).chain(next).flat_map(|version| &version.runs[icecore]);
    bar("peak memory, MiB", all.map(|run| (run.cost.peak_bytes >> 20) as f64).fold(0.0, f64::max), PEAK_MIB_MAX);
}
