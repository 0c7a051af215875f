//! `forget`: the plan, shown, then executed.

use std::collections::HashMap;

use icecore::id::SnapshotId;
use icecore::ops::forget::{ForgetPlan, ForgetReport, execute, plan_by_rules, plan_named};
use icecore::ops::journal::Operation;
use icecore::ops::retention::{Calendar, Decision, Duration, Group, GroupBy, Keep, Reason, Rules};
use icecore::progress::Monitor;
use icecore::store::repo::{Refreshed, Repository, Vanished};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::args::FilterArgs;
use super::columns::{Align, Table};
use super::context::{Context, filter, find_in};
use super::exit::{Exit, Failure};
use super::journaled::{Story, journaled};
use super::output::{count, printable};
use super::prune;
use super::prune::{GRACE, MAX_UNUSED};
use super::time;
use super::views::SnapshotView;

const AFTER_HELP: &str = "\
Rules count in each group, from the newest snapshot on; a snapshot stays if any of them keeps it. --keep-daily keeps the newest snapshot of
each of the last N days that have one, and so on; while there are fewer than N, also the oldest one. N is a number or `unlimited`. A DURATION is
made of years, months, days and hours, as 1y5m7d2h, and reaches back from the newest snapshot of the group.

Always kept: protected snapshots; the newest good one of each source; those with the newest good state of a stream that is flagged in newer ones;
the newest one of each source. Rules count good snapshots as if there were no others; a flagged one stays if they would keep it were it good.
Snapshots given by name go whatever the rules; those with the newest good state of a source or a stream only with --force, a protected one never.
A snapshot that has vanished, of which every command tells, is given up when its id is given here.
Space is freed by a prune, which --prune does at once, with the passphrase asked for once.

Examples:
  icecore forget --keep-hourly 48 --keep-daily 30 --keep-monthly 24 --dry-run
  icecore forget --keep-within 7d --keep-within-weekly 1y --tag nightly --prune
  icecore forget 1a2b3c 4d5e6f";

/// Digits of the id of a snapshot that has vanished.
const VANISHED_DIGITS_MIN: usize = 8;

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
    #[arg(long, value_name = "WHAT", default_value = "source", value_parser = group_by)]
    group_by: GroupBy,
    /// Whose hours, days and weeks count, as Europe/Berlin [default: this machine's]
    #[arg(long, value_name = "ZONE", value_parser = time_zone)]
    time_zone: Option<TimeZone>,
    /// Only show what would be done, and why
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Also the newest good snapshot of a source or a stream, if it is given by name
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

#[derive(Serialize)]
struct Forget {
    dry_run: bool,
    groups: Vec<GroupView>,
    /// How many stay and go, of those that were decided about.
    kept: u64,
    forgotten: u64,
    /// Those that were to go and stay, as things changed meanwhile.
    spared: Vec<DecisionView>,
    /// What is listed but cannot be read; it stays.
    unreadable: Vec<String>,
    /// What the prune after it did.
    prune: Option<prune::Done>,
}

#[derive(Serialize)]
struct GroupView {
    source: Option<String>,
    host: Option<String>,
    tags: Option<Vec<String>>,
    keep: Vec<DecisionView>,
    forget: Vec<DecisionView>,
}

#[derive(Serialize)]
struct DecisionView {
    snapshot: SnapshotView,
    reasons: Vec<String>,
    /// Where it stands in the list.
    #[serde(skip)]
    place: usize,
}

/// The snapshots, to be found by their ids.
struct Listed<'r> {
    refreshed: &'r Refreshed,
    places: HashMap<SnapshotId, usize>,
}

impl<'r> Listed<'r> {
    fn of(refreshed: &'r Refreshed) -> Self {
        Listed { refreshed, places: refreshed.snapshots.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect() }
    }

    fn view(&self, decision: &Decision) -> Option<DecisionView> {
        let place = *self.places.get(&decision.id)?;
        let (id, record) = self.refreshed.snapshots.get(place)?;
        Some(DecisionView { snapshot: SnapshotView::of(id, record, self.refreshed), reasons: reasons(decision), place })
    }
}

/// `forget`.
pub(crate) fn run(context: &Context<'_>, args: &ForgetArgs) -> Result<Exit, Failure> {
    let rules = args.rules.rules();
    if args.snaps.is_empty() && rules.is_empty() {
        return Err(Failure::usage("no rule keeps anything; give --keep-last N or another rule, or the snapshots to forget"));
    }
    let prune_options = prune::options(&args.grace, MAX_UNUSED, None)?;
    let repo = context.open()?;
    let mut shown = None;
    let forgotten = journaled(context, &repo, Operation::Forget, |story| {
        let (document, exit) = drop_snapshots(context, &repo, args, &rules, story)?;
        shown = Some(document);
        Ok(exit)
    })?;
    let Some(mut shown) = shown else { return Ok(forgotten) };
    let pruned = match args.prune {
        true => prune::carry_out(context, &repo, &prune_options, |done| {
            shown.prune = Some(done);
            Ok(())
        }),
        false => Ok(forgotten),
    };
    // What was forgotten is said also when the prune then fails. A plan that is only to be looked at is shown also with -q.
    match args.dry_run {
        true => context.output.result(&shown, Forget::text)?,
        false => context.output.report(&shown, Forget::text)?,
    }
    match pruned {
        // Something was changed: the forget.
        Err(mut failure) if failure.exit == Exit::Failed && shown.forgotten > 0 => {
            failure.exit = Exit::Incomplete;
            Err(failure)
        }
        pruned => pruned.map(|_| forgotten),
    }
}

/// What was decided, and done unless it was not to be, and the exit code that this asks for.
fn drop_snapshots(
    context: &Context<'_>,
    repo: &Repository,
    args: &ForgetArgs,
    rules: &Rules,
    story: &mut Story,
) -> Result<(Forget, Exit), Failure> {
    story.untold = args.dry_run;
    let progress = context.progress();
    let mut refreshed = context.refresh(repo, &progress)?;
    let now_ns = time::now_ns();
    let (snaps, given_up) = parted(&refreshed, &args.snaps);
    let plan = match args.snaps.is_empty() {
        true => {
            let zone = args.time_zone.clone().map_or_else(time::zone, Ok).or_else(|error| match rules.use_calendar() {
                true => Err(error),
                false => Ok(TimeZone::UTC),
            })?;
            let calendar = Calendar { now_ns, zone };
            plan_by_rules(&refreshed, &filter(&args.filter), rules, args.group_by, &calendar)?
        }
        false => named(&refreshed, &snaps, args)?,
    };
    let report = match args.dry_run {
        true => ForgetReport { forgotten: plan.forgotten(), spared: Vec::new() },
        false => execute(repo, &plan, now_ns, &progress)?,
    };
    if !args.dry_run && !given_up.is_empty() {
        repo.drop_vanished(&given_up, now_ns)?;
    }
    let told: Vec<String> = given_up.iter().map(|one| one.error().to_string()).collect();
    refreshed.damage.retain(|damage| !told.contains(&damage.to_string()));
    report.spared.iter().for_each(|spared| progress.warn(&format!("snapshot {} stays: {}", spared.id.short(), reasons(spared).join("; "))));
    drop(progress);
    let mut shown = Forget::of(&refreshed, &plan, &report, args.dry_run);
    shown.forgotten += given_up.len() as u64;
    story.snapshots.clone_from(&report.forgotten);
    story.snapshots.extend(given_up.iter().map(|one| one.id));
    story.detail = shown.summary();
    let exit = match (refreshed.damage.is_empty(), report.spared.is_empty()) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Incomplete,
        (true, true) => Exit::Done,
    };
    Ok((shown, exit))
}

/// Snapshots that are listed are named in all ways; those that have vanished by the start of their ids, of so many digits that none is meant by chance.
fn parted<'s>(refreshed: &Refreshed, snaps: &'s [String]) -> (Vec<&'s String>, Vec<Vanished>) {
    let mut given_up: Vec<Vanished> = Vec::new();
    let mut listed = Vec::new();
    for snap in snaps {
        let meant = |one: &&Vanished| snap.len() >= VANISHED_DIGITS_MIN && one.id.to_string().starts_with(snap.as_str());
        match refreshed.vanished.iter().find(meant) {
            Some(one) if !refreshed.snapshots.iter().any(|(id, _)| id.to_string().starts_with(snap.as_str())) => {
                given_up.extend((!given_up.contains(one)).then(|| one.clone()));
            }
            _ => listed.push(snap),
        }
    }
    (listed, given_up)
}

/// The plan to forget the snapshots that the arguments name; it fails if one of them is to stay.
fn named(refreshed: &Refreshed, snaps: &[&String], args: &ForgetArgs) -> Result<ForgetPlan, Failure> {
    let ids: Result<Vec<SnapshotId>, Failure> = snaps.iter().map(|snap| Ok(find_in(refreshed, snap, &args.filter)?.0)).collect();
    let plan = plan_named(refreshed, &ids?, args.force);
    let Some(refused) = plan.decisions().find(|decision| !decision.reasons.is_empty()) else { return Ok(plan) };
    let way_out = match refused.reasons.contains(&Reason::Protected) {
        true => format!("`icecore protect {} --off` takes that back", refused.id.short()),
        false => "--force forgets it all the same".to_owned(),
    };
    let why = reasons(refused).join("; ");
    Err(Failure::failed(format!("nothing was forgotten: snapshot {} stays: {why}; {way_out}", refused.id.short())))
}

fn reasons(decision: &Decision) -> Vec<String> {
    decision.reasons.iter().map(ToString::to_string).collect()
}

impl Forget {
    fn of(refreshed: &Refreshed, plan: &ForgetPlan, report: &ForgetReport, dry_run: bool) -> Self {
        let total = plan.decisions().count() as u64;
        let forgotten = report.forgotten.len() as u64;
        let listed = Listed::of(refreshed);
        Forget {
            dry_run,
            groups: plan.groups.iter().map(|group| GroupView::of(&listed, group)).collect(),
            kept: total - forgotten,
            forgotten,
            spared: report.spared.iter().filter_map(|spared| listed.view(spared)).collect(),
            unreadable: refreshed.damage.iter().map(ToString::to_string).collect(),
            prune: None,
        }
    }

    fn text(&self) -> String {
        let columns = ["", "TIME", "ID", "SOURCE", "TAGS", "FLAGS", "WHY"].map(|heading| (heading, Align::Left));
        let mut text = String::new();
        for group in &self.groups {
            text.push_str(&group.heading());
            let mut table = Table::new(columns);
            let mut rows: Vec<(&str, &DecisionView)> = group.keep.iter().map(|view| ("keep", view)).collect();
            rows.extend(group.forget.iter().map(|view| ("forget", view)));
            rows.sort_by_key(|(_, view)| view.place);
            for (what, DecisionView { snapshot, reasons, .. }) in rows {
                table.row([
                    what.to_owned(),
                    time::local(snapshot.time_ns),
                    snapshot.short_id.clone(),
                    snapshot.source.label.clone(),
                    snapshot.tags.join(","),
                    snapshot.flag_codes(),
                    reasons.join("; "),
                ]);
            }
            text.push_str(&table.text());
            text.push('\n');
        }
        text + &self.summary() + "\n" + &self.prune.as_ref().map(prune::Done::text).unwrap_or_default()
    }

    fn summary(&self) -> String {
        let verb = if self.dry_run { "would be forgotten" } else { "forgotten" };
        format!("{} {verb}, {} kept", count(self.forgotten, "snapshot"), self.kept)
    }
}

impl GroupView {
    fn of(listed: &Listed<'_>, group: &Group) -> Self {
        let views = |kept: bool| {
            let decisions = group.decisions.iter().filter(|decision| decision.reasons.is_empty() != kept);
            decisions.filter_map(|decision| listed.view(decision)).collect()
        };
        GroupView {
            source: group.key.source.map(|id| id.to_string()),
            host: group.key.host.clone(),
            tags: group.key.tags.as_ref().map(|tags| tags.iter().cloned().collect()),
            keep: views(true),
            forget: views(false),
        }
    }

    /// What the snapshots have in common, for people.
    fn heading(&self) -> String {
        let label = self.keep.iter().chain(&self.forget).map(|view| &view.snapshot.source.label).next_back();
        let source = self.source.as_ref().and(label).map(|label| format!("source {label}"));
        let host = self.host.as_ref().map(|host| format!("host {host}"));
        let tags = self.tags.as_ref().map(|tags| format!("tags {}", tags.join(",")));
        let parts: Vec<String> = [source, host, tags].into_iter().flatten().collect();
        if parts.is_empty() { String::new() } else { printable(&parts.join(", ")) + "\n" }
    }
}
