//! Decides which snapshots rules keep. A pure function of the snapshots, the rules, the clock and a time zone.
//!
//! Rules work as restic's users know them. Within each group, from the newest snapshot to the oldest (of equal times
//! the later one in the list is the newer): `last` keeps the first N; `hourly` to `yearly` keep the newest of each of
//! the last N hours, days, ISO weeks, months or years that have any, and the oldest snapshot as long as there are
//! fewer than N; `within` keeps everything younger than the time of the group's newest snapshot minus the duration;
//! `within-hourly` and so on keep the newest of each such period in that time; a tag rule keeps snapshots with all
//! its tags. A snapshot stays if any rule keeps it. Beyond restic:
//!
//! - The rules count good snapshots as if there were no others. A flagged snapshot stays if the rules would keep it
//!   as a good one. A snapshot that is flagged as a whole stays only until a good one comes after it.
//! - These stay whatever the rules say: the newest good snapshot of each source; those with the newest good state of
//!   a stream, where newer ones are flagged for that stream ([`super::gaps`]); the newest of all; and protected ones.
//! - A snapshot with an unreadable mark stays and does not count as good: the mark may protect or flag it.
//! - Periods follow the local time zone. The hour that occurs twice when summer time ends counts as two.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use super::gaps::{Gaps, holders};
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};

/// How many snapshots a counting rule keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// This many of the newest. Zero means that there is no rule.
    Newest(u32),
    /// There is no rule.
    #[default]
    None,
    /// All of them.
    All,
}

impl Keep {
    fn is_none(self) -> bool {
        matches!(self, Keep::None | Keep::Newest(0))
    }

    /// Whether one more may be kept after so many.
    fn allows(self, so_far: u32) -> bool {
        match self {
            Keep::None => false,
            Keep::Newest(count) => so_far < count,
            Keep::All => true,
        }
    }
}

/// A duration in years, months, days and hours: `1y5m7d2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Duration {
    /// Years.
    pub years: u32,
    /// Months.
    pub months: u32,
    /// Days.
    pub days: u32,
    /// Hours.
    pub hours: u32,
}

impl Duration {
    /// Parses `1y5m7d2h`: each unit at most once, in any order, at least one number that is not 0.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::InvalidArgument(format!("{text}: not a duration; give years, months, days and hours as 1y5m7d2h"));
        let mut duration = Duration::default();
        let mut seen = BTreeSet::new();
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| !c.is_ascii_digit()) {
            let (number, unit) = rest.split_at(at);
            let number: u32 = number.parse().map_err(|_| wrong())?;
            let unit = unit.chars().next().ok_or_else(wrong)?;
            match unit {
                'y' => duration.years = number,
                'm' => duration.months = number,
                'd' => duration.days = number,
                'h' => duration.hours = number,
                _ => return Err(wrong()),
            }
            if !seen.insert(unit) {
                return Err(wrong());
            }
            rest = rest.get(at + 1..).ok_or_else(wrong)?;
        }
        if rest.is_empty() && duration != Duration::default() { Ok(duration) } else { Err(wrong()) }
    }

    /// The moment this long before another one, by the calendar of its zone. A day that the month does not have
    /// becomes its last day. `None` if the result is out of range.
    fn before(&self, moment: &Zoned) -> Option<Timestamp> {
        let span = Span::new().try_years(self.years).ok()?.try_months(self.months).ok()?;
        let span = span.try_days(self.days).ok()?.try_hours(self.hours).ok()?;
        Some(moment.checked_sub(span).ok()?.timestamp())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.years, 'y'), (self.months, 'm'), (self.days, 'd'), (self.hours, 'h')];
        parts.into_iter().filter(|(number, _)| *number > 0).try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

/// The periods of counting rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// Each snapshot is a period of its own.
    Each,
    /// Hours of the clock. Equal hours with different offsets from UTC are different periods.
    Hour,
    /// Days.
    Day,
    /// ISO 8601 weeks. They begin on Monday; week 1 has the year's first Thursday.
    Week,
    /// Months.
    Month,
    /// Years.
    Year,
}

impl Period {
    /// All periods, in the order of the fields of [`Rules`].
    pub const ALL: [Period; 6] = [Period::Each, Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];

    /// The word for it in options and reasons: `last`, `hourly`, ...
    pub fn word(self) -> &'static str {
        match self {
            Period::Each => "last",
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        }
    }

    /// Identifies the period of a moment. `place` is the snapshot's own number, for [`Period::Each`].
    fn of(self, moment: &Zoned, place: usize) -> [i64; 4] {
        let (year, month, day) = (i64::from(moment.year()), i64::from(moment.month()), i64::from(moment.day()));
        match self {
            Period::Each => [i64::try_from(place).unwrap_or(i64::MAX), 0, 0, 0],
            Period::Hour => [year, month * 100 + day, i64::from(moment.hour()), i64::from(moment.offset().seconds())],
            Period::Day => [year, month, day, 0],
            Period::Week => {
                let week = moment.date().iso_week_date();
                [i64::from(week.year()), i64::from(week.week()), 0, 0]
            }
            Period::Month => [year, month, 0, 0],
            Period::Year => [year, 0, 0, 0],
        }
    }
}

/// The rules. The default keeps only what is always kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The counting rules, in the order of [`Period::ALL`].
    pub count: [Keep; 6],
    /// The rules of time, in the order of [`Period::ALL`]. [`Period::Each`] keeps everything in that time.
    pub within: [Option<Duration>; 6],
    /// The tag rules: a snapshot stays if it has all tags of one of these sets.
    pub tags: Vec<Vec<String>>,
}

impl Rules {
    /// Whether there are no rules: then nobody has said what to keep.
    pub fn is_empty(&self) -> bool {
        self.count.iter().all(|keep| keep.is_none()) && self.within.iter().all(Option::is_none) && self.tags.is_empty()
    }

    /// Whether the rules depend on where days begin, so on the time zone.
    pub fn use_calendar(&self) -> bool {
        let counted = Period::ALL.iter().zip(&self.count).any(|(period, keep)| *period != Period::Each && !keep.is_none());
        counted || self.within.iter().any(Option::is_some)
    }
}

/// By what snapshots are divided into groups. Rules count within each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// The source.
    pub source: bool,
    /// The host.
    pub host: bool,
    /// The set of tags.
    pub tags: bool,
}

/// By default only sources divide. A named source is one history on all its hosts; for other sources the host is part
/// of their identity.
impl Default for GroupBy {
    fn default() -> Self {
        GroupBy { source: true, host: false, tags: false }
    }
}

/// The common properties of the snapshots of a group, as far as groups are divided by them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// The source.
    pub source: Option<SourceId>,
    /// The host.
    pub host: Option<String>,
    /// The tags.
    pub tags: Option<BTreeSet<String>>,
}

/// A snapshot, with the facts that the decision needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SnapshotId,
    /// Its time, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// Its source.
    pub source: SourceId,
    /// Its host.
    pub host: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its streams that are flagged.
    pub gaps: Gaps,
    /// Whether it is protected.
    pub is_protected: bool,
    /// Whether one of its marks cannot be read.
    pub is_unclear: bool,
    /// Whether its fate is decided. Others are given only so that the newest good one of a source is known.
    pub chosen: bool,
}

impl Candidate {
    fn is_good(&self) -> bool {
        self.gaps.is_empty() && !self.is_unclear
    }

    /// The streams that are not known to be good.
    fn sure_gaps(&self) -> Gaps {
        if self.is_unclear { Gaps::All } else { self.gaps.clone() }
    }
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A counting rule.
    Count(Period),
    /// It is the oldest, and a counting rule keeps more than there are.
    Oldest(Period, Keep),
    /// A rule of time.
    Within(Period, Duration),
    /// A tag rule: it has these tags.
    Tags(Vec<String>),
    /// It is protected.
    Protected,
    /// One of its marks cannot be read.
    Unclear,
    /// It is the newest good one of its source.
    NewestGood,
    /// It is flagged, and has the newest good state of these streams. Empty: of all streams that are not flagged.
    NewestState(Vec<Vec<u8>>),
    /// It is flagged, and is the newest of its source.
    Newest,
}

/// Number of streams that a reason names.
const STREAMS_NAMED: usize = 3;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Count(period) => f.write_str(period.word()),
            Reason::Oldest(period, Keep::Newest(count)) => write!(f, "oldest: fewer than {count} {} snapshots yet", period.word()),
            Reason::Oldest(period, _) => write!(f, "oldest: all {} snapshots are kept", period.word()),
            Reason::Within(Period::Each, duration) => write!(f, "within {duration}"),
            Reason::Within(period, duration) => write!(f, "{} within {duration}", period.word()),
            Reason::Tags(tags) => write!(f, "tag {}", tags.join(",")),
            Reason::Protected => f.write_str("protected"),
            Reason::Unclear => f.write_str("a mark on it cannot be read"),
            Reason::NewestGood => f.write_str("newest good one of its source"),
            Reason::NewestState(streams) if streams.is_empty() => f.write_str("flagged, newest good state of the streams without a flag"),
            Reason::NewestState(streams) => {
                let names: Vec<_> = streams.iter().take(STREAMS_NAMED).map(|stream| String::from_utf8_lossy(stream)).collect();
                write!(f, "newest good state of {}", names.join(", "))?;
                match streams.len().saturating_sub(STREAMS_NAMED) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Reason::Newest => f.write_str("flagged, newest one of its source"),
        }
    }
}

/// The decision about one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// Why it is kept. Empty: it is forgotten.
    pub reasons: Vec<Reason>,
}

/// The decisions about a group, oldest first as in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The common properties of its snapshots.
    pub key: GroupKey,
    /// The decisions.
    pub decisions: Vec<Decision>,
}

/// The clock and the time zone.
#[derive(Debug, Clone)]
pub struct Calendar {
    /// The clock's time, nanoseconds since 1970 UTC. A retention period does not end at a snapshot with a later time.
    pub now_ns: i64,
    /// The time zone whose hours and days count.
    pub zone: TimeZone,
}

impl Calendar {
    fn at(&self, time_ns: i64) -> Zoned {
        // Every i64 of nanoseconds is in jiff's range, so the fallback is never used.
        Timestamp::from_nanosecond(i128::from(time_ns)).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(self.zone.clone())
    }
}

/// Decides. `candidates` are all existing snapshots in the order of the list, oldest first. Groups come in the order
/// of their first snapshot.
pub fn decide(candidates: &[Candidate], rules: &Rules, by: GroupBy, calendar: &Calendar) -> Vec<Group> {
    let always = always_kept(candidates);
    let flagged = flagged_that_count(candidates);
    let mut groups: Vec<(GroupKey, Vec<usize>)> = Vec::new();
    let mut place_of: HashMap<GroupKey, usize> = HashMap::new();
    for (place, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.chosen) {
        let key = key_of(candidate, by);
        let group = *place_of.entry(key.clone()).or_insert(groups.len());
        match groups.get_mut(group) {
            Some((_, members)) => members.push(place),
            None => groups.push((key, vec![place])),
        }
    }
    let decided = groups.into_iter().map(|(key, members)| {
        let members: Vec<&Candidate> = members.iter().filter_map(|place| candidates.get(*place)).collect();
        // Decide twice: once with good snapshots only, once with the flagged ones that count. A good snapshot's fate
        // follows from the first, so flagged ones never take its place; a flagged one's follows from the second.
        let mut reasons = kept_by_rules(&members, rules, calendar, &|member| member.is_good());
        let with_flagged = kept_by_rules(&members, rules, calendar, &|member| member.is_good() || flagged.contains(&member.id));
        for ((reasons, more), member) in reasons.iter_mut().zip(with_flagged).zip(&members) {
            if !member.is_good() {
                reasons.extend(more);
            }
            // Tag rules do not count, so flags make no difference.
            let has_all = |tags: &&Vec<String>| tags.iter().all(|tag| member.tags.contains(tag));
            reasons.extend(rules.tags.iter().filter(has_all).cloned().map(Reason::Tags));
        }
        let decisions = members.iter().enumerate().map(|(place, candidate)| {
            let mut reasons = reasons.get_mut(place).map(std::mem::take).unwrap_or_default();
            reasons.extend(always.get(&candidate.id).cloned().unwrap_or_default());
            Decision { id: candidate.id, reasons }
        });
        Group { key, decisions: decisions.collect() }
    });
    decided.collect()
}

/// The snapshots that stay whatever the rules say, with the reasons.
pub(super) fn always_kept(candidates: &[Candidate]) -> HashMap<SnapshotId, Vec<Reason>> {
    let mut kept: HashMap<SnapshotId, Vec<Reason>> = HashMap::new();
    let mut by_source: HashMap<SourceId, Vec<&Candidate>> = HashMap::new();
    candidates.iter().rev().for_each(|candidate| by_source.entry(candidate.source).or_default().push(candidate));
    for newest_first in by_source.values() {
        let mut keep = |id: SnapshotId, reason: Reason| kept.entry(id).or_default().push(reason);
        newest_first.iter().find(|candidate| candidate.is_good()).into_iter().for_each(|good| keep(good.id, Reason::NewestGood));
        for holder in holders(newest_first.iter().map(|candidate| (*candidate, candidate.sure_gaps()))) {
            // The streams that it holds, by name. As long as every stream is still wanted, the list stays empty.
            // Empty means "all without a flag".
            let streams = match &holder.wanted {
                Gaps::All => Vec::new(),
                Gaps::Streams(wanted) => wanted.iter().filter(|stream| !holder.left.covers(stream)).cloned().collect(),
            };
            if !holder.snapshot.is_good() {
                keep(holder.snapshot.id, Reason::NewestState(streams));
            }
        }
        newest_first.first().filter(|newest| !newest.gaps.is_empty()).into_iter().for_each(|newest| keep(newest.id, Reason::Newest));
    }
    for candidate in candidates {
        let reasons = kept.entry(candidate.id).or_default();
        reasons.extend(candidate.is_unclear.then_some(Reason::Unclear));
        reasons.extend(candidate.is_protected.then_some(Reason::Protected));
    }
    kept
}

/// The flagged snapshots that count for rules beside the good ones: those that are good in some streams, and those
/// that are good in nothing and newer than the last good one of their source.
fn flagged_that_count(candidates: &[Candidate]) -> HashSet<SnapshotId> {
    let mut have_good: HashSet<SourceId> = HashSet::new();
    let mut counting = HashSet::new();
    for candidate in candidates.iter().rev() {
        if candidate.is_good() {
            have_good.insert(candidate.source);
        } else if !candidate.is_unclear && (candidate.gaps != Gaps::All || !have_good.contains(&candidate.source)) {
            counting.insert(candidate.id);
        }
    }
    counting
}

fn key_of(candidate: &Candidate, by: GroupBy) -> GroupKey {
    GroupKey {
        source: by.source.then_some(candidate.source),
        host: by.host.then(|| candidate.host.clone()),
        tags: by.tags.then(|| candidate.tags.iter().cloned().collect()),
    }
}

/// The reasons by which rules keep each of these snapshots of one group. Only those for which `counts` is true take
/// part.
fn kept_by_rules(members: &[&Candidate], rules: &Rules, calendar: &Calendar, counts: &dyn Fn(&Candidate) -> bool) -> Vec<Vec<Reason>> {
    let mut kept: Vec<Vec<Reason>> = vec![Vec::new(); members.len()];
    let mut keep = |place: usize, reason: Reason| {
        debug_assert!(place < members.len(), "a snapshot outside its group");
        kept.get_mut(place).into_iter().for_each(|reasons| reasons.push(reason.clone()));
    };
    // The snapshots that take part, newest first.
    let mut counting: Vec<(usize, Zoned)> = members
        .iter()
        .enumerate()
        .filter(|(_, member)| counts(member))
        .map(|(place, member)| (place, calendar.at(member.time_ns)))
        .collect();
    counting.sort_by_key(|(place, moment)| std::cmp::Reverse((moment.timestamp(), *place)));
    for (period, rule) in Period::ALL.into_iter().zip(rules.count) {
        let mut seen = HashSet::new();
        for (number, (place, moment)) in counting.iter().enumerate() {
            // `seen` has one entry for each period that was kept.
            if !rule.allows(u32::try_from(seen.len()).unwrap_or(u32::MAX)) {
                break;
            }
            if seen.insert(period.of(moment, *place)) {
                keep(*place, Reason::Count(period));
            } else if number + 1 == counting.len() {
                keep(*place, Reason::Oldest(period, rule));
            }
        }
    }
    let now = calendar.at(calendar.now_ns);
    // Periods of time end at the newest snapshot, as with restic, but not at one from the future: a wrong clock must
    // not make all others too old.
    let end = counting.iter().map(|(_, moment)| moment).find(|moment| moment.timestamp() <= now.timestamp()).unwrap_or(&now);
    for (period, duration) in Period::ALL.into_iter().zip(rules.within) {
        let Some(duration) = duration else { continue };
        let start = duration.before(end);
        let mut seen = HashSet::new();
        for (place, moment) in counting.iter().filter(|(_, moment)| start.is_none_or(|start| moment.timestamp() > start)) {
            if seen.insert(period.of(moment, *place)) {
                keep(*place, Reason::Within(period, duration));
            }
        }
    }
    kept
}
