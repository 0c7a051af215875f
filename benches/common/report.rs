//! Medians, the table for people and the JSON lines for programs.

use std::time::Duration;

use super::process::Cost;
use super::tool::Sample;

/// The middle value; of an even number of values the mean of the two in the middle; 0 of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values {
        [] => 0.0,
        _ if values.len() % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// All runs of one thing.
pub struct Row {
    name: &'static str,
    /// The row that this one is compared with.
    against: Option<&'static str>,
    samples: Vec<Sample>,
}

impl Row {
    fn median(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        median(&mut self.samples.iter().map(value).collect::<Vec<_>>())
    }

    fn wall_ms(&self) -> f64 {
        self.median(|sample| ms(sample.cost.wall))
    }

    /// Wall time without the key derivation, as far as the run told how long that took.
    fn net_ms(&self) -> f64 {
        self.median(|sample| ms(sample.cost.wall) - sample.key_derivation_ms.unwrap_or(0.0))
    }

    /// The most of all runs: a median would hide what a limit is about.
    fn peak_bytes(&self) -> u64 {
        self.samples.iter().map(|sample| sample.cost.peak_bytes).max().unwrap_or(0)
    }
}

/// A table of rows, filled run by run.
#[derive(Default)]
pub struct Report(Vec<Row>);

impl Report {
    /// Adds a run of `name`.
    pub fn add(&mut self, name: &'static str, against: Option<&'static str>, sample: Sample) {
        match self.0.iter_mut().find(|row| row.name == name) {
            Some(row) => row.samples.push(sample),
            None => self.0.push(Row { name, against, samples: vec![sample] }),
        }
    }

    /// Adds a run of a program that is no repository's.
    pub fn add_cost(&mut self, name: &'static str, cost: Cost, stored_bytes: u64) {
        self.add(name, None, Sample { cost, stored_bytes, ..Sample::default() });
    }

    fn ratio(&self, row: &Row) -> Option<f64> {
        let base = self.0.iter().find(|base| Some(base.name) == row.against)?;
        Some(row.net_ms() / base.wall_ms())
    }

    /// Writes the table and then one JSON line per row to stdout.
    pub fn print(&self, title: &str) {
        println!("\n{title}: medians; peak memory is the most of all runs; net is without the key derivation");
        println!(
            "{:<30} {:>4} {:>9} {:>9} {:>9} {:>9} {:>12} {:>7}",
            "", "runs", "wall ms", "net ms", "cpu ms", "peak MiB", "stored bytes", "ratio"
        );
        for row in &self.0 {
            let cpu = row.median(|sample| ms(sample.cost.cpu));
            let peak = row.peak_bytes() as f64 / f64::from(1 << 20);
            let stored = row.median(|sample| sample.stored_bytes as f64);
            let ratio = self.ratio(row).map_or(String::from("-"), |ratio| format!("{ratio:.2}"));
            let (wall, net) = (row.wall_ms(), row.net_ms());
            println!("{:<30} {:>4} {wall:>9.1} {net:>9.1} {cpu:>9.1} {peak:>9.1} {stored:>12.0} {ratio:>7}", row.name, row.samples.len());
        }
        for row in &self.0 {
            if let (Some(against), Some(ratio)) = (row.against, self.ratio(row)) {
                println!("{} takes {ratio:.2} times {against}", row.name);
            }
        }
        for row in &self.0 {
            println!("{}", self.json(title, row));
        }
    }

    fn json(&self, title: &str, row: &Row) -> serde_json::Value {
        serde_json::json!({
            "bench": title,
            "row": row.name,
            "runs": row.samples.len(),
            "wall_ms": row.wall_ms(),
            "net_ms": row.net_ms(),
            "key_derivation_ms": row.median(|sample| sample.key_derivation_ms.unwrap_or(0.0)),
            "cpu_ms": row.median(|sample| ms(sample.cost.cpu)),
            "peak_bytes": row.peak_bytes(),
            "stored_bytes": row.median(|sample| sample.stored_bytes as f64),
            "repository_bytes": row.median(|sample| sample.repository_bytes as f64),
            "capture_ms": row.median(|sample| sample.capture_ms.unwrap_or(0.0)),
            "against": row.against,
            "ratio": self.ratio(row),
        })
    }
}
