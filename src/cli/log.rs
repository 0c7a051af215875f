//! `log`: the journal, and notes in it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Subcommand;
use icecore::ops::journal::{Event, Operation, Outcome, Query, read, record};
use icecore::progress::Monitor;
use icecore::store::format::log::{LOG_DETAIL_LEN_MAX, LogRecord};
use icecore::store::repo::{LogName, Repository};
use serde::Serialize;

use super::args::FilterArgs;
use super::columns::{Align, Table};
use super::context::{Context, find_in};
use super::exit::{Exit, Failure};
use super::journaled::author;
use super::output::{self, printable};
use super::time;
use super::time::seconds;

/// Entries that a terminal shows unless asked for more.
const ROWS_ON_TERMINAL: usize = 50;
/// The fewest hex digits that name a snapshot that may be gone.
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
    /// Only entries from this TIME on, or of the last so long: a number with s, m, h or d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only the newest N [default: 50 on a terminal, else all]
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
}

/// What else.
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
    },
}

#[derive(Serialize)]
struct Log {
    entries: Vec<EntryView>,
    /// What cannot be read.
    unreadable: Vec<String>,
}

#[derive(Serialize)]
struct EntryView {
    id: String,
    time: String,
    duration_ms: f64,
    operation: String,
    outcome: String,
    exit_code: u8,
    host: String,
    user: String,
    tool: String,
    source: Option<String>,
    snapshots: Vec<String>,
    snapshots_total: u64,
    detail: String,
    facts: BTreeMap<String, String>,
    #[serde(skip)]
    time_ns: i64,
    #[serde(skip)]
    short_ids: Vec<String>,
}

/// `log`.
pub(crate) fn run(context: &Context<'_>, args: &LogArgs) -> Result<Exit, Failure> {
    match &args.what {
        Some(What::Note { text, snapshot }) => note(context, text, snapshot.as_deref()),
        None => list(context, args),
    }
}

fn list(context: &Context<'_>, args: &LogArgs) -> Result<Exit, Failure> {
    let since_ns = args.since.as_deref().map(since).transpose()?;
    let repo = context.open()?;
    let progress = context.progress();
    let on_terminal = !context.output.json && stdout().is_terminal();
    let query = Query {
        since_ns,
        snapshot: args.snapshot.as_deref().map(|snap| start_of_id(context, &repo, snap, &progress)).transpose()?,
        limit: args.limit.or_else(|| on_terminal.then_some(ROWS_ON_TERMINAL)),
    };
    let journal = read(&repo, &query, &progress)?;
    let unreadable: Vec<String> = journal.unreadable.iter().map(ToString::to_string).collect();
    unreadable.iter().for_each(|damage| progress.warn(damage));
    drop(progress);
    let log = Log { entries: journal.entries.iter().map(|(name, entry)| EntryView::of(name, entry)).collect(), unreadable };
    context.output.result(&log, Log::text)?;
    if log.unreadable.is_empty() { Ok(Exit::Done) } else { Ok(Exit::Damaged) }
}

/// `24h` is so long ago; anything else is a time.
fn since(text: &str) -> Result<i64, Failure> {
    match seconds(text) {
        Ok(seconds) => Ok(time::now_ns().saturating_sub(seconds.saturating_mul(1_000_000_000))),
        Err(_) => Ok(time::parse(text)?),
    }
}

/// Digits stand for themselves, as what they name may be forgotten; anything else is looked for among the snapshots.
fn start_of_id(context: &Context<'_>, repo: &Repository, snap: &str, monitor: &dyn Monitor) -> Result<String, Failure> {
    if snap.len() >= PREFIX_LEN_MIN && snap.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
        return Ok(snap.to_owned());
    }
    Ok(find_in(&context.refresh(repo, monitor)?, snap, &FilterArgs::default())?.0.to_string())
}

/// `log note`: the one entry whose writing is all that is asked for, so it fails if that does.
fn note(context: &Context<'_>, text: &str, snap: Option<&str>) -> Result<Exit, Failure> {
    if text.len() > LOG_DETAIL_LEN_MAX {
        return Err(Failure::usage(format!("the note has {} bytes, and at most {LOG_DETAIL_LEN_MAX} are possible", text.len())));
    }
    let repo = context.open()?;
    let mut event = Event {
        operation: Operation::Note,
        outcome: Outcome::Done,
        exit_code: Exit::Done as u8,
        duration: Duration::ZERO,
        source: None,
        snapshots: Vec::new(),
        detail: text.to_owned(),
        facts: Vec::new(),
    };
    if let Some(snap) = snap {
        let refreshed = context.refresh(&repo, &context.progress())?;
        let (id, snapshot) = find_in(&refreshed, snap, &FilterArgs::default())?;
        event.snapshots.push(*id);
        event.source = Some(snapshot.source.id);
    }
    let name = record(&repo, &event, &author())?;
    let written = repo.read_log(&name)?.ok_or_else(|| Failure::failed("the note has just been removed"))?;
    let log = Log { entries: vec![EntryView::of(&name, &written)], unreadable: Vec::new() };
    context.output.report(&log, |log| log.entries.iter().map(|entry| format!("noted at {}\n", time::local(entry.time_ns))).collect())?;
    Ok(Exit::Done)
}

impl EntryView {
    fn of(name: &LogName, entry: &LogRecord) -> Self {
        EntryView {
            id: name.id.to_string(),
            time: time::utc(entry.time_ns),
            duration_ms: output::ms(entry.duration_us),
            operation: entry.operation.clone(),
            outcome: entry.outcome.clone(),
            exit_code: entry.exit_code,
            host: entry.host.clone(),
            user: entry.user.clone(),
            tool: entry.tool.clone(),
            source: entry.source.map(|id| id.to_string()),
            snapshots: entry.snapshots.iter().map(ToString::to_string).collect(),
            snapshots_total: entry.snapshots_total,
            detail: entry.detail.clone(),
            facts: entry.facts.iter().cloned().collect(),
            time_ns: entry.time_ns,
            short_ids: entry.snapshots.iter().map(|id| id.short()).collect(),
        }
    }

    fn shown_snapshots(&self) -> String {
        match (self.short_ids.as_slice(), self.snapshots_total) {
            ([], _) => String::new(),
            ([one], 1) => one.clone(),
            ([first, ..], total) => format!("{first} +{}", total.saturating_sub(1)),
        }
    }
}

impl Log {
    fn text(&self) -> String {
        if self.entries.is_empty() {
            return "no entries\n".into();
        }
        let mut table = Table::new(["TIME", "WHAT", "OUTCOME", "SNAPSHOT", "WHO", "DETAIL"].map(|heading| (heading, Align::Left)));
        for entry in &self.entries {
            let outcome = match entry.exit_code {
                0 => entry.outcome.clone(),
                code => format!("{} ({code})", entry.outcome),
            };
            table.row([
                time::local(entry.time_ns),
                entry.operation.clone(),
                outcome,
                entry.shown_snapshots(),
                format!("{}@{}", printable(&entry.user), printable(&entry.host)),
                entry.detail.clone(),
            ]);
        }
        table.text()
            + &format!(
                "{}\n",
                match self.entries.len() {
                    1 => "1 entry".to_owned(),
                    many => many.to_string() + " entries",
                }
            )
    }
}
