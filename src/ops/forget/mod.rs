//! Forget: removes snapshots from the list, by rules or by name. A prune frees the space later.
//!
//! The protocol is "mark, then look". First `forgotten/<id>` is written durably for every snapshot that goes. Then
//! all snapshots and marks are read afresh. A snapshot that was protected meanwhile, or has become the newest good
//! one of its source or of a stream, is spared. For the others `forgotten/<id>` is written again, as decided, and
//! then their records are deleted. If the process is killed in between, the snapshots are still listed, which is what
//! counts; running it again finishes the work. A `forgotten/<id>` of a listed snapshot has no meaning.

mod perform;

use std::collections::{HashMap, HashSet};

pub use perform::{Decided, DecidedGroup, ForgetWish, Forgotten, Which, perform};

use super::gaps::Gaps;
use super::retention::{Calendar, Candidate, Decision, Group, GroupBy, GroupKey, Reason, Rules, always_kept, decide};
use super::select::SnapshotFilter;
use super::sources::Passing;
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::progress::Monitor;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Refreshed, Repository};

/// Number of snapshots that are processed between two looks at whether the user wants to stop.
const AT_ONCE: usize = 1000;

/// The decisions about snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForgetPlan {
    /// The decisions.
    pub groups: Vec<Group>,
    /// What the user asked for. It decides which changes since the plan spare a snapshot.
    pub intent: Intent,
}

/// What a plan was made of. It decides which [`Reason`]s keep a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Intent {
    /// Rules: every reason keeps it.
    #[default]
    Rules,
    /// Snapshots by name: a flagged one may go, even the newest, unless it has the newest good state of a stream.
    Named,
    /// Snapshots by name, with force: only protection keeps one.
    Forced,
}

impl Intent {
    fn respects(self, reason: &Reason) -> bool {
        match self {
            Intent::Rules => true,
            Intent::Named => *reason != Reason::Newest,
            Intent::Forced => *reason == Reason::Protected,
        }
    }
}

impl ForgetPlan {
    /// All decisions.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.groups.iter().flat_map(|group| &group.decisions)
    }

    /// The snapshots that go.
    pub fn forgotten(&self) -> Vec<SnapshotId> {
        self.decisions().filter(|decision| decision.reasons.is_empty()).map(|decision| decision.id).collect()
    }
}

/// The result of executing a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForgetReport {
    /// The snapshots that were forgotten, oldest first.
    pub forgotten: Vec<SnapshotId>,
    /// Snapshots that were planned to go and stay, because something has changed since the plan.
    pub spared: Vec<Decision>,
}

/// All snapshots as candidates. Only the chosen ones are decided about.
fn candidates(refreshed: &Refreshed, chosen: &dyn Fn(&SnapshotId) -> bool) -> Vec<Candidate> {
    let candidate = |(id, record): &(SnapshotId, SnapshotRecord)| {
        let marks = refreshed.marks.get(id);
        Candidate {
            id: *id,
            time_ns: record.time_ns,
            source: record.source.id,
            host: record.host.clone(),
            tags: record.tags.clone(),
            gaps: Gaps::of_snapshot(record),
            is_protected: marks.is_some_and(|marks| marks.protection().is_some()),
            is_unclear: marks.is_some_and(|marks| marks.unreadable > 0),
            chosen: chosen(id),
        }
    };
    refreshed.snapshots.iter().map(candidate).collect()
}

/// Plans by rules, among the snapshots that pass the filter. What always stays is decided among all snapshots.
///
/// # Errors
/// [`Error::InvalidArgument`] without any rule: no rules do not mean "forget everything".
pub fn plan_by_rules(
    refreshed: &Refreshed,
    filter: &SnapshotFilter,
    rules: &Rules,
    by: GroupBy,
    calendar: &Calendar,
) -> Result<ForgetPlan> {
    if rules.is_empty() {
        return Err(Error::InvalidArgument("no rule says what to keep".into()));
    }
    let meant = Passing::of(filter, &refreshed.snapshots);
    let passing: HashSet<SnapshotId> = refreshed.snapshots.iter().filter(|(_, record)| meant.has(record)).map(|(id, _)| *id).collect();
    let groups = decide(&candidates(refreshed, &|id| passing.contains(id)), rules, by, calendar);
    Ok(ForgetPlan { groups, intent: Intent::Rules })
}

/// Plans to forget these snapshots, as one group. One that stays has reasons: it is protected, or, without `force`,
/// it is the newest good one of its source or of a stream, or has an unreadable mark. Ids that are not listed are
/// left out.
pub fn plan_named(refreshed: &Refreshed, named: &[SnapshotId], force: bool) -> ForgetPlan {
    let named: HashSet<&SnapshotId> = named.iter().collect();
    let candidates = candidates(refreshed, &|id| named.contains(id));
    let intent = if force { Intent::Forced } else { Intent::Named };
    let mut always = always_kept(&candidates);
    let decisions = candidates.iter().filter(|candidate| candidate.chosen).map(|candidate| {
        let mut reasons = always.remove(&candidate.id).unwrap_or_default();
        reasons.retain(|reason| intent.respects(reason));
        Decision { id: candidate.id, reasons }
    });
    ForgetPlan { groups: vec![Group { key: GroupKey::default(), decisions: decisions.collect() }], intent }
}

/// Executes a plan. `now_ns` is the clock's time, nanoseconds since 1970 UTC.
///
/// # Errors
/// [`Error::Backend`], [`Error::Cancelled`]. Some snapshots may be gone then, each of them completely. Running it
/// again continues.
pub fn execute(repo: &Repository, plan: &ForgetPlan, now_ns: i64, monitor: &dyn Monitor) -> Result<ForgetReport> {
    let doomed: HashSet<SnapshotId> = plan.forgotten().into_iter().collect();
    let before = repo.refresh()?;
    monitor.phase("forgetting", None);
    let going: Vec<(SnapshotId, SnapshotRecord)> = before.snapshots.into_iter().filter(|(id, _)| doomed.contains(id)).collect();
    for some in going.chunks(AT_ONCE) {
        continue_unless_cancelled(monitor)?;
        repo.write_forgotten(some, now_ns)?;
    }
    let mut report = ForgetReport::default();
    let mut gone = Vec::new();
    // The look after the mark: what has changed since the plan counts.
    let after = repo.refresh()?;
    let mut always = always_kept(&candidates(&after, &|_| true));
    for (id, _) in &going {
        let Some(mut reasons) = always.remove(id) else {
            // Another forget was faster, or the record cannot be read any more. Then nobody knows what would spare
            // it.
            monitor.warn(&format!("snapshot {} is not in the list any more", id.short()));
            continue;
        };
        reasons.retain(|reason| plan.intent.respects(reason));
        match reasons.is_empty() {
            true => gone.push(*id),
            false => report.spared.push(Decision { id: *id, reasons }),
        }
    }
    let records: HashMap<&SnapshotId, &(SnapshotId, SnapshotRecord)> = going.iter().map(|snapshot| (&snapshot.0, snapshot)).collect();
    for some in gone.chunks(AT_ONCE) {
        continue_unless_cancelled(monitor)?;
        // The decided record must be durable before the snapshot record goes: a machine that has seen the snapshot
        // accepts no other proof that it was forgotten.
        let snapshots = || some.iter().filter_map(|id| records.get(id).copied());
        repo.decide_forgotten(snapshots(), now_ns).map_err(|error| half_done(repo, &gone, error))?;
        repo.delete_snapshots(snapshots()).map_err(|error| half_done(repo, &gone, error))?;
    }
    report.forgotten = gone;
    repo.clear_forgotten(&report.forgotten).map_err(|error| half_done(repo, &report.forgotten, error))?;
    Ok(report)
}

/// The error that stopped a forget, with what was done by then.
fn half_done(repo: &Repository, gone: &[SnapshotId], cause: Error) -> Error {
    let listed: HashSet<SnapshotId> = match repo.refresh() {
        Ok(refreshed) => refreshed.snapshots.into_iter().map(|(id, _)| id).collect(),
        // Without a listing nobody knows what is left; something may be gone.
        Err(_) => HashSet::new(),
    };
    match gone.iter().filter(|id| !listed.contains(id)).count() {
        0 => cause,
        done => {
            let detail = format!("{done} of {} snapshots are forgotten, and then: {cause}; the same again goes on", gone.len());
            Error::half_done(repo.backend().location(), detail)
        }
    }
}

fn continue_unless_cancelled(monitor: &dyn Monitor) -> Result<()> {
    if monitor.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
