//! `forget`: the plan, shown, then executed.

use icecore::id::SnapshotId;
use icecore::ops::forget::{Decided, DecidedGroup, ForgetWish, Forgotten, Which, perform};
use icecore::ops::journaled::{Report, Work};
use icecore::ops::retention::{Calendar, Duration, GroupBy, Keep, Rules};
use icecore::store::repo::Repository;
use jiff::tz::TimeZone;

use super::args::FilterArgs;
use super::columns::{Column, Table};
use super::confirm;
use super::context::{Context, filter, wanted};
use super::exit::{Exit, Failure};
use super::look::{flag_codes, flag_tone};
use super::output::{count, printable};
use super::prune;
use super::prune::{GRACE, MAX_UNUSED};
use super::screen::{Screen, Tone};
use super::time;

const AFTER_HELP: &str = "\
On a terminal the plan is shown and you are asked first, unless --yes is given. There is no question for snapshots given by
name, with --json, and without a terminal on standard input, as under cron.

Rules count in each group, from the newest snapshot on; a snapshot stays if any of them keeps it. --keep-daily keeps the newest snapshot of
each of the last N days that have one, and so on; while there are fewer than N, also the oldest one. N is a number or `unlimited`. A DURATION is
made of years, months, days and hours, as 1y5m7d2h, and reaches back from the newest snapshot of the group.

Always kept: protected snapshots; the newest good one of each source; those with the newest good state of a stream that is flagged in newer ones;
the newest one of each source. Rules count good snapshots as if there were no others; a flagged one stays if they would keep it were it good.
Snapshots given by name go whatever the rules; those with the newest good state of a source or a stream only with --force, a protected one never.
A snapshot that has vanished (every command warns of it) is given up when its id is given here.
Space is freed by a prune, which --prune does at once, with the passphrase asked for once.

Examples:
  icecore forget --keep-hourly 48 --keep-daily 30 --keep-monthly 24 --dry-run
  icecore forget --keep-within 7d --keep-within-weekly 1y --tag nightly --prune
  icecore forget 1a2b3c 4d5e6f";

/// Drop snapshots from the list: by rules, or by name
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "icecore forget [OPTIONS] --keep-...\n       icecore forget [OPTIONS] SNAP...",
    after_help = AFTER_HELP
)]
pub(crate) struct ForgetArgs {
    /// These snapshots
    #[arg(value_name = "SNAP", conflicts_with = "rules", required_unless_present = "rules")]
    snaps: Vec<String>,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// What makes a group: source, host and tags, with commas between; nothing for one group
    #[arg(long, value_name = "WHAT", default_value = "source", value_parser = group_by, conflicts_with = "snaps")]
    group_by: GroupBy,
    /// Whose hours, days and weeks count, as Europe/Berlin [default: this machine's]
    #[arg(long, value_name = "ZONE", value_parser = time_zone, conflicts_with = "snaps")]
    time_zone: Option<TimeZone>,
    /// Only show what would be done, and why
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask before snapshots are forgotten by rules
    #[arg(short = 'y', long, conflicts_with_all = ["snaps", "dry_run"])]
    yes: bool,
    /// Also forget the newest good snapshot of a source or a stream, if it is given by name
    #[arg(long, conflicts_with = "rules")]
    force: bool,
    /// Then free space, as `icecore prune` does
    #[arg(long, conflicts_with = "dry_run")]
    prune: bool,
    /// For --prune: how long marked packs wait before they are deleted, as with `icecore prune`
    #[arg(long, value_name = "SPAN", default_value = GRACE, requires = "prune")]
    grace: String,
}

/// The rules.
#[derive(Debug, clap::Args)]
#[group(id = "rules", multiple = true)]
struct RuleArgs {
    /// Keep the newest N
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_last: Option<Keep>,
    /// Keep the newest of each of the last N hours
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_hourly: Option<Keep>,
    /// Keep the newest of each of the last N days
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_daily: Option<Keep>,
    /// Keep the newest of each of the last N weeks
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_weekly: Option<Keep>,
    /// Keep the newest of each of the last N months
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_monthly: Option<Keep>,
    /// Keep the newest of each of the last N years
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_yearly: Option<Keep>,
    /// Keep all of this time
    #[arg(long, value_name = "DURATION", value_parser = Duration::parse)]
    keep_within: Option<Duration>,
    /// Keep the newest of each hour of this time
    #[arg(long, value_name = "DURATION", value_parser = Duration::parse)]
    keep_within_hourly: Option<Duration>,
    /// Keep the newest of each day of this time
    #[arg(long, value_name = "DURATION", value_parser = Duration::parse)]
    keep_within_daily: Option<Duration>,
    /// Keep the newest of each week of this time
    #[arg(long, value_name = "DURATION", value_parser = Duration::parse)]
    keep_within_weekly: Option<Duration>,
    /// Keep the newest of each month of this time
    #[arg(long, value_name = "DURATION", value_parser = Duration::parse)]
    keep_within_monthly: Option<Duration>,
    /// Keep the newest of each year of this time
    #[arg(long, value_name = "DURATION", value_parser = Duration::parse)]
    keep_within_yearly: Option<Duration>,
    /// Keep those with all of these tags, commas between; may be given several times
    #[arg(long, value_name = "T,...", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    keep_tag: Vec<String>,
}

impl RuleArgs {
    fn rules(&self) -> Rules {
        let count = [self.keep_last, self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_yearly];
        Rules {
            count: count.map(Option::unwrap_or_default),
            within: [
                self.keep_within,
                self.keep_within_hourly,
                self.keep_within_daily,
                self.keep_within_weekly,
                self.keep_within_monthly,
                self.keep_within_yearly,
            ],
            tags: self.keep_tag.iter().map(|tags| tags.split(',').map(str::to_owned).collect()).collect(),
        }
    }
}

fn keep(text: &str) -> Result<Keep, String> {
    match text {
        "unlimited" => Ok(Keep::All),
        number => number.parse().map(Keep::Newest).map_err(|_| "a number or `unlimited` is needed".to_owned()),
    }
}

fn group_by(text: &str) -> Result<GroupBy, String> {
    let mut by = GroupBy { source: false, host: false, tags: false };
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "source" => by.source = true,
            "host" => by.host = true,
            "tags" => by.tags = true,
            _ => return Err(format!("{word}: only `source`, `host` and `tags` make groups")),
        }
    }
    Ok(by)
}

/// A name of the time zone database, or a rule as in the variable TZ (POSIX).
fn time_zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text).or_else(|_| TimeZone::posix(text)).map_err(|_| "not a time zone; give one as Europe/Berlin or UTC".to_owned())
}

/// `forget`.
pub(crate) fn run(context: &Context<'_>, args: &ForgetArgs) -> Result<Exit, Failure> {
    let rules = args.rules.rules();
    if args.snaps.is_empty() && rules.is_empty() {
        return Err(Failure::usage("no rule keeps anything; give --keep-last N or another rule, or the snapshots to forget"));
    }
    let prune_options = prune::options(&args.grace, MAX_UNUSED, None)?;
    let repo = context.open()?;
    let mut wish =
        ForgetWish { which: which(args, rules)?, dry_run: args.dry_run, prune: args.prune.then_some(prune_options), agreed: None };
    let asks = args.snaps.is_empty() && !args.dry_run && !args.yes && confirm::can_ask(context);
    if asks {
        wish.agreed = Some(agreed(context, &repo, &wish)?);
    }
    let is_shown = wish.agreed.as_ref().is_some_and(|agreed| !agreed.is_empty());
    let progress = context.progress();
    let mut forgotten = perform(&Work { repo: &repo, worker: &context.worker(), monitor: &progress }, &wish)?;
    drop(progress);
    // What was forgotten is said also when the prune then fails. A plan that is only to be looked at is shown also with -q.
    let screen = &context.output.screen;
    match args.dry_run {
        true => context.output.result(&forgotten, |forgotten| text(forgotten, screen))?,
        // The plan was shown with the question.
        false if is_shown => context.output.report(&forgotten, result_text)?,
        false => context.output.report(&forgotten, |forgotten| text(forgotten, screen))?,
    }
    // If the prune failed, something was changed all the same.
    match forgotten.prune_failed.take().map(Failure::from) {
        Some(mut failure) => {
            if failure.exit == Exit::Failed && forgotten.forgotten > 0 {
                failure.exit = Exit::Incomplete;
            }
            Err(failure)
        }
        None => Ok(forgotten.outcome().into()),
    }
}

/// Shows what would be forgotten, and asks. Where nothing would be, there is no question.
fn agreed(context: &Context<'_>, repo: &Repository, wish: &ForgetWish) -> Result<Vec<SnapshotId>, Failure> {
    let progress = context.progress();
    let work = Work { repo, worker: &context.worker(), monitor: &progress };
    let plan = perform(&work, &ForgetWish { dry_run: true, prune: None, ..wish.clone() })?;
    drop(progress);
    if plan.forgotten > 0 {
        let (number, space) = (count(plan.forgotten, "snapshot"), if wish.prune.is_some() { " and free the space" } else { "" });
        confirm::ask(context, &text(&plan, &context.output.screen), &format!("Forget {number}{space}?"), "nothing was forgotten")?;
    }
    let decided = plan.groups.iter().flat_map(|group| &group.forget);
    Ok(decided.map(|decided| decided.snapshot.id).collect())
}

fn which(args: &ForgetArgs, rules: Rules) -> Result<Which, Failure> {
    if !args.snaps.is_empty() {
        let snapshots = args.snaps.iter().map(|snap| wanted(snap, &args.filter)).collect::<Result<_, _>>()?;
        return Ok(Which::Named { snapshots, force: args.force });
    }
    if args.time_zone.is_some() && !rules.use_calendar() {
        return Err(Failure::usage("--time-zone is for rules by hours, days, weeks, months or years, and none is given"));
    }
    let zone = args.time_zone.clone().map_or_else(time::zone, Ok).or_else(|error| match rules.use_calendar() {
        true => Err(error),
        false => Ok(TimeZone::UTC),
    })?;
    let calendar = Calendar { now_ns: time::now_ns(), zone };
    Ok(Which::Rules { rules: Box::new(rules), filter: filter(&args.filter), by: args.group_by, calendar })
}

fn text(forgotten: &Forgotten, screen: &Screen) -> String {
    let front = [Column::left(""), Column::left("TIME").rank(5), Column::left("ID"), Column::left("SOURCE").shortened(12).rank(4)];
    let back =
        [Column::left("TAGS").shortened(8).rank(2), Column::left("FLAGS").shortened(9).rank(3), Column::left("WHY").in_lines(20).rank(1)];
    let mut text = String::new();
    for group in &forgotten.groups {
        text.push_str(&heading(group, screen));
        let mut table = Table::new(front.into_iter().chain(back));
        let mut rows: Vec<(&str, &Decided)> = group.keep.iter().map(|decided| ("keep", decided)).collect();
        rows.extend(group.forget.iter().map(|decided| ("forget", decided)));
        rows.sort_by_key(|(_, decided)| decided.place);
        for (what, Decided { snapshot, reasons, .. }) in rows {
            table.row([
                what.to_owned(),
                screen.time(snapshot.time_ns),
                snapshot.id.short(),
                snapshot.source.label.clone(),
                snapshot.tags.join(","),
                flag_codes(snapshot),
                reasons.join("; "),
            ]);
            table.paint("", (what == "forget").then_some(Tone::Doubtful));
            table.paint("FLAGS", flag_tone(snapshot));
        }
        text.push_str(&table.text(screen));
        text.push('\n');
    }
    text + &result_text(forgotten)
}

fn result_text(forgotten: &Forgotten) -> String {
    forgotten.summary() + "\n" + &forgotten.prune.as_ref().map(prune::text).unwrap_or_default()
}

/// What the snapshots have in common, for people.
fn heading(group: &DecidedGroup, screen: &Screen) -> String {
    let label = group.keep.iter().chain(&group.forget).map(|decided| &decided.snapshot.source.label).next_back();
    let source = group.source.as_ref().and(label).map(|label| format!("source {}", screen.name(label)));
    let host = group.host.as_ref().map(|host| format!("host {host}"));
    let tags = group.tags.as_ref().map(|tags| format!("tags {}", tags.join(",")));
    let parts: Vec<String> = [source, host, tags].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { printable(&parts.join(", ")) + "\n" }
}
