//! Finds the snapshot that a user names: by an id or the start of one, `latest`, `latest~N`, or `@TIME`.
//!
//! `latest`, `latest~N` and `@TIME` count the good snapshots of one source. Flagged snapshots are passed over. If snapshots of several sources
//! pass the filter, these names are refused. An id names any snapshot.

use super::sources::{Passing, Sources};
use super::text::{count, moment};
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::progress::Monitor;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::Refreshed;

/// Snapshots with their ids, oldest first.
type Listed = [(SnapshotId, SnapshotRecord)];

/// Narrows a list of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// The source, as [`sources`](super::sources) says.
    pub source: Option<String>,
    /// One of the tags.
    pub tag: Option<String>,
    /// The host.
    pub host: Option<String>,
}

impl SnapshotFilter {
    /// For messages: ` of source app with tag nightly`.
    fn described(&self) -> String {
        let part = |what: &str, value: &Option<String>| value.as_ref().map_or_else(String::new, |value| format!(" {what} `{value}`"));
        [part("of source", &self.source), part("with tag", &self.tag), part("of host", &self.host)].concat()
    }

    /// Says so if no snapshot is of the source that the filter names, with the sources that there are.
    pub fn unknown_source(&self, snapshots: &[(SnapshotId, SnapshotRecord)]) -> Option<String> {
        let sources = Sources::of(snapshots.iter());
        let text = self.source.as_deref().filter(|text| sources.meant(text).is_empty())?;
        Some(format!("no snapshot is of source `{text}`; {}", sources.instead_of(text)))
    }

    /// For messages about what is not there: the filter, and which sources there are if it names none of them.
    fn explained(&self, snapshots: &Listed) -> String {
        let sources = Sources::of(snapshots.iter());
        let unknown = self.source.as_deref().filter(|text| sources.meant(text).is_empty());
        let instead = unknown.map_or_else(String::new, |text| format!("; {}", sources.instead_of(text)));
        self.described() + &instead
    }
}

/// The snapshot that a user names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The name as the user gave it.
    pub text: String,
    /// The parsed name.
    pub spec: SnapshotSpec,
    /// The snapshots among which it is searched.
    pub filter: SnapshotFilter,
}

impl Wanted {
    /// Parses a name like [`SnapshotSpec::parse`].
    ///
    /// # Errors
    /// The errors of [`SnapshotSpec::parse`].
    pub fn named(text: &str, parse_time: &dyn Fn(&str) -> Result<i64>, filter: SnapshotFilter) -> Result<Self> {
        Ok(Wanted { text: text.to_owned(), spec: SnapshotSpec::parse(text, parse_time)?, filter })
    }

    /// The snapshot, among those that there are. `monitor` hears of newer ones that were passed over because they are flagged.
    ///
    /// # Errors
    /// As of [`SnapshotSpec::find`].
    pub fn find<'r>(&self, refreshed: &'r Refreshed, monitor: &dyn Monitor) -> Result<&'r (SnapshotId, SnapshotRecord)> {
        let found = self.spec.find(&refreshed.snapshots, &self.filter)?;
        let passed_over = self.passed_over(&refreshed.snapshots, found);
        if let Some((newest, record)) = passed_over.last() {
            let (id, time, number) = (found.0.short(), moment(found.1.time_ns), count(passed_over.len() as u64, "newer snapshot"));
            let are = if passed_over.len() == 1 { "is" } else { "are" };
            let (newest, codes) = (newest.short(), codes(record));
            monitor.warn(&format!(
                "{}: taking {id} of {time}; {number} {are} flagged and passed over, the newest is {newest} ({codes})",
                self.text
            ));
        }
        Ok(found)
    }

    /// Flagged snapshots newer than the one that was found, which would be meant if they were good. Oldest first.
    fn passed_over<'r>(&self, snapshots: &'r Listed, found: &(SnapshotId, SnapshotRecord)) -> Vec<&'r (SnapshotId, SnapshotRecord)> {
        let until = match self.spec {
            SnapshotSpec::Prefix(_) => return Vec::new(),
            SnapshotSpec::Latest(_) => i64::MAX,
            SnapshotSpec::At(time_ns) => time_ns,
        };
        let passing = Passing::of(&self.filter, snapshots);
        let after = snapshots.iter().skip_while(|(id, _)| *id != found.0).skip(1);
        after.filter(|(_, record)| !record.flags.is_empty() && record.time_ns <= until && passing.has(record)).collect()
    }
}

/// The codes of a snapshot's flags, for people.
fn codes(record: &SnapshotRecord) -> String {
    let mut codes: Vec<&str> = record.flags.iter().map(|flag| flag.code.as_str()).collect();
    codes.dedup();
    codes.join(", ")
}

/// A parsed snapshot name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotSpec {
    /// The newest good one, or the one so many good ones before it.
    Latest(usize),
    /// The newest good one at or before this time, nanoseconds since 1970 UTC.
    At(i64),
    /// The one whose id begins with these digits.
    Prefix(String),
}

impl SnapshotSpec {
    /// Parses a name. `parse_time` converts the text after `@` to nanoseconds since 1970 UTC.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for anything else than the four forms.
    pub fn parse(text: &str, parse_time: &dyn Fn(&str) -> Result<i64>) -> Result<Self> {
        if let Some(time) = text.strip_prefix('@') {
            return Ok(SnapshotSpec::At(parse_time(time)?));
        }
        if text == "latest" {
            return Ok(SnapshotSpec::Latest(0));
        }
        if let Some(back) = text.strip_prefix("latest~") {
            let back = back.parse().map_err(|_| Error::InvalidArgument(format!("{text}: a number is needed after `latest~`")))?;
            return Ok(SnapshotSpec::Latest(back));
        }
        match !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            true => Ok(SnapshotSpec::Prefix(text.to_string())),
            false => Err(Error::InvalidArgument(format!("{text}: not a snapshot; give an id, `latest`, `latest~N` or `@TIME`"))),
        }
    }

    /// Finds the snapshot of this name among these, which are sorted oldest first.
    ///
    /// # Errors
    /// [`Error::NoSuch`] if there is none; [`Error::InvalidArgument`] for a start of several ids, and for anything but an id if snapshots of
    /// several sources pass the filter.
    pub fn find<'s>(&self, snapshots: &'s Listed, filter: &SnapshotFilter) -> Result<&'s (SnapshotId, SnapshotRecord)> {
        let passing = Passing::of(filter, snapshots);
        let passing: Vec<&(SnapshotId, SnapshotRecord)> = snapshots.iter().filter(|(_, record)| passing.has(record)).collect();
        match self {
            SnapshotSpec::Prefix(prefix) => with_prefix(&passing, prefix, &filter.explained(snapshots)),
            SnapshotSpec::Latest(back) => {
                let good = good_of_one_source(snapshots, &passing, filter, i64::MAX)?;
                good.iter().rev().nth(*back).copied().ok_or_else(|| too_few(good.len(), &passing, filter))
            }
            SnapshotSpec::At(time_ns) => {
                let good = good_of_one_source(snapshots, &passing, filter, *time_ns)?;
                let newest = good.iter().max_by_key(|(_, record)| record.time_ns).copied();
                newest.ok_or_else(|| none_before(&passing, filter, *time_ns))
            }
        }
    }
}

/// The snapshot whose id starts so.
fn with_prefix<'s>(passing: &[&'s (SnapshotId, SnapshotRecord)], prefix: &str, filter: &str) -> Result<&'s (SnapshotId, SnapshotRecord)> {
    let mut hits = passing.iter().filter(|(id, _)| id.to_string().starts_with(prefix));
    match (hits.next(), hits.next()) {
        (Some(hit), None) => Ok(hit),
        (Some(_), Some(_)) => Err(Error::InvalidArgument(format!("several snapshots start with {prefix}; give more of the id"))),
        _ => Err(Error::NoSuch { detail: format!("snapshot {prefix} not found{filter}") }),
    }
}

/// The good snapshots up to a time. Those that pass have to be of one source.
fn good_of_one_source<'s>(
    snapshots: &'s Listed,
    passing: &[&'s (SnapshotId, SnapshotRecord)],
    filter: &SnapshotFilter,
    until_ns: i64,
) -> Result<Vec<&'s (SnapshotId, SnapshotRecord)>> {
    if passing.is_empty() {
        return Err(Error::NoSuch { detail: format!("there is no snapshot{}", filter.explained(snapshots)) });
    }
    let sources = Sources::of(passing.iter().copied());
    if sources.len() > 1 {
        let (described, number, choices) = (filter.described(), sources.len(), sources.choices(&Sources::of(snapshots.iter())));
        return Err(Error::InvalidArgument(format!(
            "the snapshots{described} are of {number} sources; give an id, or choose one:\n{choices}"
        )));
    }
    Ok(passing.iter().filter(|(_, record)| record.flags.is_empty() && record.time_ns <= until_ns).copied().collect())
}

/// There are fewer good snapshots than `latest~N` asks for.
fn too_few(good: usize, passing: &[&(SnapshotId, SnapshotRecord)], filter: &SnapshotFilter) -> Error {
    let Some(oldest) = good.checked_sub(1) else { return no_good(passing, filter, "") };
    let flagged = match passing.len() - good {
        0 => String::new(),
        flagged => format!("; {flagged} more, flagged, can be taken by id"),
    };
    let (number, described) = (count(good as u64, "good snapshot"), filter.described());
    Error::NoSuch {
        detail: format!(
            "there {} only {number}{described}, and latest~{oldest} is the oldest one{flagged}",
            if good == 1 { "is" } else { "are" }
        ),
    }
}

/// No snapshot that passes is good and old enough.
fn none_before(passing: &[&(SnapshotId, SnapshotRecord)], filter: &SnapshotFilter, time_ns: i64) -> Error {
    let when = format!(" at or before {}", moment(time_ns));
    let before: Vec<_> = passing.iter().filter(|(_, record)| record.time_ns <= time_ns).copied().collect();
    match passing.first().filter(|_| before.is_empty()) {
        Some((id, record)) => {
            let (described, time) = (filter.described(), moment(record.time_ns));
            Error::NoSuch { detail: format!("there is no snapshot{described}{when}; the oldest one is {} of {time}", id.short()) }
        }
        None => no_good(&before, filter, &when),
    }
}

/// All of these snapshots are flagged.
fn no_good(flagged: &[&(SnapshotId, SnapshotRecord)], filter: &SnapshotFilter, when: &str) -> Error {
    let newest = flagged.last().map_or_else(String::new, |(id, record)| {
        let (id, time) = (id.short(), moment(record.time_ns));
        format!(
            ": the newest one, {id} of {time}, is flagged ({}). Take it by its id, or, if it is right as it is, accept it: icecore mark {id} accept",
            codes(record)
        )
    });
    Error::NoSuch { detail: format!("there is no good snapshot{}{when}{newest}", filter.described()) }
}
