//! The numbers of a row, the table for people and the JSON lines for programs.

use crate::common::report::{median, ms};
use crate::common::tool::Sample;
use crate::run::{Outcome, RESTORED};

/// The middle of some runs.
#[derive(Debug, Clone, Copy)]
pub struct Middle {
    /// Wall time, without the key derivation where the program says how long that took (only icecore does).
    pub wall_ms: f64,
    /// CPU time, likewise: icecore derives its key on one thread, so its wall time is CPU time.
    pub cpu_ms: f64,
    /// The key derivation; 0 where it is not known.
    pub key_derivation_ms: f64,
    /// The most memory of all these runs, bytes.
    pub peak_bytes: u64,
}

impl Middle {
    /// `None` of no runs.
    pub fn of(samples: &[Sample]) -> Option<Middle> {
        let median = |value: &dyn Fn(&Sample) -> f64| median(&mut samples.iter().map(value).collect::<Vec<_>>());
        let key = |sample: &Sample| sample.key_derivation_ms.unwrap_or(0.0);
        Some(Middle {
            wall_ms: median(&|sample| ms(sample.cost.wall) - key(sample)),
            cpu_ms: median(&|sample| ms(sample.cost.cpu) - sample.key_derivation_cpu_ms.unwrap_or(0.0)),
            key_derivation_ms: median(&key),
            peak_bytes: samples.iter().map(|sample| sample.cost.peak_bytes).max()?,
        })
    }
}

impl Outcome {
    /// Bytes in the repository after the first backup.
    pub fn first_bytes(&self) -> Option<u64> {
        self.firsts.last().map(|sample| sample.repository_bytes)
    }

    /// Bytes in the repository after the last backup.
    pub fn last_bytes(&self) -> Option<u64> {
        self.later.last().or(self.firsts.last()).map(|sample| sample.repository_bytes)
    }

    /// Bytes that a step with a VACUUM added, the median.
    pub fn vacuum_bytes(&self) -> Option<f64> {
        self.added_bytes(true)
    }

    /// Bytes that a step without VACUUM added, the median.
    pub fn step_bytes(&self) -> Option<f64> {
        self.added_bytes(false)
    }

    fn added_bytes(&self, vacuum: bool) -> Option<f64> {
        let steps = self.later.iter().enumerate().filter(|(place, _)| self.vacuums.contains(place) == vacuum);
        let mut added: Vec<f64> = steps.map(|(_, sample)| sample.stored_bytes as f64).collect();
        (!added.is_empty()).then(|| median(&mut added))
    }

    /// All groups of runs with their names.
    pub fn groups(&self) -> [(&'static str, &[Sample]); 5] {
        let [newest, middle, oldest] = &self.restores;
        [("first backup", &self.firsts), ("later backup", &self.later), (RESTORED[0], newest), (RESTORED[1], middle), (RESTORED[2], oldest)]
    }
}

/// Writes the table, as Markdown, to stdout.
pub fn print(title: &str, outcomes: &[Outcome]) {
    println!("\n{title}\n");
    println!(
        "Medians. Times are wall / CPU ms, then the peak MiB of all runs; restores of others than icecore include sync and quick_check."
    );
    println!("icecore's key derivation is taken out of its times and stands apart; that of the others cannot be told from their work.\n");
    println!(
        "| {:<13} | {:>8} | {:>8} | {:>9} | {:>8} | {:>21} | {:>21} | {:>21} | {:>21} | {:>21} | {:>6} |",
        "", "first MB", "last MB", "VACUUM MB", "step kB", "first backup", "later backup", "restore newest", "middle", "oldest", "key ms"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for outcome in outcomes {
        let bytes = |value: Option<f64>, unit: f64, digits| value.map_or(String::from("-"), |bytes| format!("{:.digits$}", bytes / unit));
        let first = bytes(outcome.first_bytes().map(|bytes| bytes as f64), 1e6, 2);
        let last = bytes(outcome.last_bytes().map(|bytes| bytes as f64), 1e6, 2);
        let (vacuum, step) = (bytes(outcome.vacuum_bytes(), 1e6, 2), bytes(outcome.step_bytes(), 1e3, 1));
        let middles = outcome.groups().map(|(_, samples)| Middle::of(samples));
        let key_ms = middles[1].or(middles[0]).map_or(0.0, |middle| middle.key_derivation_ms);
        let key = if key_ms > 0.0 { format!("{key_ms:.0}") } else { String::from("-") };
        print!("| {:<13} | {first:>8} | {last:>8} | {vacuum:>9} | {step:>8} |", outcome.name);
        for middle in middles {
            print!(" {:>21} |", cell(middle));
        }
        println!(" {key:>6} |");
    }
}

fn cell(middle: Option<Middle>) -> String {
    let Some(middle) = middle else { return String::from("-") };
    format!("{:.0} / {:.0}, {:.0}", middle.wall_ms, middle.cpu_ms, middle.peak_bytes as f64 / f64::from(1 << 20))
}

/// Writes one JSON line per row to stdout.
pub fn print_json(title: &str, outcomes: &[Outcome]) {
    println!();
    for outcome in outcomes {
        let mut line = serde_json::json!({
            "bench": title,
            "row": outcome.name,
            "first_bytes": outcome.first_bytes(),
            "last_bytes": outcome.last_bytes(),
            "vacuum_step_bytes": outcome.vacuum_bytes(),
            "step_bytes": outcome.step_bytes(),
            "steps": outcome.later.len(),
        });
        for (name, samples) in outcome.groups() {
            line[name] = Middle::of(samples).map_or(serde_json::Value::Null, |middle| {
                serde_json::json!({
                    "runs": samples.len(),
                    "net_wall_ms": middle.wall_ms,
                    "net_cpu_ms": middle.cpu_ms,
                    "key_derivation_ms": middle.key_derivation_ms,
                    "peak_bytes": middle.peak_bytes,
                })
            });
        }
        println!("{line}");
    }
}
