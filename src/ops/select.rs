//! Finds the snapshot that a user names: by an id or unique prefix, `latest`, `latest~N`, or `@TIME`.

use std::collections::BTreeSet;

use super::near::near;
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::Refreshed;

/// Narrows a list of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// The start of a source id, or the source's label.
    pub source: Option<String>,
    /// One of the tags.
    pub tag: Option<String>,
    /// The host.
    pub host: Option<String>,
}

impl SnapshotFilter {
    /// Whether a snapshot passes.
    pub fn matches(&self, snapshot: &SnapshotRecord) -> bool {
        let source =
            self.source.as_ref().is_none_or(|s| snapshot.source.label == *s || snapshot.source.id.to_string().starts_with(s.as_str()));
        let tag = self.tag.as_ref().is_none_or(|tag| snapshot.tags.contains(tag));
        source && tag && self.host.as_ref().is_none_or(|host| snapshot.host == *host)
    }

    /// For messages about a missing snapshot: what was asked for, and if no snapshot has that source, which sources
    /// exist.
    fn described(&self, snapshots: &[(SnapshotId, SnapshotRecord)]) -> String {
        let part = |what: &str, value: &Option<String>| value.as_ref().map_or_else(String::new, |value| format!(" {what} {value}"));
        let wanted = [part("of source", &self.source), part("with tag", &self.tag), part("of host", &self.host)].concat();
        let of_source = SnapshotFilter { source: self.source.clone(), ..Self::default() };
        let Some(source) = self.source.as_ref().filter(|_| !snapshots.iter().any(|(_, snapshot)| of_source.matches(snapshot))) else {
            return wanted;
        };
        let labels: BTreeSet<&str> = snapshots.iter().map(|(_, snapshot)| snapshot.source.label.as_str()).collect();
        format!("{wanted}; {}", near(source.as_bytes(), labels.into_iter().map(str::as_bytes), "the sources are"))
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

    /// Finds the snapshot among the existing ones.
    ///
    /// # Errors
    /// The errors of [`SnapshotSpec::find`].
    pub fn find<'r>(&self, refreshed: &'r Refreshed) -> Result<&'r (SnapshotId, SnapshotRecord)> {
        self.spec.find(&refreshed.snapshots, &self.filter)
    }
}

/// A parsed snapshot name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotSpec {
    /// The newest without this many: 0 is the newest.
    Latest(usize),
    /// The newest at or before this time, nanoseconds since 1970 UTC.
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
    /// [`Error::NotFound`], [`Error::InvalidArgument`] for a prefix of several ids.
    pub fn find<'s>(
        &self,
        snapshots: &'s [(SnapshotId, SnapshotRecord)],
        filter: &SnapshotFilter,
    ) -> Result<&'s (SnapshotId, SnapshotRecord)> {
        let mut passing = snapshots.iter().filter(|(_, snapshot)| filter.matches(snapshot));
        let missing = |detail: String| Error::NoSuch { detail };
        match self {
            SnapshotSpec::Latest(back) => {
                let count = passing.clone().count();
                passing
                    .rev()
                    .nth(*back)
                    .ok_or_else(|| missing(format!("snapshot latest~{back} (there are {count}) not found{}", filter.described(snapshots))))
            }
            SnapshotSpec::At(time_ns) => passing
                .filter(|(_, snapshot)| snapshot.time_ns <= *time_ns)
                .max_by_key(|(_, snapshot)| snapshot.time_ns)
                .ok_or_else(|| missing(format!("a snapshot at or before that time not found{}", filter.described(snapshots)))),
            SnapshotSpec::Prefix(prefix) => {
                let mut hits = passing.by_ref().filter(|(id, _)| id.to_string().starts_with(prefix.as_str()));
                match (hits.next(), hits.next()) {
                    (Some(hit), None) => Ok(hit),
                    (Some(_), Some(_)) => {
                        Err(Error::InvalidArgument(format!("several snapshots start with {prefix}; give more of the id")))
                    }
                    _ => Err(missing(format!("snapshot {prefix} not found{}", filter.described(snapshots)))),
                }
            }
        }
    }
}
