//! The sources that a repository has snapshots of, and which of them a user means.
//!
//! A source is meant by its name or label, by the first digits of its id, or by a short name: a path in its label, the last part of such a
//! path, or the database of a PostgreSQL source. A name goes before an id, and an id before a short name, so that `--source app` never
//! means `/srv/app` where a source has the name `app`.

use std::collections::{BTreeMap, BTreeSet};

use super::near::near;
use super::select::SnapshotFilter;
use super::text::{count, moment, shell_word};
use crate::id::{SnapshotId, SourceId};
use crate::recorded::SourceKind;
use crate::store::format::snapshot::SnapshotRecord;

/// Digits of an id that a user has to give. Fewer could be a name that is mistyped.
const ID_DIGITS_MIN: usize = 4;
/// Sources that a message lists.
const SHOWN_MAX: usize = 20;

/// A source that has snapshots.
struct Known<'s> {
    kind: &'s SourceKind,
    /// The one of its newest snapshot comes last. There are several if its paths were given in several ways.
    labels: Vec<&'s str>,
    snapshots: u64,
    newest_good_ns: Option<i64>,
}

/// All sources of a repository, in the order of their newest snapshots, oldest first.
pub(super) struct Sources<'s>(Vec<(SourceId, Known<'s>)>);

impl<'s> Sources<'s> {
    /// The sources of these snapshots, which are sorted oldest first.
    pub(super) fn of(snapshots: impl Iterator<Item = &'s (SnapshotId, SnapshotRecord)>) -> Self {
        let mut known: BTreeMap<SourceId, (usize, Known<'s>)> = BTreeMap::new();
        for (place, (_, record)) in snapshots.enumerate() {
            let new = || Known { kind: &record.source.kind, labels: Vec::new(), snapshots: 0, newest_good_ns: None };
            let (newest, source) = known.entry(record.source.id).or_insert_with(|| (place, new()));
            *newest = place;
            source.labels.retain(|label| *label != record.source.label);
            source.labels.push(&record.source.label);
            source.snapshots += 1;
            if record.flags.is_empty() {
                source.newest_good_ns = Some(record.time_ns);
            }
        }
        let mut sorted: Vec<_> = known.into_iter().collect();
        sorted.sort_by_key(|(_, (newest, _))| *newest);
        Sources(sorted.into_iter().map(|(id, (_, source))| (id, source)).collect())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those that a user means by `text`. More than one if several have this name.
    pub(super) fn meant(&self, text: &str) -> BTreeSet<SourceId> {
        let is_id = text.len() >= ID_DIGITS_MIN;
        // A label is the clearest, then digits of the id, then a short name. The first of them that any source has decides.
        let by_label = |_: &SourceId, source: &Known<'_>| source.labels.contains(&text);
        let by_id = |id: &SourceId, _: &Known<'_>| is_id && id.to_string().starts_with(text);
        let by_short_name =
            |_: &SourceId, source: &Known<'_>| source.labels.iter().any(|label| short_names(source.kind, label).contains(&text));
        let found = [self.those(by_label), self.those(by_id), self.those(by_short_name)];
        found.into_iter().find(|some: &BTreeSet<SourceId>| !some.is_empty()).unwrap_or_default()
    }

    fn those(&self, is_meant: impl Fn(&SourceId, &Known<'_>) -> bool) -> BTreeSet<SourceId> {
        self.0.iter().filter(|(id, source)| is_meant(id, source)).map(|(id, _)| *id).collect()
    }

    /// What `--source` takes for this source alone: the name of its database, its label, or the start of its id, whichever first means no other source.
    fn selector(&self, id: &SourceId, source: &Known<'_>) -> String {
        let label = source.labels.last().copied().unwrap_or_default();
        // Elsewhere a space may be part of a path, and then short names say little.
        let short = if *source.kind == SourceKind::POSTGRES { short_names(source.kind, label) } else { Vec::new() };
        let alone = |name: &&str| !name.is_empty() && self.meant(name) == BTreeSet::from([*id]);
        let named = short.into_iter().chain([label]).find(alone);
        named.map_or_else(|| id.to_string().chars().take(12).collect(), str::to_owned)
    }

    /// Names for `--source`. Each of them means one source.
    pub(super) fn selectors(&self) -> Vec<String> {
        self.0.iter().map(|(id, source)| self.selector(id, source)).collect()
    }

    /// One line for each source, with an option that can be pasted. `all` are the sources of the repository, among which it has to be alone.
    pub(super) fn choices(&self, all: &Sources<'_>) -> String {
        let newest = self.0.iter().rev().take(SHOWN_MAX);
        let options: Vec<(String, String)> = newest
            .map(|(id, source)| {
                let option = format!("--source {}", shell_word(&all.selector(id, source)));
                let good =
                    source.newest_good_ns.map_or_else(|| "no good one".to_owned(), |time| format!("newest good one {}", moment(time)));
                (option, format!("{}, {}, {good}", source.kind.name(), count(source.snapshots, "snapshot")))
            })
            .collect();
        let width = options.iter().map(|(option, _)| option.chars().count()).max().unwrap_or_default();
        let mut lines: Vec<String> = options.iter().map(|(option, about)| format!("{option:width$}  {about}")).collect();
        if self.len() > SHOWN_MAX {
            lines.push(format!("and {} more: see `icecore status`", self.len() - SHOWN_MAX));
        }
        lines.join("\n")
    }

    /// For a message about a source that is not there: names like this one, or those that there are.
    pub(super) fn instead_of(&self, text: &str) -> String {
        let selectors = self.selectors();
        near(text.as_bytes(), selectors.iter().map(String::as_bytes), "the sources are")
    }
}

/// A name for each source of these snapshots, as `--source` takes it. The source with the newest snapshot comes last.
pub fn source_names(snapshots: &[(SnapshotId, SnapshotRecord)]) -> Vec<String> {
    Sources::of(snapshots.iter()).selectors()
}

/// Names that a label holds.
fn short_names<'l>(kind: &SourceKind, label: &'l str) -> Vec<&'l str> {
    if *kind == SourceKind::POSTGRES {
        return label.split_once(" at ").map(|(database, _)| database).into_iter().collect();
    }
    let last_part = |path: &'l str| path.trim_end_matches('/').rsplit('/').next().filter(|part| *part != path);
    label.split(' ').flat_map(|path| [last_part(path), Some(path)]).flatten().filter(|name| !name.is_empty()).collect()
}

/// Which snapshots pass a filter. The sources are found among all snapshots.
pub struct Passing<'f> {
    filter: &'f SnapshotFilter,
    sources: Option<BTreeSet<SourceId>>,
}

impl<'f> Passing<'f> {
    /// Finds the sources that the filter names.
    pub fn of(filter: &'f SnapshotFilter, snapshots: &[(SnapshotId, SnapshotRecord)]) -> Self {
        let sources = filter.source.as_deref().map(|text| Sources::of(snapshots.iter()).meant(text));
        Passing { filter, sources }
    }

    /// Whether a snapshot passes.
    pub fn has(&self, snapshot: &SnapshotRecord) -> bool {
        let SnapshotFilter { tag, host, .. } = self.filter;
        self.has_source(&snapshot.source.id)
            && tag.as_ref().is_none_or(|tag| snapshot.tags.contains(tag))
            && host.as_ref().is_none_or(|host| snapshot.host == *host)
    }

    fn has_source(&self, id: &SourceId) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_paths_their_last_parts_and_databases() {
        assert_eq!(short_names(&SourceKind::SQLITE, "/srv/a.db b.db"), ["a.db", "/srv/a.db", "b.db"]);
        assert_eq!(short_names(&SourceKind::FILES, "/srv/app/"), ["app", "/srv/app/"]);
        assert_eq!(short_names(&SourceKind::POSTGRES, "miniflux at db:5432"), ["miniflux"]);
        assert!(short_names(&SourceKind::POSTGRES, "db").is_empty());
    }
}
