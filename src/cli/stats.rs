//! The command `stats`.

use std::io::{IsTerminal, stdout};

use icecore::ops::journaled::Report;
use icecore::ops::stats::{Chains, Cost, ENCODINGS, Spread, Stats, stats};
use icecore::progress::Monitor;

use super::columns::{Column, Table};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::findings::short_ids;
use super::output::{self, count, printable};
use super::screen::Screen;

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

/// Rows on a terminal without `--limit`.
const ROWS_ON_TERMINAL: usize = 20;

/// `stats`.
pub(crate) fn run(context: &Context<'_>, args: &StatsArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    let mut stats = stats(&repo, &progress)?;
    stats.damage.iter().for_each(|damage| progress.warn(damage));
    drop(progress);
    let all = if !context.output.json && stdout().is_terminal() { ROWS_ON_TERMINAL } else { usize::MAX };
    let left_out = stats.per_snapshot.len().saturating_sub(args.limit.unwrap_or(all));
    stats.per_snapshot.drain(..left_out);
    context.output.result(&stats, |stats| text(stats, &context.output.screen))?;
    Ok(stats.outcome().into())
}

fn text(stats: &Stats, screen: &Screen) -> String {
    let encrypted = if stats.encrypted { "yes" } else { "no" };
    let lines = [
        ("repository", format!("{} in {}", short_ids(&stats.repository.to_string()), stats.location)),
        ("encrypted", encrypted.to_owned()),
        ("snapshots", format!("{}, together {}", stats.snapshots, output::bytes(stats.logical_bytes))),
        ("new", format!("{} in {}", output::bytes(stats.new_bytes), count(stats.new_chunks, "chunk"))),
        (
            "stored",
            format!("{}, ratio {}; {}", output::bytes(stats.total.stored_bytes), shown_ratio(stats.ratio), shown_encodings(&stats.total)),
        ),
        ("metadata", shown_metadata(&stats.total)),
        ("packs", format!("{}, {}, {} in them", stats.packs, output::bytes(stats.pack_bytes), count(stats.chunks, "chunk"))),
        ("other", format!("{} that no listed snapshot has stored", output::bytes(stats.other.stored_bytes))),
        ("depth", shown_spread(&stats.chains.level)),
        ("work", shown_spread(&stats.chains.work)),
    ];
    let mut text = screen.facts(11, lines.map(|(name, value)| (name.to_owned(), printable(&value))));
    if stats.unfinished.files > 0 {
        let (files, size) = (count(stats.unfinished.files, "file"), output::bytes(stats.unfinished.bytes));
        text.push_str(&format!(
            "{:<11} {files}, {size} of writes that have not ended; prune removes those of killed processes\n",
            "unfinished"
        ));
    }
    if !stats.per_snapshot.is_empty() {
        text.push_str(&format!("\n{}", table(stats, screen)));
    }
    match stats.snapshots.saturating_sub(stats.per_snapshot.len() as u64) {
        0 => text,
        more => text + &format!("{} more before these: see --limit\n", count(more, "snapshot")),
    }
}

fn table(stats: &Stats, screen: &Screen) -> String {
    let left = [Column::left("TIME").rank(6), Column::left("ID"), Column::left("SOURCE").shortened(12)];
    let sizes = [Column::right("SIZE").rank(9), Column::right("NEW").rank(3)];
    let encodings = ENCODINGS.iter().map(|encoding| Column::right(encoding).rank(1));
    let costs = [("META", 2), ("STORED", 10), ("RATIO", 8), ("DEPTH", 5), ("WORK", 4)];
    let costs = costs.map(|(heading, rank)| Column::right(heading).rank(rank));
    let mut table = Table::new(left.into_iter().chain(sizes).chain(encodings).chain(costs));
    for row in &stats.per_snapshot {
        let spread = |of: fn(&Chains) -> Spread| row.chains.as_ref().map_or_else(|| "-".to_owned(), |chains| short_spread(&of(chains)));
        let front = [screen.time(row.time_ns), row.id.short(), row.source.clone()];
        let sizes = [output::bytes(row.logical_bytes), row.new_chunks.to_string()];
        let encoded = row.cost.by_encoding().map(|(_, bytes)| output::bytes(bytes));
        let stored = [row.cost.metadata_bytes(), row.cost.stored_bytes].map(output::bytes);
        let chains = [shown_ratio(row.ratio), spread(|chains| chains.level), spread(|chains| chains.work)];
        table.row(front.into_iter().chain(sizes).chain(encoded).chain(stored).chain(chains));
    }
    table.text(screen)
}

/// For people.
pub(crate) fn shown_ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}"))
}

/// For people: `raw 0 B, zstd 1.0 KiB`.
pub(crate) fn shown_encodings(cost: &Cost) -> String {
    named_bytes(cost.by_encoding())
}

/// For people.
pub(crate) fn shown_metadata(cost: &Cost) -> String {
    let parts = [("nodes", cost.node_bytes), ("tables", cost.table_bytes), ("padding", cost.padding_bytes), ("records", cost.record_bytes)];
    format!("{}; {}", output::bytes(cost.metadata_bytes()), named_bytes(parts))
}

fn named_bytes<'n>(parts: impl IntoIterator<Item = (&'n str, u64)>) -> String {
    parts.into_iter().map(|(name, size)| format!("{name} {}", output::bytes(size))).collect::<Vec<_>>().join(", ")
}

/// For people.
pub(crate) fn shown_spread(spread: &Spread) -> String {
    format!("mean {:.1}, p99 {}, max {}", spread.mean, spread.p99, spread.max)
}

/// For a column of a table: mean, p99 and highest.
fn short_spread(spread: &Spread) -> String {
    format!("{:.1}/{}/{}", spread.mean, spread.p99, spread.max)
}
