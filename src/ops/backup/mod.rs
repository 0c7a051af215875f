//! Backup: makes one snapshot from one capture of a source.
//!
//! Order: refresh the catalog, choose the parent (`history`), capture and store all streams and the listing
//! (`intake`), compare with the last good state (`judge`), commit. There is no snapshot before the commit, so a
//! failure at any point leaves none.
//!
//! If damage in the repository comes to light while bases are read, the backup starts again and stores anew what the
//! damaged packs held (`doubts`).

mod by_content;
mod census;
mod collect;
mod doubts;
mod history;
mod intake;
mod judge;
mod landmarks;
mod moved;
mod once;
mod pages;
mod perform;
mod pool;
mod predict;
mod sink;
mod sorted;

use std::time::Instant;

use self::doubts::Doubts;
use self::history::{History, Inherited, ROOTS_FACT};
use self::intake::Captured;
use self::judge::judge;
use self::once::Once;
pub use self::perform::{AllTaken, FailedDatabase, PassedOver, Recorded, Taken, perform, perform_all, perform_on};
use self::sorted::Sorted;
use crate::engine::files::LeftOut;
use crate::engine::{self, Source, SourceDescription};
use crate::error::{Error, Result};
use crate::id::{SnapshotId, SourceId};
use crate::ops::gaps::Gaps;
use crate::ops::number::{micros, wide};
use crate::ops::text::count;
use crate::progress::Monitor;
use crate::recorded::{Flag, SourceKind};
use crate::store::format::snapshot::{LABEL_LEN_MAX, SnapshotRecord, SnapshotStats, SourceRef, TAG_LEN_MAX, TAGS_MAX};
use crate::store::repo::catalog::NamedStamp;
use crate::store::repo::{Repository, SessionOptions, WriteSession, later};

/// A snapshot is flagged if its recorded time is further than this ahead of the clock, nanoseconds.
const FUTURE_MAX_NS: i64 = 24 * 3600 * 1_000_000_000;

/// How often a backup is started at most. Each restart knows more packs that are damaged.
const ATTEMPTS: usize = 4;

/// Facts about the caller that the library does not find out by itself, and choices of the user.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// The time to record, nanoseconds since 1970 UTC.
    pub time_ns: i64,
    /// The clock's time, nanoseconds since 1970 UTC.
    pub now_ns: i64,
    /// The machine's name.
    pub host: String,
    /// The user's name.
    pub user: String,
    /// Words to record.
    pub tags: Vec<String>,
    /// The name of the source, instead of the identity derived from host and paths.
    pub source: Option<String>,
    /// Reads all files, also those that look unchanged.
    pub read_all: bool,
}

/// What a backup did.
#[derive(Debug, Clone)]
pub struct BackupReport {
    /// The new snapshot.
    pub id: SnapshotId,
    /// Its record.
    pub record: SnapshotRecord,
    /// Streams that could not be read, as messages. The snapshot has all others.
    pub skipped: Vec<String>,
    /// What was left out on purpose, by the user's wish or by icecore's rules.
    pub left_out: LeftOut,
    /// How long the source was held open, microseconds: for reading and hashing, and for storing where that blocks
    /// nobody.
    pub capture_us: u64,
    /// Streams that were taken over without being read, by the rules of [`crate::engine::sqlite`] and
    /// [`crate::engine::files`].
    pub unchanged_streams: usize,
    /// Chunks that were stored anew because their stored copies turned out damaged or gone. That mends the older
    /// snapshots that share them, too.
    pub healed_chunks: u64,
}

/// Captures the source into a new snapshot.
///
/// # Errors
/// The errors of the source; [`Error::Backend`] when the repository cannot be written. Then there is no snapshot.
pub fn backup(repo: &Repository, source: &dyn Source, options: &BackupOptions, monitor: &dyn Monitor) -> Result<BackupReport> {
    let began = Instant::now();
    let mut doubts = Doubts::of(repo)?;
    let source = &Once::new(source, repo.cache_dir());
    for _ in 0..ATTEMPTS {
        let options = BackupOptions { now_ns: later(options.now_ns, began), ..options.clone() };
        match try_backup(repo, source, &options, &mut doubts, monitor) {
            // The catalog does not match the repository, which was rolled back, or pruned by another host. List all
            // packs and start again, once.
            Err(Error::Stale { detail }) if !doubts.is_last => {
                monitor.warn(&format!("{detail}; starting again"));
                repo.list_all_packs()?;
                doubts.is_last = true;
            }
            // Damage was found in packs that the backup relied on. They are among the doubts now; start again without
            // them.
            Ok(None) => {}
            Ok(Some(report)) => return Ok(report),
            Err(other) => return Err(other),
        }
    }
    Err(Error::Stale { detail: "more and more stored packs turn out damaged; run `icecore repair`".into() })
}

/// One attempt. `None` if packs that were relied on turned out damaged: they are among the doubts now.
fn try_backup(
    repo: &Repository,
    source: &dyn Source,
    options: &BackupOptions,
    doubts: &mut Doubts,
    monitor: &dyn Monitor,
) -> Result<Option<BackupReport>> {
    let started = Instant::now();
    let refreshed = repo.refresh()?;
    refreshed.damage.iter().for_each(|damage| monitor.warn(&damage.to_string()));
    let source_ref = source_of(source, options);
    refuse_texts(&source_ref, options)?;
    let history = History::of(&refreshed, source_ref.id, options.now_ns.saturating_add(FUTURE_MAX_NS));
    let parent = history.parent.map(|(id, _)| *id);
    let of_parent = history.parent.map(|(id, record)| (*id, record.source.id));
    let mut session = WriteSession::begin(repo, &SessionOptions { parent: of_parent })?;
    let is_careful = doubts.tell(&mut session, history.parent.map(|(_, record)| record))?;
    let mut inherited = Inherited::of(&mut session, &history, &source_ref, monitor)?;
    inherited.have_read_again(is_careful || options.read_all, source.wants_content());
    let captured = intake::capture(&session, source, &source_ref, &inherited, monitor)?;
    // Look for damage before the commit: deltas may stand on chunks that cannot be read.
    if doubts.have_grown(&session, options.now_ns, monitor)? {
        return Ok(None);
    }
    let healed_chunks = session.healed_chunks();
    let (source_id, verdict) = (source_ref.id, judge(&captured, &inherited, session.reader())?);
    let mut skipped = captured.report.skipped.clone();
    // What the user has accepted is not reported again.
    skipped.retain(|line| verdict.accepted.iter().all(|flag| flag.detail != *line));
    let draft = verdict.on(draft(&captured, source_ref, parent, options, started));
    monitor.phase("committing", None);
    let committed = session.commit(draft)?;
    // The snapshot exists from here on. What follows only saves work for the next backup and cannot fail it.
    let gaps = Gaps::of(&committed.record.flags);
    let Captured { entries, stamps, keepers, report, capture_us, unchanged_streams, .. } = captured;
    keepers.into_iter().filter(|(name, ..)| !gaps.covers(name)).for_each(|(_, keeper, root)| keeper.finish(&root));
    // A stream that is missing from a flagged snapshot may come back; then its features are useful.
    if let (true, Ok(entries)) = (gaps.is_empty(), entries.iter()) {
        repo.drop_features(source_id, &mut entries.map(|entry| Ok(entry?.0)));
    }
    remember_stamps(repo, source_id, committed.id, &stamps, &Gaps::of(&report.flags), monitor);
    if healed_chunks > 0 {
        let chunks = count(healed_chunks, "chunk");
        monitor.warn(&format!(
            "the repository is damaged; this backup is whole: {chunks} stored anew because the stored copies are damaged or gone; \
             next: `icecore check --read-data`, then `icecore repair`"
        ));
    }
    let (id, record, left_out) = (committed.id, committed.record, report.left_out);
    Ok(Some(BackupReport { id, record, skipped, left_out, capture_us, unchanged_streams, healed_chunks }))
}

/// The identity of a source: its kind with the name that the user gives, or its kind with the host and what the
/// source says of itself.
pub fn source_of(source: &dyn Source, options: &BackupOptions) -> SourceRef {
    let SourceDescription { kind, parts, label } = source.identity();
    if let Some(name) = &options.source {
        return SourceRef { id: named_source(&kind, name), kind, label: name.clone() };
    }
    let host = engine::of(&kind).is_of_host().then_some(options.host.as_bytes());
    let parts = host.into_iter().chain(parts.iter().map(Vec::as_slice));
    let id = source_id(std::iter::once(kind.name().as_bytes()).chain(parts));
    SourceRef { id, kind, label }
}

/// Refuses names and tags that are too long to be listed, before anything is read.
fn refuse_texts(source: &SourceRef, options: &BackupOptions) -> Result<()> {
    let refused = |what: &str, len: usize, max: usize| {
        Error::InvalidArgument(format!("nothing was stored: a {what} of {len} bytes is too long, at most {max} are possible"))
    };
    if options.source.as_deref() == Some("") {
        return Err(Error::InvalidArgument("nothing was stored: the name of the source is empty; give it one, or leave it out".into()));
    }
    if source.label.len() > LABEL_LEN_MAX {
        return Err(refused("name of a source", source.label.len(), LABEL_LEN_MAX));
    }
    match options.tags.iter().find(|tag| tag.len() > TAG_LEN_MAX) {
        Some(tag) => Err(refused("tag", tag.len(), TAG_LEN_MAX)),
        None if options.tags.len() > TAGS_MAX => {
            Err(Error::InvalidArgument(format!("nothing was stored: at most {TAGS_MAX} tags are possible")))
        }
        None => Ok(()),
    }
}

/// The identity of a source with a name of the user's choice. Equal names of different kinds are different sources.
pub fn named_source(kind: &SourceKind, name: &str) -> SourceId {
    source_id([kind.name().as_bytes(), b"named", name.as_bytes()].into_iter())
}

fn source_id<'p>(parts: impl Iterator<Item = &'p [u8]>) -> SourceId {
    let mut hasher = blake3::Hasher::new_derive_key("icecore 2026-11 format 1 source identity");
    for part in parts {
        // With its length before each part, no two lists of parts give the same bytes.
        hasher.update(&wide(part.len()).to_le_bytes());
        hasher.update(part);
    }
    SourceId(*hasher.finalize().as_bytes())
}

fn draft(captured: &Captured, source: SourceRef, parent: Option<SnapshotId>, options: &BackupOptions, started: Instant) -> SnapshotRecord {
    let mut flags = Vec::new();
    if options.time_ns > options.now_ns.saturating_add(FUTURE_MAX_NS) {
        flags.push(Flag::new("future-time", "its time is more than a day ahead of the clock"));
    }
    let several = (captured.roots.len() > 1).then(|| (ROOTS_FACT.to_owned(), captured.roots.len().to_string()));
    SnapshotRecord {
        time_ns: options.time_ns,
        duration_us: micros(started.elapsed()),
        host: options.host.clone(),
        user: options.user.clone(),
        tool: format!("icecore {}", env!("CARGO_PKG_VERSION")),
        source,
        parent,
        tags: options.tags.clone(),
        flags,
        accepted: Vec::new(),
        listing: captured.listing,
        entries: captured.census.entries,
        logical_bytes: captured.census.logical_bytes,
        packs: Vec::new(),
        stats: SnapshotStats::default(),
        written_ns: later(options.now_ns, started),
        facts: captured.report.facts.iter().cloned().chain(several).collect(),
    }
}

/// Keeps the stamps of files, by which the next backup knows unchanged ones. A failure is only a warning: stamps save
/// work. Streams that the source has flagged get no stamp. So they are read again the next time, and the flag is not
/// lost because nothing has changed.
fn remember_stamps(repo: &Repository, source: SourceId, id: SnapshotId, stamps: &Sorted, gaps: &Gaps, monitor: &dyn Monitor) {
    let is_good = |stamp: &Result<NamedStamp>| stamp.as_ref().map_or(true, |(name, _)| !gaps.covers(name));
    let kept = stamps.iter().and_then(|stamps| repo.catalog().put_stamps(source, id, &mut stamps.filter(is_good)));
    if let Err(error) = kept {
        monitor.warn(&format!("the next backup will read everything: {error}"));
    }
}
