//! Checks small records: the configuration, keys, snapshots, marks, `forgotten` records and the journal.
//!
//! Guarantee: records are read from the repository, never from the local catalog. Damage becomes a finding and the
//! check goes on; any other error ends it. Objects that were healed in memory while they were read are reported, too.
//! Relies on the catalog only to notice snapshots that were seen before and have vanished.

use std::collections::BTreeSet;

use super::{CheckReport, Severity, Touched};
use crate::error::{Error, Result};
use crate::id::{KeyId, SnapshotId};
use crate::store::backend::{Backend, ObjectKey, ObjectKind, Replica};
use crate::store::format::Malformed;
use crate::store::format::config::Config;
use crate::store::format::key::KeyRecord;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::{Health, Repository, read_record_from};

/// Checks config and key records: both replicas must exist and decode. One bad replica is a warning, because the
/// other one serves. Returns the number of records.
pub(crate) fn check_replicas(backend: &dyn Backend, report: &mut CheckReport) -> Result<u64> {
    let config = |bytes: &[u8]| Config::decode(bytes).map(drop);
    check_pair(backend, "config-copy", &ObjectKey::Config, &config, report)?;
    let mut keys: BTreeSet<KeyId> = BTreeSet::new();
    for key in backend.names(ObjectKind::Key)? {
        if let ObjectKey::Key(id, _) = key? {
            keys.insert(id);
        }
    }
    let key = |bytes: &[u8]| KeyRecord::decode(bytes).map(drop);
    let count = 1 + keys.len() as u64;
    keys.into_iter().try_for_each(|id| check_pair(backend, "key-copy", &|replica| ObjectKey::Key(id, replica), &key, report))?;
    Ok(count)
}

fn check_pair(
    backend: &dyn Backend,
    code: &'static str,
    key: &dyn Fn(Replica) -> ObjectKey,
    decode: &dyn Fn(&[u8]) -> Result<(), Malformed>,
    report: &mut CheckReport,
) -> Result<()> {
    let mut bad = Vec::new();
    let mut copies = Vec::new();
    for replica in [Replica::First, Replica::Second] {
        let key = key(replica);
        match read_record_from(backend, &key) {
            Ok(None) => bad.push((key, "it is missing".to_string())),
            Ok(Some(bytes)) => match decode(&bytes) {
                Ok(()) => copies.push(bytes),
                Err(m) => bad.push((key, m.to_string())),
            },
            Err(Error::Corrupt { detail, .. }) => bad.push((key, detail)),
            Err(error) => return Err(error),
        }
    }
    let severity = if copies.is_empty() { Severity::Damage } else { Severity::Warning };
    for (key, detail) in bad {
        report.found(severity, code, key.to_string(), detail);
    }
    if let [first, second] = copies.as_slice()
        && first != second
    {
        report.found(Severity::Warning, code, key(Replica::Second).to_string(), "it differs from the first copy");
    }
    Ok(())
}

/// Reads every snapshot record from the repository, not from the catalog.
pub(crate) fn check_snapshots(repo: &Repository, report: &mut CheckReport) -> Result<Vec<(SnapshotId, SnapshotRecord)>> {
    let mut snapshots = Vec::new();
    let known = repo.seen_snapshots()?;
    let listed = repo.list_snapshots()?;
    repo.false_expiries(listed.expired.keys())?.into_iter().try_for_each(|error| report.damage("tombstone", error))?;
    listed.strays.into_iter().try_for_each(|error| report.damage("snapshot", error))?;
    let all = listed.ids.keys().chain(listed.expired.keys()).copied().collect();
    for (id, source) in listed.ids {
        let key = ObjectKey::Snapshot { source, id };
        report.snapshots += 1;
        match repo.read_snapshot(&key) {
            Ok(Some(snapshot)) => snapshots.push((id, snapshot)),
            // Forgotten since it was listed, or the read failed in a way that looks like that.
            Ok(None) => match repo.backend().stat(&key)? {
                None => report.snapshots -= 1,
                Some(_) => report.damage("snapshot", Error::corrupt(key.to_string(), "it is there, but reading it said that it is not"))?,
            },
            Err(error @ (Error::Corrupt { .. } | Error::UnsupportedFormat { .. })) => {
                report.damage("snapshot", error)?;
                report.touched.push(Touched { snapshot: id, stream: None });
            }
            Err(error) => return Err(error),
        }
    }
    snapshots.sort_by_key(|(id, snapshot)| (snapshot.time_ns, *id));
    repo.vanished(&known, &all, &snapshots)?.iter().try_for_each(|one| report.damage("snapshot", one.error()))?;
    Ok(snapshots)
}

/// Reads every mark, `forgotten` record and journal entry.
pub(super) fn check_marks(repo: &Repository, report: &mut CheckReport) -> Result<()> {
    for (snapshot, ids) in repo.list_marks()? {
        for id in ids {
            if let Err(error) = repo.read_mark(&snapshot, &id) {
                report.damage("mark", error)?;
            }
        }
    }
    repo.list_forgotten()?.unreadable.into_iter().try_for_each(|(_, error)| report.damage("forgotten", error))?;
    for name in repo.list_log()? {
        if let Err(error) = repo.read_log(&name) {
            report.damage("log", error)?;
        }
    }
    Ok(())
}

/// Reports objects that were healed in memory while they were read, unless they are reported already: they could be
/// read, and are damaged.
pub(super) fn check_healed(repo: &Repository, report: &mut CheckReport) -> Result<()> {
    for key in repo.healed_objects() {
        let object = key.to_string();
        let is_named = report.findings.iter().any(|finding| finding.object == object && finding.code == healable(&key));
        // It may have been healed on disk since then.
        if !is_named && matches!(repo.health(&key)?, Health::Healable(_)) {
            report.found(Severity::Damage, healable(&key), object, "its bytes are not those that were written, and can be made good");
        }
    }
    Ok(())
}

/// The code for a damaged object that can be healed.
pub(crate) fn healable(key: &ObjectKey) -> &'static str {
    if matches!(key, ObjectKey::Pack(_)) { "pack-healable" } else { "record-healable" }
}
