//! icecore against the others, each ratio with the bar it has to stay under.

use crate::common::tool::Sample;
use crate::run::{Outcome, RESTORED};
use crate::table::Middle;
use crate::tools::Role;

/// Peers that store this much or more are no measure of a later backup: they save work by storing what they need not.
const THRIFTY_BYTES: u64 = 1_000_000_000;
/// The most memory icecore may have.
const PEAK_MIB: f64 = 128.0;

/// A ratio and its bar.
struct Line {
    what: String,
    ratio: Option<f64>,
    /// The same with icecore's key derivation, for times.
    gross: Option<f64>,
    bar: f64,
}

/// Writes the ratios to stdout.
pub fn print(outcomes: &[Outcome]) {
    let Some(own) = outcomes.iter().find(|outcome| outcome.role == Role::Icecore) else { return };
    let peers: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.role == Role::Peer).collect();
    let lines = sizes(own, outcomes).into_iter().chain(backups(own, &peers)).chain(restores(own, &peers)).chain([peak(own)]);
    println!("\nicecore against: at most the bar; times without icecore's key derivation, and with it\n");
    println!("| {:<58} | {:>7} | {:>7} | {:>7} | {:<5} |", "", "ratio", "gross", "bar", "holds");
    println!("|---|--:|--:|--:|---|");
    for line in lines {
        // Without the other row there is nothing to say.
        let Some(ratio) = line.ratio else { continue };
        let gross = line.gross.map_or(String::from("-"), |gross| format!("{gross:.3}"));
        let holds = if ratio <= line.bar { "yes" } else { "NO" };
        println!("| {:<58} | {ratio:>7.3} | {gross:>7} | {:>7.3} | {holds:<5} |", line.what, line.bar);
    }
}

fn sizes(own: &Outcome, outcomes: &[Outcome]) -> Vec<Line> {
    let whole = |outcome: &Outcome| outcome.last_bytes().map(|bytes| bytes as f64);
    let line = |what: &str, other: &str, bytes: &dyn Fn(&Outcome) -> Option<f64>, bar| {
        let other_bytes = outcomes.iter().find(|outcome| outcome.name == other).and_then(bytes);
        let ratio = bytes(own).zip(other_bytes).map(|(own, other)| own / other);
        Line { what: format!("{what}: {other}"), ratio, gross: None, bar }
    };
    vec![
        line("whole repository", "restic", &whole, 1.0 / 18.0),
        line("whole repository", "borg-4k", &whole, 1.0 / 2.6),
        line("whole repository", "patch-from", &whole, 1.25),
        line("VACUUM step, bytes", "patch-from", &Outcome::vacuum_bytes, 2.5),
        line("median step, bytes (the bar is for 300 steps)", "patch-from", &Outcome::step_bytes, 1.8),
    ]
}

fn backups(own: &Outcome, peers: &[&Outcome]) -> Vec<Line> {
    let thrifty: Vec<&Outcome> =
        peers.iter().copied().filter(|peer| peer.last_bytes().is_some_and(|bytes| bytes < THRIFTY_BYTES)).collect();
    vec![
        fastest("first backup, wall", own, peers, &|outcome| &outcome.firsts, wall, 1.0),
        fastest("later backup, wall", own, &thrifty, &|outcome| &outcome.later, wall, 0.5),
        fastest("later backup, CPU", own, &thrifty, &|outcome| &outcome.later, cpu, 0.5),
    ]
}

fn restores(own: &Outcome, peers: &[&Outcome]) -> Vec<Line> {
    let peer = fastest("restore newest, wall", own, peers, &|outcome| &outcome.restores[0], wall, 1.0);
    let newest = Middle::of(&own.restores[0]);
    let against_newest = |which: usize| {
        let other = Middle::of(&own.restores[which]);
        let ratio = newest.zip(other).map(|(newest, other)| other.wall_ms / newest.wall_ms);
        let gross = newest.zip(other).map(|(newest, other)| with_key(other, other.wall_ms) / with_key(newest, newest.wall_ms));
        Line { what: format!("restore {}, wall: its restore newest", RESTORED[which]), ratio, gross, bar: 2.0 }
    };
    let oldest = against_newest(2);
    let newest_against_oldest = Line {
        what: format!("restore {}, wall: its restore oldest", RESTORED[0]),
        ratio: oldest.ratio.map(|ratio| 1.0 / ratio),
        gross: oldest.gross.map(|ratio| 1.0 / ratio),
        bar: 2.0,
    };
    vec![peer, against_newest(1), oldest, newest_against_oldest]
}

fn peak(own: &Outcome) -> Line {
    let most = own.groups().iter().filter_map(|(_, samples)| Middle::of(samples)).map(|middle| middle.peak_bytes).max();
    let ratio = most.map(|bytes| bytes as f64 / f64::from(1 << 20) / PEAK_MIB);
    Line { what: format!("peak memory of all runs: {PEAK_MIB} MiB"), ratio, gross: None, bar: 1.0 }
}

/// icecore against the peer that needs the least; says which one that is.
fn fastest(
    what: &str,
    own: &Outcome,
    peers: &[&Outcome],
    runs: &dyn Fn(&Outcome) -> &[Sample],
    value: fn(Middle) -> f64,
    bar: f64,
) -> Line {
    let times = peers.iter().filter_map(|peer| Some((peer.name, value(Middle::of(runs(peer))?))));
    let Some((name, least)) = times.min_by(|a, b| a.1.total_cmp(&b.1)) else {
        return Line { what: format!("{what}: no peer"), ratio: None, gross: None, bar };
    };
    let own = Middle::of(runs(own));
    let ratio = own.map(|own| value(own) / least);
    let gross = own.map(|own| with_key(own, value(own)) / least);
    Line { what: format!("{what}: {name}, the least of the peers"), ratio, gross, bar }
}

fn with_key(middle: Middle, net_ms: f64) -> f64 {
    net_ms + middle.key_derivation_ms
}

fn wall(middle: Middle) -> f64 {
    middle.wall_ms
}

fn cpu(middle: Middle) -> f64 {
    middle.cpu_ms
}
