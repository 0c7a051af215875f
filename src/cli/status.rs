//! `status`: whether backups are as they should be, for people and for monitoring.

use std::path::PathBuf;

use icecore::ops::status::{LastFailure, LastGood, NeverTaken, SourceStatus, State, Status, StatusOptions, status};

use super::args::FilterArgs;
use super::columns::{Column, Table};
use super::context::{Context, filter};
use super::exit::{Exit, Failure};
use super::output::{self, count, in_one_line, printable};
use super::screen::{Screen, Tone};
use super::time::seconds;
use super::{prometheus, time};

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

/// `status`.
pub(crate) fn run(context: &Context<'_>, args: &StatusArgs) -> Result<Exit, Failure> {
    let max_age_s = args.max_age.as_deref().map(seconds).transpose()?;
    let repo = context.open()?;
    let progress = context.progress();
    let refreshed = context.refresh(&repo, &progress)?;
    let options = StatusOptions { filter: filter(&args.filter), now_ns: time::now_ns(), max_age_s };
    let status = status(&repo, &refreshed, &options, &progress)?;
    drop(progress);
    if let Some(file) = &args.prometheus {
        prometheus::write(file, &status)?;
    }
    let screen = &context.output.screen;
    // Problems are printed even with -q.
    match status.status {
        State::Ok => context.output.report(&status, |status| text(status, screen))?,
        _ => context.output.result(&status, |status| text(status, screen))?,
    }
    Ok(match status.status {
        State::Ok => Exit::Done,
        State::TooOld | State::NoGood => Exit::Overdue,
        State::Damaged => Exit::Damaged,
    })
}

fn text(status: &Status, screen: &Screen) -> String {
    let front = [Column::left("SOURCE").shortened(12), Column::left("HOST").shortened(8).rank(1), Column::left("STATUS")];
    let dates = [("LAST GOOD", 2), ("ID", 5), ("AGE", 6), ("FLAGGED SINCE", 3), ("VERIFIED", 4)];
    let mut table = Table::new(front.into_iter().chain(dates.map(|(heading, rank)| Column::left(heading).rank(rank))));
    for one in &status.sources {
        table.row(row(one, screen));
        table.paint("STATUS", Some(tone(one.status)));
    }
    for one in &status.never_taken {
        table.row(row_of_none(one));
        table.paint("STATUS", Some(tone(one.status)));
    }
    let is_empty = status.sources.is_empty() && status.never_taken.is_empty();
    let mut text = if is_empty { "no snapshots\n".to_owned() } else { table.text(screen) };
    status.never_taken.iter().for_each(|one| text.push_str(&told(&one.last_failure)));
    for one in &status.sources {
        text.push_str(&one.last_failure.as_ref().map(told).unwrap_or_default());
        if one.ahead > 0 {
            let dated = count(one.ahead, "snapshot");
            text.push_str(&format!("{dated} of {} dated after now, and not believed\n", printable(&one.source.label)));
        }
    }
    text.push_str(&match &status.last_check {
        Some(check) => format!("last check {} ago: {}\n", age(check.age_s), in_one_line(&check.detail)),
        None => "no check in the journal\n".to_owned(),
    });
    text + &verdict(status, screen)
}

/// The last line: the worst state by its name. A source with a young good snapshot is `ok`, but the backup after it may have failed.
fn verdict(status: &Status, screen: &Screen) -> String {
    let failed: Vec<&str> = status.sources.iter().filter(|one| one.last_failure.is_some()).map(|one| one.source.label.as_str()).collect();
    let word = screen.paint(tone(status.status), status.status.word());
    match (status.status, failed.as_slice()) {
        (State::Ok, []) | (State::TooOld | State::NoGood | State::Damaged, _) => format!("{word}\n"),
        (State::Ok, failed) => {
            let failed = screen.paint(Tone::Doubtful, &format!("the last backup failed: {}", printable(&failed.join(", "))));
            format!("{word} by age, but {failed}\n")
        }
    }
}

/// How a state is shown.
fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::TooOld | State::NoGood => Tone::Doubtful,
        State::Damaged => Tone::Bad,
    }
}

fn row(one: &SourceStatus, screen: &Screen) -> [String; 8] {
    let good = |say: &dyn Fn(&LastGood) -> String| one.last_good.as_ref().map_or_else(|| "-".to_owned(), say);
    let flagged = if one.flagged_after.is_empty() { "-".to_owned() } else { one.flagged_after.len().to_string() };
    let verified = one.last_verified.map(|verified| format!("{} ago ({})", age(verified.age_s), verified.by.word()));
    [
        one.source.label.clone(),
        one.host.clone(),
        one.status.word().to_owned(),
        good(&|good| screen.time(good.time_ns)),
        good(&|good| good.id.short()),
        good(&|good| age(good.age_s)),
        flagged,
        verified.unwrap_or_else(|| "never".to_owned()),
    ]
}

/// The row of a source without any snapshot.
fn row_of_none(one: &NeverTaken) -> [String; 8] {
    let none = || "-".to_owned();
    [one.label.clone(), one.host.clone(), one.status.word().to_owned(), none(), none(), none(), none(), "never".to_owned()]
}

/// A failed backup in one line. The journal has the rest.
fn told(failure: &LastFailure) -> String {
    let mut lines = failure.detail.lines().filter(|line| !line.trim().is_empty());
    let first = printable(lines.next().unwrap_or_default());
    let more = if lines.next().is_some() { " ... (see `icecore log`)" } else { "" };
    format!("last backup {}, {} ago: {first}{more}\n", printable(&failure.outcome), age(failure.age_s))
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
