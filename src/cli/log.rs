//! `log`: the journal, and notes in it.

use std::io::{IsTerminal, stdout};

use clap::Subcommand;
use icecore::ops::journal::Query;
use icecore::ops::journaled::{Report, Work};
use icecore::ops::log::{self, Entry, Log};
use icecore::progress::Monitor;
use icecore::store::repo::Repository;

use super::args::FilterArgs;
use super::columns::{Column, Table};
use super::context::{Context, wanted};
use super::exit::{Exit, Failure};
use super::output::{in_one_line, printable};
use super::screen::{Screen, Tone};
use super::time;
use super::time::seconds;

/// Rows on a terminal without `-n`.
const ROWS_ON_TERMINAL: usize = 50;
/// The fewest hex digits that are taken as the start of an id, even if no listed snapshot has it.
const PREFIX_LEN_MIN: usize = 4;

/// Show the journal, oldest first: what was done, by whom, when, and how it ended; or add a note
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Every backup, restore, export, drill, forget, prune, repair, check and mark writes an entry when it ends, also when it fails; one that is killed writes none. \
                  A prune keeps the newest 50000 entries. Times are those of the clocks of the machines.\n\n\
                  Examples:\n  icecore log\n  icecore log --since 24h\n  icecore log --snapshot 1a2b3c -n 5 --json\n  \
                  icecore log note 'restored after the disk of db-1 failed' --snapshot latest"
)]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    what: Option<What>,
    /// Only what was done with this snapshot, which may be gone: SNAP, or the start of an id
    #[arg(long, value_name = "SNAP")]
    snapshot: Option<String>,
    /// With --snapshot: the source whose snapshot is meant
    #[arg(long, value_name = "NAME", requires = "snapshot")]
    source: Option<String>,
    /// Only entries from this TIME on (`yesterday`: from its start), or of the last so long: a number with s, m, h or d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only the newest N [default: 50 on a terminal, else all]
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
}

/// The subcommands of `log`.
#[derive(Debug, Subcommand)]
enum What {
    /// Write something down, as in the timeline of an incident
    #[command(after_help = "Example:\n  icecore log note 'switched the application to the restored store'")]
    Note {
        /// What
        #[arg(value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        text: String,
        /// The snapshot that it is about
        #[arg(long, value_name = "SNAP")]
        snapshot: Option<String>,
        /// With --snapshot: the source whose snapshot is meant
        #[arg(long, value_name = "NAME", requires = "snapshot")]
        source: Option<String>,
    },
}

/// `log`.
pub(crate) fn run(context: &Context<'_>, args: &LogArgs) -> Result<Exit, Failure> {
    match &args.what {
        Some(What::Note { text, snapshot, source }) => note(context, text, (snapshot.as_deref(), of_source(source.as_ref()))),
        None => list(context, args),
    }
}

fn list(context: &Context<'_>, args: &LogArgs) -> Result<Exit, Failure> {
    let since_ns = args.since.as_deref().map(since).transpose()?;
    let repo = context.open()?;
    let progress = context.progress();
    let filter = of_source(args.source.as_ref());
    let on_terminal = !context.output.json && stdout().is_terminal();
    let query = Query {
        since_ns,
        snapshot: args.snapshot.as_deref().map(|snap| start_of_id(context, &repo, (snap, &filter), &progress)).transpose()?,
        limit: args.limit.or_else(|| on_terminal.then_some(ROWS_ON_TERMINAL)),
    };
    let log = log::list(&repo, &query, &progress)?;
    drop(progress);
    context.output.result(&log, |log| text(log, &context.output.screen))?;
    Ok(log.outcome().into())
}

/// A span such as `24h` counts back from now. Anything else is a point in time.
fn since(text: &str) -> Result<i64, Failure> {
    match seconds(text) {
        Ok(seconds) => Ok(time::now_ns().saturating_sub(seconds.saturating_mul(1_000_000_000))),
        Err(_) => Ok(time::since(text)?),
    }
}

/// Hex digits are used as they are, because the snapshot may be forgotten. Anything else is looked up among the snapshots.
fn start_of_id(
    context: &Context<'_>,
    repo: &Repository,
    (snap, filter): (&str, &FilterArgs),
    monitor: &dyn Monitor,
) -> Result<String, Failure> {
    let is_id = snap.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if is_id {
        filter.refuse("an id, which means one snapshot")?;
    }
    if snap.len() >= PREFIX_LEN_MIN && is_id {
        return Ok(snap.to_owned());
    }
    Ok(wanted(snap, filter)?.find(&context.refresh(repo, monitor)?, monitor)?.0.to_string())
}

fn of_source(source: Option<&String>) -> FilterArgs {
    FilterArgs { source: source.cloned(), ..FilterArgs::default() }
}

/// `log note`.
fn note(context: &Context<'_>, text: &str, (snap, filter): (Option<&str>, FilterArgs)) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    let about = snap.map(|snap| wanted(snap, &filter)).transpose()?;
    let log = log::note(&Work { repo: &repo, worker: &context.worker(), monitor: &progress }, text, about.as_ref())?;
    drop(progress);
    context.output.report(&log, |log| log.entries.iter().map(|entry| format!("noted at {}\n", time::local(entry.time_ns))).collect())?;
    Ok(log.outcome().into())
}

fn shown_snapshots(entry: &Entry) -> String {
    match (entry.snapshots.as_slice(), entry.snapshots_total) {
        ([], _) => String::new(),
        ([one], 1) => one.short(),
        ([first, ..], total) => format!("{} +{}", first.short(), total.saturating_sub(1)),
    }
}

fn text(log: &Log, screen: &Screen) -> String {
    if log.entries.is_empty() {
        return "no entries\n".into();
    }
    let columns = [Column::left("TIME").rank(4), Column::left("WHAT"), Column::left("OUTCOME"), Column::left("SNAPSHOT").rank(3)];
    let last = [Column::left("WHO").shortened(8).rank(2), Column::left("DETAIL").in_lines(32).rank(1)];
    let mut table = Table::new(columns.into_iter().chain(last));
    for entry in &log.entries {
        let outcome = match entry.exit_code {
            0 => entry.outcome.clone(),
            code => format!("{} ({code})", entry.outcome),
        };
        table.row([
            screen.time(entry.time_ns),
            entry.operation.clone(),
            outcome,
            shown_snapshots(entry),
            format!("{}@{}", printable(&entry.user), printable(&entry.host)),
            in_one_line(&entry.detail),
        ]);
        table.paint("OUTCOME", (entry.exit_code != 0).then_some(Tone::Bad));
    }
    table.text(screen)
        + &format!(
            "{}\n",
            match log.entries.len() {
                1 => "1 entry".to_owned(),
                many => many.to_string() + " entries",
            }
        )
}
