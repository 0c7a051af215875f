//! Backup: one capture becomes one snapshot.

mod by_content;
mod collect;
mod doubts;
mod history;
mod judge;
mod landmarks;
mod moved;
mod once;
mod pages;
mod perform;
mod pool;
mod predict;
mod sink;

use std::time::Instant;

use self::by_content::Input;
use self::collect::Failure;
use self::doubts::Doubts;
use self::history::{History, Inherited, ROOTS_FACT};
use self::judge::judge;
use self::moved::Content;
use self::once::Once;
use self::pages::SetAside;
pub use self::perform::{AllTaken, FailedDatabase, PassedOver, Recorded, Taken, perform, perform_all, perform_on};
use self::sink::{Sink, Sinks};
use crate::engine::files::LeftOut;
use crate::engine::{self, Body, CaptureReport, CapturedStream, Source, SourceDescription};
use crate::error::{Error, Result};
use crate::fs::sparse_read::NoHoles;
use crate::id::{SnapshotId, SourceId};
use crate::ops::gaps::Gaps;
use crate::progress::Monitor;
use crate::recorded::{EntryKind, Flag, SourceKind};
use crate::store::chunker::page_chunk_len;
use crate::store::format::snapshot::{
    LABEL_LEN_MAX, SnapshotRecord, SnapshotStats, SourceRef, StreamEntry, StreamRoot, TAG_LEN_MAX, TAGS_MAX,
};
use crate::store::repo::{
    BACKUP_LEN_MAX, ChunkWriter, FeatureKeeper, ListingCuts, Repository, SessionOptions, Spool, WriteSession, later, too_much_text,
};

/// A snapshot whose recorded time is further than this ahead of the clock is flagged, nanoseconds.
const FUTURE_MAX_NS: i64 = 24 * 3600 * 1_000_000_000;

/// How many lines of a program's messages are shown.
const MESSAGES_MAX: usize = 20;
/// Bytes of chunks that are set aside in memory while writers wait.
const SPOOL_MEMORY: usize = 4 << 20;
/// How often a backup starts, at most: what is stored may turn out not to be what it was taken for.
const ATTEMPTS: usize = 4;
/// Files with holes are looked through for content that has moved up to this length, bytes: what is kept for that grows with the length.
const SPARSE_COMPARED_MAX: u64 = 1 << 30;

/// What the library may not find out by itself.
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
    /// Names the source in place of what it derives from host and paths.
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
    /// What could not be read; the snapshot has the rest.
    pub skipped: Vec<String>,
    /// What was left out because the user, or icecore, wants it so.
    pub left_out: LeftOut,
    /// How long the source was held open, microseconds: reading and hashing, and storing where that makes nobody wait.
    pub capture_us: u64,
    /// Streams taken over without reading, by the rules of [`crate::engine::sqlite`] and [`crate::engine::files`].
    pub unchanged_streams: usize,
    /// Chunks that were stored anew because their stored copies turned out damaged or gone. Older snapshots that share them are healed by that.
    pub healed_chunks: u64,
}

/// Captures the source into a new snapshot.
///
/// # Errors
/// Whatever the source says; [`Error::Backend`] when the repository cannot be written. There is no snapshot then.
pub fn backup(repo: &Repository, source: &dyn Source, options: &BackupOptions, monitor: &dyn Monitor) -> Result<BackupReport> {
    let began = Instant::now();
    let mut doubts = Doubts::of(repo)?;
    let source = &Once::new(source, repo.cache_dir());
    for _ in 0..ATTEMPTS {
        let options = BackupOptions { now_ns: later(options.now_ns, began), ..options.clone() };
        match try_backup(repo, source, &options, &mut doubts, monitor) {
            // The catalog was wrong about the repository (rolled back, pruned by another host): look at all of it and start again.
            Err(Error::Stale { detail }) if !doubts.is_last => {
                monitor.warn(&format!("{detail}; starting again"));
                repo.list_all_packs()?;
                doubts.is_last = true;
            }
            // Damage has come to light.
            Ok(None) => {}
            Ok(Some(report)) => return Ok(report),
            Err(other) => return Err(other),
        }
    }
    Err(Error::Stale { detail: "more and more stored packs turn out damaged; run `icecore repair`".into() })
}

/// `None` if stored packs have turned out damaged on which something was built: they are among the doubts now.
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
    refuse_long_texts(&source_ref, options)?;
    let history = History::of(&refreshed, source_ref.id, options.now_ns.saturating_add(FUTURE_MAX_NS));
    let parent = history.parent.map(|(id, _)| *id);
    let of_parent = history.parent.map(|(id, record)| (*id, record.source.id));
    let mut session = WriteSession::begin(repo, &SessionOptions { parent: of_parent })?;
    let is_careful = doubts.tell(&mut session, history.parent.map(|(_, record)| record))?;
    let mut inherited = Inherited::of(&mut session, &history, source_ref.id, monitor)?;
    inherited.have_read_again(is_careful || options.read_all, source.wants_content());
    let capture_started = Instant::now();
    let mut capture = source.capture(&inherited.known, monitor)?;
    monitor.phase("reading", capture.total_bytes());
    if capture.total_bytes().is_some_and(|bytes| bytes > BACKUP_LEN_MAX) {
        monitor.warn(&format!("the source may be too large for one snapshot: {}", too_much_text()));
    }
    let make = Sinks { session: &session, monitor, source: source_ref.id };
    let mut intake = Intake { make, writer: session.writer()?, spool: None, sinks: Vec::new(), roots: Vec::new(), may_wait: true };
    let mut entries: Vec<StreamEntry> = Vec::new();
    let mut unchanged_streams = 0;
    while let Some(stream) = capture.next_stream()? {
        unchanged_streams += usize::from(matches!(stream.body, Body::Unchanged));
        intake.set_aside(capture.blocks_writers())?;
        intake.may_wait = capture.may_wait();
        match intake.take(stream, &inherited) {
            Ok(entry) => entries.push(entry),
            Err(Failure::Input(error)) => capture.unreadable(error)?,
            Err(Failure::Session(error)) => return Err(error),
        }
    }
    let mut report = capture.finish()?;
    tell_messages(&report, monitor);
    record_contents(&mut entries, &mut report, &inherited);
    let capture_us = capture_started.elapsed().as_micros() as u64;
    intake.store_set_aside()?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let listing = intake.store_listing(&entries, inherited.listing)?;
    let keepers = intake.into_keepers();
    if doubts.have_grown(&session, options.now_ns, monitor)? {
        return Ok(None);
    }
    let healed_chunks = session.healed_chunks();
    let (source_id, verdict) = (source_ref.id, judge(&source_ref.kind, &entries, &report, &inherited));
    report.skipped.retain(|line| verdict.accepted.iter().all(|flag| flag.detail != *line));
    let draft = verdict.on(draft(&entries, listing, source_ref, parent, &report, options, started));
    monitor.phase("committing", None);
    let committed = session.commit(draft)?;
    let gaps = Gaps::of(&committed.record.flags);
    keepers.into_iter().filter(|(name, ..)| !gaps.covers(name)).for_each(|(_, keeper, root)| keeper.finish(&root));
    if gaps.is_empty() {
        repo.drop_features(source_id, entries.into_iter().map(|entry| entry.name));
    }
    let (skipped, left_out) = (std::mem::take(&mut report.skipped), report.left_out);
    remember_stamps(repo, source_id, committed.id, report, monitor);
    if healed_chunks > 0 {
        monitor.warn(&format!(
            "{healed_chunks} chunks were stored anew, as their stored copies are damaged or gone; `icecore repair` mends the rest"
        ));
    }
    let (id, record) = (committed.id, committed.record);
    Ok(Some(BackupReport { id, record, skipped, left_out, capture_us, unchanged_streams, healed_chunks }))
}

/// Puts what the tables of databases held into their entries.
fn record_contents(entries: &mut [StreamEntry], report: &mut CaptureReport, inherited: &Inherited) {
    for entry in entries {
        entry.tables.extend(report.contents.remove(&entry.name).unwrap_or_default());
        if let Some(old) = inherited.entries.get(&entry.name).filter(|old| entry.tables.is_empty() && old.root == entry.root) {
            // The same bytes hold the same rows.
            entry.tables.clone_from(&old.tables);
        }
    }
}

/// Stores streams as they come.
struct Intake<'a> {
    make: Sinks<'a>,
    writer: ChunkWriter<'a>,
    /// Takes the new chunks of page files while holding the capture open makes writers wait.
    spool: Option<Spool<SetAside>>,
    /// Of the longer streams so far, with their names and roots below.
    sinks: Vec<Sink<'a>>,
    roots: Vec<(Vec<u8>, StreamRoot)>,
    /// Whether reading the next stream may wait for long.
    may_wait: bool,
}

impl<'a> Intake<'a> {
    fn take(&mut self, stream: CapturedStream, inherited: &Inherited) -> Result<StreamEntry, Failure> {
        let Sinks { session, monitor, .. } = self.make;
        let len = if let Body::Pages(pages) = &stream.body { Some(pages.len_bytes()) } else { None };
        let base = inherited.base(&stream.name, len);
        let root = match stream.body {
            Body::None => StreamRoot { len: 0, levels: 0, top: None },
            Body::Unchanged => {
                let parent = inherited.entries.get(&stream.name).map(|entry| entry.root);
                let root = parent.ok_or_else(|| Error::bug("a stream is said to be unchanged, and the parent has none of its name"))?;
                monitor.advance(root.len);
                root
            }
            Body::Pages(pages) => {
                let chunk_len = page_chunk_len(session.repository().config().page_chunk_len, pages.page_size());
                let old = inherited.old_streams(&stream.name, base);
                let sink = self.make.make(&stream.name, Some(pages.len_bytes()), Content::Pages, &old, base.as_ref())?;
                let own = Spool::in_memory(SPOOL_MEMORY);
                let spool = self.spool.as_ref().unwrap_or(&own);
                let root = pages::Job { session, chunk_len, parent: base, monitor, sink: &sink, spool, sink_number: self.sinks.len() }
                    .store(&*pages)?;
                self.keep(&stream.name, sink, root);
                if self.spool.is_none() {
                    self.store_aside(&own)?;
                }
                root
            }
            Body::Bytes(bytes) => {
                let input = if self.may_wait { Input::Slow(bytes) } else { Input::Ready(Box::new(NoHoles(bytes))) };
                self.take_content(&stream.name, input, base, true, inherited)?
            }
            Body::Sparse { input, len } => {
                self.take_content(&stream.name, Input::Ready(input), base, len <= SPARSE_COMPARED_MAX, inherited)?
            }
        };
        Ok(StreamEntry { name: stream.name, kind: stream.kind, root, meta: stream.meta, tables: Vec::new() })
    }

    /// Stores a stream that is cut by its content; what has moved in it is looked for only if that is wanted.
    fn take_content(
        &mut self,
        name: &[u8],
        input: Input,
        base: Option<StreamRoot>,
        compared: bool,
        inherited: &Inherited,
    ) -> Result<StreamRoot, Failure> {
        let make = self.make;
        let old = inherited.old_streams(name, base);
        let features = base.filter(|_| compared).and_then(|root| make.session.repository().kept_features(make.source, name, &root));
        let make_sink = || if compared { make.make(name, None, Content::Rows, &old, None) } else { Ok(Sink::plain()) };
        let (root, sink) = by_content::store(make.session, &mut self.writer, input, base, features, make_sink, make.monitor)?;
        sink.into_iter().for_each(|sink| self.keep(name, sink, root));
        Ok(root)
    }

    fn keep(&mut self, name: &[u8], sink: Sink<'a>, root: StreamRoot) {
        self.sinks.push(sink);
        self.roots.push((name.to_vec(), root));
    }

    /// What keeps features, with the names and roots of their streams, for after the commit.
    fn into_keepers(self) -> Vec<(Vec<u8>, FeatureKeeper, StreamRoot)> {
        let kept = self.sinks.into_iter().zip(self.roots);
        kept.filter_map(|(sink, (name, root))| Some((name, sink.into_keeper()?, root))).collect()
    }

    /// Whether the chunks of page files are to be set aside from now on; if not, what was set aside before is stored now.
    fn set_aside(&mut self, wanted: bool) -> Result<()> {
        match (wanted, &self.spool) {
            (true, None) => self.spool = Some(Spool::new(self.make.session.repository().cache_dir(), SPOOL_MEMORY)?),
            (true, Some(_)) => {}
            (false, _) => self.store_set_aside()?,
        }
        Ok(())
    }

    fn store_set_aside(&mut self) -> Result<()> {
        self.spool.take().map_or(Ok(()), |spool| self.store_aside(&spool))
    }

    fn store_aside(&mut self, spool: &Spool<SetAside>) -> Result<()> {
        pages::store_set_aside(self.make.session, spool, &self.sinks, self.make.monitor)?;
        self.sinks.iter_mut().try_for_each(Sink::finish)
    }

    /// Stores the listing of these entries, which are sorted by name, and hands over everything that is still in this thread's segments.
    fn store_listing(&mut self, entries: &[StreamEntry], parent: Option<StreamRoot>) -> Result<StreamRoot> {
        let session = self.make.session;
        let cuts = ListingCuts::new(entries, session.repository().keys().chunking_seed());
        let silent = &crate::progress::Silent;
        let (root, _) = by_content::store_cuts(session, &mut self.writer, cuts, parent, None, || Ok(Sink::plain()), silent)
            .map_err(Failure::into_error)?;
        self.writer.flush()?;
        Ok(root)
    }
}

/// The identity of a source: its kind, then a name of the user's choice, or host and what the source says of itself.
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

/// What lists of snapshots show is bounded, and refused before anything is read.
fn refuse_long_texts(source: &SourceRef, options: &BackupOptions) -> Result<()> {
    let refused = |what: &str, len: usize, max: usize| {
        Error::InvalidArgument(format!("nothing was stored: a {what} of {len} bytes is too long, at most {max} are possible"))
    };
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

/// The identity of a source of this kind with a name of the user's choice. Sources of different kinds have nothing in common but the name.
pub fn named_source(kind: &SourceKind, name: &str) -> SourceId {
    source_id([kind.name().as_bytes(), b"named", name.as_bytes()].into_iter())
}

fn source_id<'p>(parts: impl Iterator<Item = &'p [u8]>) -> SourceId {
    let mut hasher = blake3::Hasher::new_derive_key("icecore 2026-11 format 1 source identity");
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    SourceId(*hasher.finalize().as_bytes())
}

fn draft(
    entries: &[StreamEntry],
    listing: StreamRoot,
    source: SourceRef,
    parent: Option<SnapshotId>,
    report: &CaptureReport,
    options: &BackupOptions,
    started: Instant,
) -> SnapshotRecord {
    let mut flags = Vec::new();
    if options.time_ns > options.now_ns.saturating_add(FUTURE_MAX_NS) {
        flags.push(Flag::new("future-time", "its time is more than a day ahead of the clock"));
    }
    let roots = (report.roots.len() > 1).then(|| (ROOTS_FACT.to_owned(), report.roots.len().to_string()));
    let has_bytes = |entry: &&StreamEntry| !matches!(entry.kind, EntryKind::Directory | EntryKind::Symlink(_) | EntryKind::HardLink(_));
    SnapshotRecord {
        time_ns: options.time_ns,
        duration_us: started.elapsed().as_micros() as u64,
        host: options.host.clone(),
        user: options.user.clone(),
        tool: format!("icecore {}", env!("CARGO_PKG_VERSION")),
        source,
        parent,
        tags: options.tags.clone(),
        flags,
        accepted: Vec::new(),
        listing,
        entries: entries.len() as u64,
        logical_bytes: entries.iter().filter(has_bytes).map(|entry| entry.root.len).sum(),
        packs: Vec::new(),
        stats: SnapshotStats::default(),
        written_ns: later(options.now_ns, started),
        facts: report.facts.iter().cloned().chain(roots).collect(),
    }
}

/// Says what programs that ended well have written to their standard error.
fn tell_messages(report: &CaptureReport, monitor: &dyn Monitor) {
    let programs = report.facts.iter().filter_map(|(name, text)| Some((name.strip_suffix("messages")?.trim_end_matches('_'), text)));
    for (program, text) in programs {
        let program = if program.is_empty() { "the command" } else { program };
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        for line in lines.iter().take(MESSAGES_MAX) {
            let line = line.strip_prefix(program).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(line);
            monitor.warn(&format!("{program}: {line}"));
        }
        if lines.len() > MESSAGES_MAX {
            monitor.warn(&format!("{program}: and {} lines more, which the snapshot has", lines.len() - MESSAGES_MAX));
        }
    }
}

/// Stamps only save work: that they cannot be kept is no failure of the backup. What the source has flagged is read again the next time, so that the flag
/// is not lost because nothing has changed.
fn remember_stamps(repo: &Repository, source: SourceId, id: SnapshotId, report: CaptureReport, monitor: &dyn Monitor) {
    let gaps = Gaps::of(&report.flags);
    let good = report.stamps.into_iter().filter(|(name, _)| !gaps.covers(name));
    let stamps: Vec<(Vec<u8>, Vec<u8>)> = good.map(|(name, stamp)| (name, stamp.0)).collect();
    if let Err(error) = repo.catalog().put_stamps(source, id, &stamps) {
        monitor.warn(&format!("the next backup will read everything: {error}"));
    }
}
