//! `stats`.

use std::io::{IsTerminal, stdout};

use icecore::ops::stats::{ENCODINGS, SnapshotCost};
use icecore::progress::Monitor;
use serde::Serialize;

use super::columns::{Align, Table};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output::{self, count, printable};
use super::time;
use super::views::{ChainsView, CostView, SpreadView};

/// Show what the repository holds and what that costs, in all and by snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = STATS_HELP)]
pub(crate) struct StatsArgs {
    /// Give only the newest N snapshots a row [default: 20 on a terminal, else all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// What `icecore stats --help` ends with.
const STATS_HELP: &str = "\
META is everything stored that is not encoded bytes of chunks: tree nodes, tables, padding, records, headers. DEPTH and WORK are mean/p99/max
over the chunks of the snapshot's streams: deltas down to a chunk that is stored whole, and frames to decode to read the chunk by itself.

With --json, for the repository and for each of `per_snapshot`:
  logical_bytes             the streams as plain copies
  new_chunks, new_bytes     chunks that were not there before, and their plain bytes
  stored_bytes, ratio       packs and record of the snapshot; logical bytes per stored byte
  raw_bytes, zstd_bytes, delta_bytes, patch_bytes
                            encoded chunks, by encoding
  metadata_bytes            the rest of stored_bytes; of it:
  node_bytes, table_bytes, padding_bytes, record_bytes
                            tree nodes, tables of packs, padding of packs, whole objects that are no packs
  stream_chunks             chunks in the streams
  depth, work               {mean, p99, max}; null if a tree cannot be read
The snapshots' stored_bytes and those of `other`, what no listed snapshot has stored, add up to stored_bytes of the repository.

Example:
  icecore stats --limit 100";

/// Snapshots that a terminal shows unless asked for more.
const ROWS_ON_TERMINAL: usize = 20;
/// Columns of the table beside those of the encodings.
const COLUMNS: usize = 10;

#[derive(Serialize)]
struct Stats {
    repository: String,
    location: String,
    encrypted: bool,
    snapshots: u64,
    logical_bytes: u64,
    new_chunks: u64,
    new_bytes: u64,
    packs: u64,
    pack_bytes: u64,
    chunks: u64,
    #[serde(flatten)]
    total: CostView,
    #[serde(flatten)]
    chains: ChainsView,
    /// What no listed snapshot has stored.
    other: CostView,
    /// What writes have left that have not ended: in none of the sums.
    unfinished_files: u64,
    unfinished_bytes: u64,
    /// The newest ones, oldest first.
    per_snapshot: Vec<Row>,
    /// What cannot be read.
    unreadable: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    snapshot: String,
    time: String,
    source: String,
    logical_bytes: u64,
    new_chunks: u64,
    new_bytes: u64,
    #[serde(flatten)]
    cost: CostView,
    #[serde(flatten)]
    chains: ChainsView,
    #[serde(skip)]
    short_id: String,
    #[serde(skip)]
    time_ns: i64,
}

impl Row {
    fn of(found: &SnapshotCost) -> Self {
        Row {
            snapshot: found.id.to_string(),
            time: time::utc(found.time_ns),
            source: found.source.clone(),
            logical_bytes: found.logical_bytes,
            new_chunks: found.new_chunks,
            new_bytes: found.new_bytes,
            cost: CostView::of(&found.cost, Some(found.logical_bytes)),
            chains: ChainsView::of(found.chains.as_ref()),
            short_id: found.id.short(),
            time_ns: found.time_ns,
        }
    }
}

/// `stats`.
pub(crate) fn run(context: &Context<'_>, args: &StatsArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    let sums = icecore::ops::stats::stats(&repo, &progress)?;
    let unreadable: Vec<String> = sums.damage.iter().map(ToString::to_string).collect();
    unreadable.iter().for_each(|damage| progress.warn(damage));
    drop(progress);
    let all = if !context.output.json && stdout().is_terminal() { ROWS_ON_TERMINAL } else { usize::MAX };
    let left_out = sums.snapshots.len().saturating_sub(args.limit.unwrap_or(all));
    let stats = Stats {
        repository: repo.config().repository.to_string(),
        location: repo.backend().location(),
        encrypted: repo.config().encrypted,
        snapshots: sums.snapshots.len() as u64,
        logical_bytes: sums.logical_bytes,
        new_chunks: sums.new_chunks,
        new_bytes: sums.new_bytes,
        packs: sums.packs,
        pack_bytes: sums.pack_bytes,
        chunks: sums.chunks,
        total: CostView::of(&sums.total, Some(sums.logical_bytes)),
        chains: ChainsView::of(Some(&sums.chains)),
        other: CostView::of(&sums.other, None),
        unfinished_files: sums.unfinished.files,
        unfinished_bytes: sums.unfinished.bytes,
        per_snapshot: sums.snapshots.iter().skip(left_out).map(Row::of).collect(),
        unreadable,
    };
    context.output.result(&stats, Stats::text)?;
    if stats.unreadable.is_empty() { Ok(Exit::Done) } else { Ok(Exit::Damaged) }
}

impl Stats {
    fn text(&self) -> String {
        let encrypted = if self.encrypted { "yes" } else { "no" };
        let lines = [
            ("repository", format!("{} in {}", self.repository, self.location)),
            ("encrypted", encrypted.to_owned()),
            ("snapshots", format!("{}, together {}", self.snapshots, output::bytes(self.logical_bytes))),
            ("new", format!("{} in {}", output::bytes(self.new_bytes), count(self.new_chunks, "chunk"))),
            (
                "stored",
                format!("{}, ratio {}; {}", output::bytes(self.total.stored_bytes), self.total.shown_ratio(), self.total.shown_encodings()),
            ),
            ("metadata", self.total.shown_metadata()),
            ("packs", format!("{}, {}, {} in them", self.packs, output::bytes(self.pack_bytes), count(self.chunks, "chunk"))),
            ("other", format!("{} that no listed snapshot has stored", output::bytes(self.other.stored_bytes))),
            ("depth", self.chains.shown_depth()),
            ("work", self.chains.shown_work()),
        ];
        let mut text = lines.map(|(name, value)| format!("{name:<11} {}\n", printable(&value))).concat();
        if self.unfinished_files > 0 {
            let (files, size) = (count(self.unfinished_files, "file"), output::bytes(self.unfinished_bytes));
            text.push_str(&format!(
                "{:<11} {files}, {size} of writes that have not ended; prune removes those of killed processes\n",
                "unfinished"
            ));
        }
        if !self.per_snapshot.is_empty() {
            text.push_str(&format!("\n{}", self.table()));
        }
        match self.snapshots.saturating_sub(self.per_snapshot.len() as u64) {
            0 => text,
            more => text + &format!("{} more before these: see --limit\n", count(more, "snapshot")),
        }
    }

    fn table(&self) -> String {
        let of = |heading| (heading, Align::Left);
        let left = [of("TIME"), of("ID"), of("SOURCE")];
        let right = ["SIZE", "NEW"].into_iter().chain(ENCODINGS.iter().copied()).chain(["META", "STORED", "RATIO", "DEPTH", "WORK"]);
        let mut headings = left.into_iter().chain(right.map(|heading| (heading, Align::Right)));
        let mut table: Table<{ COLUMNS + ENCODINGS.len() }> = Table::new(std::array::from_fn(|_| headings.next().unwrap_or(of(""))));
        for row in &self.per_snapshot {
            let spread = |spread: &Option<SpreadView>| spread.as_ref().map_or_else(|| "-".to_owned(), SpreadView::short);
            let front = [time::local(row.time_ns), row.short_id.clone(), row.source.clone()];
            let sizes = [output::bytes(row.logical_bytes), row.new_chunks.to_string()];
            let encoded = row.cost.by_encoding.iter().map(|(_, bytes)| output::bytes(*bytes));
            let stored = [row.cost.metadata_bytes, row.cost.stored_bytes].map(output::bytes);
            let chains = [row.cost.shown_ratio(), spread(&row.chains.depth), spread(&row.chains.work)];
            let mut cells = front.into_iter().chain(sizes).chain(encoded).chain(stored).chain(chains);
            table.row(std::array::from_fn(|_| cells.next().unwrap_or_default()));
        }
        table.text()
    }
}
