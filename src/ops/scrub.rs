//! Scrub: verifies all stored bytes against names and checksums, without a key. For people who keep a repository for
//! somebody else.
//!
//! It needs no catalog and no passphrase, so it cannot look into packs. [`NOT_CHECKED`] lists what only a check
//! finds.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;

use super::check::{CheckReport, Finding, Verdict, check_replicas, hash_pack, healable};
use super::journal::Outcome;
use super::journaled::Report;
use super::json;
use super::text::{bytes, count, duration, ms};
use crate::error::{Error, Result};
use crate::ops::number::{micros, wide};
use crate::progress::Monitor;
use crate::store::backend::{Backend, ObjectInfo, ObjectKey, ObjectKind};
use crate::store::format::pack::{FOOTER_LEN, Footer};
use crate::store::format::{HEADER_LEN, Kind, Malformed, ObjectHeader, PACK_LEN_MAX};
use crate::store::repo::{Health, each_in_threads, health, is_whole, read_pack_from, read_record_from, stored_parity};

/// What cannot be verified without a key, for people.
pub const NOT_CHECKED: [&str; 6] = [
    "whether an object is missing that was never listed here, or was replaced by an older one",
    "whether the tables of packs say what is in them, and whether chunks decode to what their ids say",
    "whether every chunk of every snapshot is in some pack, with what it is a delta of",
    "what tombstones say: only their headers are looked at, as their names are not made of their bytes",
    "whether the times in the names of journal entries are theirs",
    "whether snapshot records lie under the names of their own sources",
];

/// The report of a scrub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// The result in one word.
    pub status: Verdict,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
    /// How many packs were read.
    pub packs: u64,
    /// How many other objects were read. A record and its replica count as one.
    pub records: u64,
    /// The bytes of packs.
    pub read_bytes: u64,
    /// [`NOT_CHECKED`].
    pub not_checked: [&'static str; NOT_CHECKED.len()],
    /// How long it took, microseconds.
    #[serde(rename = "duration_ms", serialize_with = "json::ms")]
    pub duration_us: u64,
}

impl ScrubReport {
    /// Whether stored data is damaged.
    pub fn is_damaged(&self) -> bool {
        self.status == Verdict::Damaged
    }

    /// The report in one line.
    pub fn summary(&self) -> String {
        let looked = [count(self.packs, "pack"), count(self.records, "record")].join(", ");
        let (read, took) = (bytes(self.read_bytes), duration(ms(self.duration_us)));
        format!("{looked}, {read} read in {took}: {}", self.status.told(self.findings.len()))
    }
}

impl Report for ScrubReport {
    fn outcome(&self) -> Outcome {
        if self.is_damaged() { Outcome::Damaged } else { Outcome::Done }
    }
}

/// Verifies what can be verified without a key: the bytes of packs, snapshot records, marks and journal entries
/// against their names; the checksums of the configuration and key records and their replicas, of `forgotten`
/// records, and of footers with the stored tables of packs; and all headers.
///
/// # Errors
/// Only errors that prevent reading at all; damage is in the report. [`Error::Cancelled`].
pub fn scrub(backend: &dyn Backend, threads: usize, monitor: &dyn Monitor) -> Result<ScrubReport> {
    let started = Instant::now();
    let mut report = CheckReport::default();
    monitor.phase("checking records", None);
    let mut records = check_replicas(backend, &mut report)?;
    let has_parity = stored_parity(backend)?;
    for kind in [ObjectKind::Snapshot, ObjectKind::Pending, ObjectKind::Mark, ObjectKind::Forgotten, ObjectKind::Tombstone, ObjectKind::Log]
    {
        for info in sorted(backend, kind)? {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let Some(checked) = scrub_record(backend, &info.key, has_parity) else { continue };
            records += 1;
            match checked {
                // Deleted since it was listed.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => report.damage(code(backend, &info.key, has_parity)?, error)?,
            }
        }
    }
    // Packs are read in parallel: they are nearly all of the data.
    let packs = sorted(backend, ObjectKind::Pack)?;
    monitor.phase("reading packs", Some(packs.iter().map(|info| info.size).sum()));
    let failures = Mutex::new(Vec::new());
    each_in_threads(threads, &packs, monitor, |info| match scrub_pack(backend, info, monitor) {
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error @ (Error::Corrupt { .. } | Error::UnsupportedFormat { .. })) => {
            failures.lock().unwrap_or_else(PoisonError::into_inner).push((info.key, error));
            Ok(())
        }
        other => other,
    })?;
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|(key, _)| *key);
    for (key, error) in failures {
        report.damage(code(backend, &key, has_parity)?, error)?;
    }
    let read_bytes = packs.iter().map(|info| info.size).sum();
    let (status, findings) = (Verdict::of(&report.findings), report.findings);
    let (packs, duration_us) = (wide(packs.len()), micros(started.elapsed()));
    Ok(ScrubReport { status, findings, packs, records, read_bytes, not_checked: NOT_CHECKED, duration_us })
}

/// All objects of a kind, sorted, each once.
fn sorted(backend: &dyn Backend, kind: ObjectKind) -> Result<Vec<ObjectInfo>> {
    let mut objects: Vec<ObjectInfo> = backend.list(kind)?.collect::<Result<_>>()?;
    objects.sort_by_key(|info| info.key);
    objects.dedup_by_key(|info| info.key);
    Ok(objects)
}

/// The code of a finding about a damaged object.
fn code(backend: &dyn Backend, key: &ObjectKey, has_parity: bool) -> Result<&'static str> {
    if has_parity && matches!(health(backend, key, true)?, Health::Healable(_)) {
        return Ok(healable(key));
    }
    Ok(match key.kind() {
        ObjectKind::Config => "config-copy",
        ObjectKind::Key => "key-copy",
        ObjectKind::Pack => "pack",
        ObjectKind::Pending => "pending",
        ObjectKind::Snapshot => "snapshot",
        ObjectKind::Mark => "mark",
        ObjectKind::Forgotten => "forgotten",
        ObjectKind::Tombstone => "tombstone",
        ObjectKind::Log => "log",
        ObjectKind::Quarantined => "quarantined",
    })
}

/// Verifies a record; `None` for objects that are verified elsewhere.
fn scrub_record(backend: &dyn Backend, key: &ObjectKey, has_parity: bool) -> Option<Result<()>> {
    let kind = match key {
        ObjectKey::Snapshot { .. } | ObjectKey::Pending { .. } => Kind::Snapshot,
        ObjectKey::Mark { .. } => Kind::Mark,
        ObjectKey::Forgotten(_) => Kind::Forgotten,
        ObjectKey::Tombstone(_) => Kind::Tombstone,
        ObjectKey::Log { .. } => Kind::Log,
        ObjectKey::Config(_) | ObjectKey::Key(..) | ObjectKey::Pack(_) | ObjectKey::Quarantined { .. } => return None,
    };
    let verify = |bytes: &[u8]| match kind {
        // A tombstone without parity has nothing else that could be verified.
        Kind::Tombstone if !has_parity => ObjectHeader::decode(bytes, kind).map(drop),
        _ if is_whole(key, bytes, has_parity) => ObjectHeader::decode(bytes, kind).map(drop),
        Kind::Forgotten | Kind::Tombstone => Err(Malformed::new("it does not have its checksum")),
        _ => Err(Malformed::new("its bytes were changed: its name is not their hash")),
    };
    let read = read_record_from(backend, key);
    Some(read.and_then(|bytes| bytes.map_or(Ok(()), |bytes| verify(&bytes).map_err(|m| m.of(key)))))
}

/// Verifies the bytes of a pack against its name, then its header, footer and stored table.
fn scrub_pack(backend: &dyn Backend, info: &ObjectInfo, monitor: &dyn Monitor) -> Result<()> {
    let ObjectKey::Pack(id) = info.key else { return Ok(()) };
    let object = info.key;
    if info.size < wide(HEADER_LEN + FOOTER_LEN) || info.size > PACK_LEN_MAX {
        return Err(Error::corrupt(object.to_string(), format!("its length of {} bytes is out of bounds", info.size)));
    }
    // The hash covers all bytes. The footer and the table are decoded besides, because a faulty writer may have
    // written them wrong.
    hash_pack(backend, id, info.size, None, monitor)?;
    let footer_bytes = read_pack_from(backend, &object, info.size - wide(FOOTER_LEN)..info.size)?;
    let footer = Footer::decode(&footer_bytes, info.size).map_err(|m| m.of(object))?;
    let table_end = footer.trailer_offset.saturating_add(u64::from(footer.trailer_len));
    let table = read_pack_from(backend, &object, footer.trailer_offset..table_end)?;
    footer.verify(&footer_bytes, &table).map_err(|m| m.of(object))
}
