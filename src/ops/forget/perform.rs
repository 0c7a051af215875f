//! Runs a forget as an operation: plans, forgets, prunes if that is wanted, gives a report, and writes journal entries.
//!
//! Guarantee: nothing is forgotten if a named snapshot must stay, or if others would go than the user has agreed to. A
//! dry run forgets nothing. If the prune fails, the snapshots stay forgotten.
//! Relies on `execute` to spare snapshots that must stay because something has changed since the plan.

use std::collections::HashMap;

use serde::Serialize;

use super::{ForgetPlan, ForgetReport, execute, plan_by_rules, plan_named};
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};
use crate::ops::journal::{Operation, Outcome};
use crate::ops::journaled::{Report, Story, Work};
use crate::ops::list::SnapshotInfo;
use crate::ops::prune::{self, PruneOptions, PruneReport};
use crate::ops::retention::{Calendar, Decision, Group, GroupBy, Reason, Rules};
use crate::ops::select::{SnapshotFilter, SnapshotSpec, Wanted};
use crate::ops::text::count;
use crate::progress::Monitor;
use crate::store::repo::{Refreshed, Vanished};

/// Number of digits by which the id of a vanished snapshot must be given.
const VANISHED_DIGITS_MIN: usize = 8;

/// The snapshots that a user wants to forget.
#[derive(Debug, Clone)]
pub enum Which {
    /// The snapshots that these rules do not keep.
    Rules {
        /// The rules.
        rules: Box<Rules>,
        /// The snapshots to decide about.
        filter: SnapshotFilter,
        /// By what they are divided into groups.
        by: GroupBy,
        /// Clock and calendar.
        calendar: Calendar,
    },
    /// These snapshots; they may have vanished.
    Named {
        /// The snapshots.
        snapshots: Vec<Wanted>,
        /// Whether the newest good one of a source or a stream may go, too.
        force: bool,
    },
}

/// What the user wants of a forget.
#[derive(Debug, Clone)]
pub struct ForgetWish {
    /// Which snapshots.
    pub which: Which,
    /// Whether it only shows what would be done.
    pub dry_run: bool,
    /// Prune afterwards, with these options.
    pub prune: Option<PruneOptions>,
    /// What the user has agreed to. If other snapshots would go by now, none goes.
    pub agreed: Option<Vec<SnapshotId>>,
}

/// The report of a forget.
#[derive(Debug, Serialize)]
pub struct Forgotten {
    /// Whether this only shows what would be done.
    pub dry_run: bool,
    /// The decisions.
    pub groups: Vec<DecidedGroup>,
    /// How many of the snapshots that were decided about stay.
    pub kept: u64,
    /// How many go.
    pub forgotten: u64,
    /// Snapshots that were planned to go and stay, because something has changed meanwhile.
    pub spared: Vec<Decided>,
    /// Snapshots that cannot be read, and stay, or that have vanished and were not named.
    pub unreadable: Vec<String>,
    /// The report of the prune.
    pub prune: Option<PruneReport>,
    /// Why the prune failed. The snapshots are forgotten nevertheless.
    #[serde(skip)]
    pub prune_failed: Option<Error>,
}

/// The decisions about a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecidedGroup {
    /// Their source, if it makes groups.
    pub source: Option<SourceId>,
    /// Their host, if it makes groups.
    pub host: Option<String>,
    /// Their tags, if they make groups.
    pub tags: Option<Vec<String>>,
    /// What stays, oldest first.
    pub keep: Vec<Decided>,
    /// What goes, oldest first.
    pub forget: Vec<Decided>,
}

/// The decision about a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decided {
    /// The snapshot.
    pub snapshot: SnapshotInfo,
    /// Why it stays.
    pub reasons: Vec<String>,
    /// Its place in the list of all snapshots.
    #[serde(skip)]
    pub place: usize,
}

impl Forgotten {
    /// The report in one line.
    pub fn summary(&self) -> String {
        let verb = if self.dry_run { "would be forgotten" } else { "forgotten" };
        format!("{} {verb}, {} kept", count(self.forgotten, "snapshot"), self.kept)
    }

    fn of(refreshed: &Refreshed, plan: &ForgetPlan, report: &ForgetReport, dry_run: bool) -> Self {
        let total = plan.decisions().count() as u64;
        let forgotten = report.forgotten.len() as u64;
        let listed = Listed::of(refreshed);
        Forgotten {
            dry_run,
            groups: plan.groups.iter().map(|group| listed.group(group)).collect(),
            kept: total.saturating_sub(forgotten),
            forgotten,
            spared: report.spared.iter().filter_map(|spared| listed.decided(spared)).collect(),
            unreadable: refreshed.damage.iter().map(ToString::to_string).collect(),
            prune: None,
            prune_failed: None,
        }
    }
}

/// The outcome of the forget. A prune that fails after it has an error of its own.
impl Report for Forgotten {
    fn outcome(&self) -> Outcome {
        match (self.unreadable.is_empty(), self.spared.is_empty()) {
            (false, _) => Outcome::Damaged,
            (true, false) => Outcome::Incomplete,
            (true, true) => Outcome::Done,
        }
    }
}

/// The snapshots, found by their ids.
struct Listed<'r> {
    refreshed: &'r Refreshed,
    places: HashMap<SnapshotId, usize>,
}

impl<'r> Listed<'r> {
    fn of(refreshed: &'r Refreshed) -> Self {
        Listed { refreshed, places: refreshed.snapshots.iter().enumerate().map(|(place, (id, _))| (*id, place)).collect() }
    }

    fn decided(&self, decision: &Decision) -> Option<Decided> {
        let place = *self.places.get(&decision.id)?;
        let (id, record) = self.refreshed.snapshots.get(place)?;
        Some(Decided { snapshot: SnapshotInfo::of(id, record, self.refreshed), reasons: reasons(decision), place })
    }

    fn group(&self, group: &Group) -> DecidedGroup {
        let decided = |kept: bool| {
            let decisions = group.decisions.iter().filter(|decision| decision.reasons.is_empty() != kept);
            decisions.filter_map(|decision| self.decided(decision)).collect()
        };
        DecidedGroup {
            source: group.key.source,
            host: group.key.host.clone(),
            tags: group.key.tags.as_ref().map(|tags| tags.iter().cloned().collect()),
            keep: decided(true),
            forget: decided(false),
        }
    }
}

fn reasons(decision: &Decision) -> Vec<String> {
    decision.reasons.iter().map(ToString::to_string).collect()
}

/// Forgets, prunes if that is wanted, and writes a journal entry for each.
///
/// # Errors
/// The errors of [`plan_by_rules`] and [`execute`]. [`Error::NotDone`] if one of the named snapshots must stay,
/// [`Error::NoSuch`] if one does not exist: then none goes.
pub fn perform(work: &Work<'_>, wish: &ForgetWish) -> Result<Forgotten> {
    let mut forgotten = work.journaled(Operation::Forget, |story| drop_snapshots(work, wish, story))?;
    if let Some(options) = &wish.prune {
        match prune::perform(work, options) {
            Ok(report) => forgotten.prune = Some(report),
            Err(error) => forgotten.prune_failed = Some(error),
        }
    }
    Ok(forgotten)
}

fn drop_snapshots(work: &Work<'_>, wish: &ForgetWish, story: &mut Story) -> Result<Forgotten> {
    story.untold = wish.dry_run;
    let mut refreshed = work.look()?;
    let now_ns = work.worker.now_ns();
    let (plan, given_up) = match &wish.which {
        Which::Rules { rules, filter, by, calendar } => {
            filter.unknown_source(&refreshed.snapshots).iter().for_each(|unknown| work.monitor.warn(unknown));
            (plan_by_rules(&refreshed, filter, rules, *by, calendar)?, Vec::new())
        }
        Which::Named { snapshots, force } => {
            let (listed, given_up) = parted(&refreshed, snapshots);
            (named(&refreshed, &listed, *force, work.monitor)?, given_up)
        }
    };
    if let Some(agreed) = &wish.agreed
        && plan.forgotten().iter().any(|id| !agreed.contains(id))
    {
        let detail = "nothing was forgotten: there are other snapshots than when you were asked; run it again".to_owned();
        return Err(Error::NotDone { detail });
    }
    let report = match wish.dry_run {
        true => ForgetReport { forgotten: plan.forgotten(), spared: Vec::new() },
        false => execute(work.repo, &plan, now_ns, work.monitor)?,
    };
    if !wish.dry_run && !given_up.is_empty() {
        work.repo.drop_vanished(&given_up, now_ns)?;
    }
    let told: Vec<String> = given_up.iter().map(|one| one.error().to_string()).collect();
    refreshed.damage.retain(|damage| !told.contains(&damage.to_string()));
    let stays = |spared: &Decision| format!("snapshot {} stays: {}", spared.id.short(), reasons(spared).join("; "));
    report.spared.iter().for_each(|spared| work.monitor.warn(&stays(spared)));
    let mut forgotten = Forgotten::of(&refreshed, &plan, &report, wish.dry_run);
    forgotten.forgotten += given_up.len() as u64;
    story.snapshots.clone_from(&report.forgotten);
    story.snapshots.extend(given_up.iter().map(|one| one.id));
    story.detail = forgotten.summary();
    Ok(forgotten)
}

/// Divides the named snapshots into listed and vanished ones. A vanished one must be named by enough digits of its id
/// that it is not meant by accident.
fn parted<'s>(refreshed: &Refreshed, snapshots: &'s [Wanted]) -> (Vec<&'s Wanted>, Vec<Vanished>) {
    let mut given_up: Vec<Vanished> = Vec::new();
    let mut listed = Vec::new();
    for wanted in snapshots {
        let start = if let SnapshotSpec::Prefix(start) = &wanted.spec { start.as_str() } else { "" };
        let meant = |one: &&Vanished| start.len() >= VANISHED_DIGITS_MIN && one.id.to_string().starts_with(start);
        match refreshed.vanished.iter().find(meant) {
            Some(one) if !refreshed.snapshots.iter().any(|(id, _)| id.to_string().starts_with(start)) => {
                given_up.extend((!given_up.contains(one)).then(|| one.clone()));
            }
            _ => listed.push(wanted),
        }
    }
    (listed, given_up)
}

/// Plans to forget these snapshots. Fails if one of them must stay.
fn named(refreshed: &Refreshed, snapshots: &[&Wanted], force: bool, monitor: &dyn Monitor) -> Result<ForgetPlan> {
    let ids: Vec<SnapshotId> = snapshots.iter().map(|wanted| Ok(wanted.find(refreshed, monitor)?.0)).collect::<Result<_>>()?;
    let plan = plan_named(refreshed, &ids, force);
    let Some(refused) = plan.decisions().find(|decision| !decision.reasons.is_empty()) else { return Ok(plan) };
    let way_out = match refused.reasons.contains(&Reason::Protected) {
        true => format!("`icecore protect {} --off` takes that back", refused.id.short()),
        false => "--force forgets it all the same".to_owned(),
    };
    let (id, why) = (refused.id.short(), reasons(refused).join("; "));
    Err(Error::NotDone { detail: format!("nothing was forgotten: snapshot {id} stays: {why}; {way_out}") })
}
