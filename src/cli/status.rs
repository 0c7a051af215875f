//! `status`: whether backups are as they should be, for people and for monitoring.

use std::path::PathBuf;

use icecore::ops::journal::{Operation, Outcome};
use icecore::ops::status::{self, Flagged, LastGood, NeverTaken, SourceStatus, Status, Verified};
use icecore::progress::Monitor;
use icecore::store::format::log::LogRecord;
use serde::Serialize;

use super::args::FilterArgs;
use super::columns::{Align, Table};
use super::context::{Context, filter};
use super::exit::{Exit, Failure};
use super::output::{self, count, printable};
use super::time::seconds;
use super::views::SourceView;
use super::{prometheus, time};

/// States of sources, and of the repository as the worst of them.
const OK: &str = "ok";
const TOO_OLD: &str = "too-old";
const NO_GOOD: &str = "no-good-snapshot";
/// Nanoseconds in a second.
const SECOND_NS: i64 = 1_000_000_000;

/// Show how the backups stand: of each source the last good snapshot and its age, and when it was last verified
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A snapshot is good if it is not flagged, and not dated more than ten minutes ahead of this machine's clock. A source that has only others has no good one, \
                  nor has one whose every backup failed. A source with a name of its own stands once for each host. \
                  Of a source that is backed up no more, `forget --force` what is left, or leave it out with --source, --tag or --host.\n\n\
                  Exit codes: 0 every source is well; 4 something cannot be read, or the last check found damage; 5 a source has no good snapshot, or none within \
                  --max-age, or there are no snapshots.\n\n\
                  Examples:\n  icecore status\n  icecore status --max-age 26h\n  icecore status -q --max-age 26h --prometheus /var/lib/node_exporter/icecore.prom"
)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// How old the last good snapshot of a source may be: a number with s, m, h or d
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    /// Also write this file, in one step, for the textfile collector of Prometheus's node_exporter
    #[arg(long, value_name = "FILE")]
    prometheus: Option<PathBuf>,
}

/// How the repository stands.
#[derive(Serialize)]
pub(crate) struct Done {
    /// The worst state: `ok`, `too-old`, `no-good-snapshot` or `damaged`.
    pub(crate) status: &'static str,
    pub(crate) repository: String,
    location: String,
    time: String,
    max_age_s: Option<i64>,
    pub(crate) sources: Vec<Source>,
    /// Those of which there is no snapshot, as every backup failed.
    pub(crate) never_taken: Vec<NeverTakenView>,
    pub(crate) last_check: Option<Check>,
    /// What is listed but cannot be read.
    pub(crate) unreadable: Vec<String>,
    #[serde(skip)]
    pub(crate) now_ns: i64,
}

/// How a source stands.
#[derive(Serialize)]
pub(crate) struct Source {
    pub(crate) source: SourceView,
    pub(crate) host: String,
    /// `ok`, `too-old` or `no-good-snapshot`.
    pub(crate) status: &'static str,
    pub(crate) snapshots: u64,
    /// Dated after now.
    pub(crate) ahead: u64,
    pub(crate) last_good: Option<Good>,
    pub(crate) flagged_after: Vec<FlaggedView>,
    pub(crate) last_verified: Option<VerifiedView>,
    pub(crate) last_failure: Option<FailureView>,
}

/// A source without any snapshot.
#[derive(Serialize)]
pub(crate) struct NeverTakenView {
    pub(crate) label: String,
    pub(crate) host: String,
    kind: Option<String>,
    /// `no-good-snapshot`.
    status: &'static str,
    /// Backups that failed within a month.
    failures: u64,
    pub(crate) last_failure: FailureView,
}

#[derive(Serialize)]
pub(crate) struct Good {
    snapshot: String,
    #[serde(flatten)]
    pub(crate) at: Moment,
    pub(crate) logical_bytes: u64,
    pub(crate) stored_bytes: u64,
    #[serde(skip)]
    short_id: String,
}

#[derive(Serialize)]
pub(crate) struct FlaggedView {
    snapshot: String,
    #[serde(flatten)]
    at: Moment,
    flags: Vec<String>,
}

#[derive(Serialize)]
pub(crate) struct VerifiedView {
    snapshot: String,
    #[serde(flatten)]
    pub(crate) at: Moment,
    /// `drill`, `restore` or `check`.
    by: &'static str,
}

#[derive(Serialize)]
pub(crate) struct FailureView {
    #[serde(flatten)]
    pub(crate) at: Moment,
    host: String,
    outcome: String,
    detail: String,
}

#[derive(Serialize)]
pub(crate) struct Check {
    #[serde(flatten)]
    pub(crate) at: Moment,
    host: String,
    /// `done` or `damaged`.
    outcome: String,
    /// `none`, `part` or `all`.
    read_data: String,
    detail: String,
    #[serde(skip)]
    pub(crate) is_whole: bool,
}

/// A time, and how long ago that is.
#[derive(Serialize)]
pub(crate) struct Moment {
    time: String,
    age_s: i64,
    #[serde(skip)]
    pub(crate) time_ns: i64,
}

/// `status`.
pub(crate) fn run(context: &Context<'_>, args: &StatusArgs) -> Result<Exit, Failure> {
    let max_age_s = args.max_age.as_deref().map(seconds).transpose()?;
    let repo = context.open()?;
    let progress = context.progress();
    let refreshed = context.refresh(&repo, &progress)?;
    let now_ns = time::now_ns();
    let found = status::status(&repo, &refreshed, &filter(&args.filter), now_ns, &progress)?;
    found.unreadable.iter().for_each(|damage| progress.warn(&damage.to_string()));
    drop(progress);
    let clock = Clock { now_ns, max_age_s };
    let unreadable = refreshed.damage.iter().chain(&found.unreadable).map(ToString::to_string).collect();
    let place = (repo.config().repository.to_string(), repo.backend().location());
    let done = Done::of(&found, unreadable, place, &clock);
    if let Some(file) = &args.prometheus {
        prometheus::write(file, &done)?;
    }
    // What is not well is said even with -q.
    match done.exit() {
        Exit::Done => context.output.report(&done, Done::text)?,
        _ => context.output.result(&done, Done::text)?,
    }
    Ok(done.exit())
}

/// What time it is, and what is too old.
struct Clock {
    now_ns: i64,
    max_age_s: Option<i64>,
}

impl Clock {
    /// Ages are whole seconds; what is dated a little after now is of now.
    fn moment(&self, time_ns: i64) -> Moment {
        let age_s = self.now_ns.saturating_sub(time_ns).max(0) / SECOND_NS;
        Moment { time: time::utc(time_ns), age_s, time_ns }
    }
}

impl Done {
    fn of(found: &Status, unreadable: Vec<String>, (repository, location): (String, String), clock: &Clock) -> Self {
        let sources: Vec<Source> = found.sources.iter().map(|one| Source::of(one, clock)).collect();
        let last_check = found.last_check.as_ref().map(|entry| Check::of(entry, clock));
        let is_damaged = !unreadable.is_empty() || last_check.as_ref().is_some_and(|check| !check.is_whole);
        let never_taken: Vec<NeverTakenView> = found.never_taken.iter().map(|one| NeverTakenView::of(one, clock)).collect();
        let is_any = |state: &str| sources.iter().any(|one| one.status == state);
        let status = match () {
            () if is_damaged => "damaged",
            () if sources.is_empty() || !never_taken.is_empty() || is_any(NO_GOOD) => NO_GOOD,
            () if is_any(TOO_OLD) => TOO_OLD,
            () => OK,
        };
        let time = time::utc(clock.now_ns);
        let (max_age_s, now_ns) = (clock.max_age_s, clock.now_ns);
        Done { status, repository, location, time, max_age_s, sources, never_taken, last_check, unreadable, now_ns }
    }

    fn exit(&self) -> Exit {
        match self.status {
            "damaged" => Exit::Damaged,
            OK => Exit::Done,
            _ => Exit::Overdue,
        }
    }

    fn text(&self) -> String {
        let mut table = Table::new(
            ["SOURCE", "HOST", "STATUS", "LAST GOOD", "ID", "AGE", "FLAGGED SINCE", "VERIFIED"].map(|heading| (heading, Align::Left)),
        );
        self.sources.iter().for_each(|one| table.row(one.row()));
        self.never_taken.iter().for_each(|one| table.row(one.row()));
        let is_empty = self.sources.is_empty() && self.never_taken.is_empty();
        let mut text = if is_empty { "no snapshots\n".to_owned() } else { table.text() };
        self.never_taken.iter().for_each(|one| text.push_str(&one.last_failure.text()));
        for one in &self.sources {
            text.push_str(&one.last_failure.as_ref().map(FailureView::text).unwrap_or_default());
            if one.ahead > 0 {
                let dated = count(one.ahead, "snapshot");
                text.push_str(&format!("{dated} of {} dated after now, and not believed\n", printable(&one.source.label)));
            }
        }
        text.push_str(&match &self.last_check {
            Some(check) => format!("last check {} ago: {}\n", age(check.at.age_s), printable(&check.detail)),
            None => "no check in the journal\n".to_owned(),
        });
        text + self.status + "\n"
    }
}

impl Source {
    fn of(found: &SourceStatus, clock: &Clock) -> Self {
        let last_good = found.last_good.as_ref().map(|good| Good::of(good, clock));
        let status = match (&last_good, clock.max_age_s) {
            (None, _) => NO_GOOD,
            (Some(good), Some(max)) if good.at.age_s > max => TOO_OLD,
            _ => OK,
        };
        Source {
            source: SourceView::of(&found.source),
            host: found.host.clone(),
            status,
            snapshots: found.snapshots,
            ahead: found.ahead,
            last_good,
            flagged_after: found.flagged_after.iter().map(|flagged| FlaggedView::of(flagged, clock)).collect(),
            last_verified: found.last_verified.as_ref().map(|verified| VerifiedView::of(verified, clock)),
            last_failure: found.last_failure.as_ref().map(|entry| FailureView::of(entry, clock)),
        }
    }

    fn row(&self) -> [String; 8] {
        let good = |say: &dyn Fn(&Good) -> String| self.last_good.as_ref().map_or_else(|| "-".to_owned(), say);
        let flagged = if self.flagged_after.is_empty() { "-".to_owned() } else { self.flagged_after.len().to_string() };
        let verified = self.last_verified.as_ref().map(|verified| format!("{} ago ({})", age(verified.at.age_s), verified.by));
        [
            self.source.label.clone(),
            self.host.clone(),
            self.status.to_owned(),
            good(&|good| time::local(good.at.time_ns)),
            good(&|good| good.short_id.clone()),
            good(&|good| age(good.at.age_s)),
            flagged,
            verified.unwrap_or_else(|| "never".to_owned()),
        ]
    }
}

impl Good {
    fn of(good: &LastGood, clock: &Clock) -> Self {
        Good {
            snapshot: good.id.to_string(),
            at: clock.moment(good.time_ns),
            logical_bytes: good.logical_bytes,
            stored_bytes: good.stored_bytes,
            short_id: good.id.short(),
        }
    }
}

impl FlaggedView {
    fn of(flagged: &Flagged, clock: &Clock) -> Self {
        FlaggedView { snapshot: flagged.id.to_string(), at: clock.moment(flagged.time_ns), flags: flagged.codes.clone() }
    }
}

impl VerifiedView {
    fn of(verified: &Verified, clock: &Clock) -> Self {
        VerifiedView { snapshot: verified.snapshot.to_string(), at: clock.moment(verified.time_ns), by: Operation::word(verified.by) }
    }
}

impl NeverTakenView {
    fn of(found: &NeverTaken, clock: &Clock) -> Self {
        NeverTakenView {
            label: found.label.clone(),
            host: found.host.clone(),
            kind: found.kind.as_ref().map(|kind| kind.name().to_owned()),
            status: NO_GOOD,
            failures: found.failures,
            last_failure: FailureView::of(&found.last_failure, clock),
        }
    }

    fn row(&self) -> [String; 8] {
        let none = || "-".to_owned();
        [self.label.clone(), self.host.clone(), self.status.to_owned(), none(), none(), none(), none(), "never".to_owned()]
    }
}

impl FailureView {
    /// On one line; the journal has the rest.
    fn text(&self) -> String {
        let mut lines = self.detail.lines().filter(|line| !line.trim().is_empty());
        let first = printable(lines.next().unwrap_or_default());
        let more = if lines.next().is_some() { " ... (see `icecore log`)" } else { "" };
        format!("last backup {}, {} ago: {first}{more}\n", printable(&self.outcome), age(self.at.age_s))
    }

    fn of(entry: &LogRecord, clock: &Clock) -> Self {
        let (host, outcome, detail) = (entry.host.clone(), entry.outcome.clone(), entry.detail.clone());
        FailureView { at: clock.moment(entry.time_ns), host, outcome, detail }
    }
}

impl Check {
    fn of(entry: &LogRecord, clock: &Clock) -> Self {
        let read_data = entry.facts.iter().find(|(name, _)| name == "read_data").map_or("none", |(_, value)| value);
        Check {
            at: clock.moment(entry.time_ns),
            host: entry.host.clone(),
            outcome: entry.outcome.clone(),
            read_data: read_data.to_owned(),
            detail: entry.detail.clone(),
            is_whole: entry.outcome == Outcome::Done.word(),
        }
    }
}

/// How long ago, for people.
fn age(seconds: i64) -> String {
    const DAY_S: i64 = 86_400;
    match seconds {
        seconds if seconds < 60 => format!("{seconds} s"),
        long if long >= 2 * DAY_S => format!("{} d {} h", long / DAY_S, long % DAY_S / 3600),
        short => output::duration(short as f64 * 1000.0),
    }
}
