//! Backup: one capture becomes one snapshot.

mod collect;
mod content;
mod doubts;
mod landmarks;
mod moved;
mod once;
mod pages;
mod pool;
mod predict;
mod sink;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use self::collect::Failure;
use self::content::Input;
use self::doubts::Doubts;
use self::moved::Content;
use self::once::Once;
use self::pages::SetAside;
use self::sink::{Sink, Sinks};
use crate::chunker::{NoHoles, page_chunk_len};
use crate::error::{Error, Result};
use crate::format::snapshot::{EntryKind, Flag, SnapshotRecord, SnapshotStats, SourceKind, SourceRef, StreamEntry, StreamRoot};
use crate::format::{Malformed, record};
use crate::id::{SnapshotId, SourceId};
use crate::progress::Monitor;
use crate::repo::{
    BACKUP_LEN_MAX, ChunkWriter, FeatureKeeper, Repository, SessionOptions, Spool, WriteSession, later, too_much_text,
};
use crate::source::files::LeftOut;
use crate::source::postgres::streams::dumped_database;
use crate::source::{Body, CaptureReport, CapturedStream, Source, Stamp};

/// A snapshot whose recorded time is further than this ahead of the clock is flagged, nanoseconds.
const FUTURE_MAX_NS: i64 = 24 * 3600 * 1_000_000_000;

/// Streams of programs that had at least this many bytes are flagged if they lose more than half of them.
const SHRUNK_FROM: u64 = 64 << 10;
/// Bytes of chunks that are set aside in memory while writers wait.
const SPOOL_MEMORY: usize = 16 << 20;
/// How often a backup starts, at most: what is stored may turn out not to be what it was taken for.
const ATTEMPTS: usize = 4;
/// Files with holes are looked through for content that has moved up to this length, bytes: what is kept for that grows with the length.
const SPARSE_COMPARED_MAX: u64 = 1 << 30;
/// How many of the parent's streams a new one is compared with.
const OLD_STREAMS_MAX: usize = 4;

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
    /// Streams taken over without reading, by the rules of [`crate::source::sqlite`] and [`crate::source::files`].
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
    let parent = refreshed.snapshots.iter().rev().find(|(_, s)| s.source.id == source_ref.id && s.flags.is_empty());
    let mut session = WriteSession::begin(repo, &SessionOptions { parent: parent.map(|(id, _)| *id) })?;
    let is_careful = doubts.tell(&mut session, parent.map(|(_, record)| record))?;
    let mut inherited = Inherited::of(&session, parent, source_ref.id, monitor)?;
    inherited.have_read_again(is_careful, source.wants_content());
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
    for entry in &mut entries {
        entry.tables.extend(report.contents.remove(&entry.name).unwrap_or_default());
        if let Some(old) = inherited.entries.get(&entry.name).filter(|old| entry.tables.is_empty() && old.root == entry.root) {
            // The same bytes hold the same rows.
            entry.tables.clone_from(&old.tables);
        }
    }
    let capture_us = capture_started.elapsed().as_micros() as u64;
    intake.store_set_aside()?;
    let listing = intake.store_listing(&entries, inherited.listing)?;
    let keepers = intake.into_keepers();
    if doubts.have_grown(&session, options.now_ns, monitor)? {
        return Ok(None);
    }
    let healed_chunks = session.healed_chunks();
    let source_id = source_ref.id;
    let mut draft = draft(&entries, listing, source_ref, parent.map(|(id, _)| *id), &report, options, started);
    if matches!(draft.source.kind, SourceKind::Postgres | SourceKind::Command) {
        draft.flags.extend(shrunk(&entries, &inherited));
    }
    monitor.phase("committing", None);
    let committed = session.commit(draft)?;
    if committed.record.flags.is_empty() {
        keepers.into_iter().for_each(|(keeper, root)| keeper.finish(&root));
        repo.drop_features(source_id, entries.into_iter().map(|entry| entry.name));
    }
    remember_stamps(repo, &committed.record, committed.id, report.stamps, monitor);
    if healed_chunks > 0 {
        monitor.warn(&format!(
            "{healed_chunks} chunks were stored anew, as their stored copies are damaged or gone; `icecore repair` mends the rest"
        ));
    }
    let (id, record, skipped, left_out) = (committed.id, committed.record, report.skipped, report.left_out);
    Ok(Some(BackupReport { id, record, skipped, left_out, capture_us, unchanged_streams, healed_chunks }))
}

/// What the parent snapshot gives a new one.
struct Inherited {
    entries: HashMap<Vec<u8>, StreamEntry>,
    listing: Option<StreamRoot>,
    known: HashMap<Vec<u8>, Stamp>,
}

impl Inherited {
    fn of(session: &WriteSession, parent: Option<&(SnapshotId, SnapshotRecord)>, source: SourceId, monitor: &dyn Monitor) -> Result<Self> {
        let nothing = Inherited { entries: HashMap::new(), listing: None, known: HashMap::new() };
        let Some((id, record)) = parent else { return Ok(nothing) };
        let entries = match session.reader().listing(&record.listing) {
            Ok(entries) => entries,
            // A damaged parent must not stop a backup; nothing is inherited from it.
            Err(error) if error.is_damage() => {
                monitor.warn(&format!("the parent snapshot {} cannot be used: {error}", id.short()));
                return Ok(nothing);
            }
            Err(error) => return Err(error),
        };
        let known = match session.repository().on_catalog(|local| local.stamps(source))? {
            Some((of, stamps)) if of == *id => stamps.into_iter().map(|(name, stamp)| (name, Stamp(stamp))).collect(),
            _ => HashMap::new(),
        };
        let entries = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        Ok(Inherited { entries, listing: Some(record.listing), known })
    }

    /// Drops what is known of streams that are to be read although their files look the same: all of them, as what is not read cannot be stored
    /// anew, or those whose content is wanted and was not recorded.
    fn have_read_again(&mut self, all: bool, without_content: bool) {
        let entries = &self.entries;
        let lacks_content =
            |name: &Vec<u8>| entries.get(name).is_none_or(|entry| matches!(entry.kind, EntryKind::Sqlite(_)) && entry.tables.is_empty());
        self.known.retain(|name, _| !(all || without_content && lacks_content(name)));
    }
}

impl Inherited {
    /// Where moved content of a stream is looked for: in the parent's stream of the same name, or if there is none in the longest ones.
    fn old_streams(&self, name: &[u8]) -> Vec<(Vec<u8>, StreamRoot)> {
        if let Some(entry) = self.entries.get(name) {
            return vec![(entry.name.clone(), entry.root)];
        }
        let mut longest: Vec<&StreamEntry> = self.entries.values().collect();
        longest.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.root.len));
        longest.iter().take(OLD_STREAMS_MAX).map(|entry| (entry.name.clone(), entry.root)).collect()
    }
}

/// Stores streams as they come.
struct Intake<'a> {
    make: Sinks<'a>,
    writer: ChunkWriter<'a>,
    /// Takes the new chunks of page files while holding the capture open makes writers wait.
    spool: Option<Spool<SetAside>>,
    /// Of the longer streams so far, with their roots below.
    sinks: Vec<Sink<'a>>,
    roots: Vec<StreamRoot>,
    /// Whether reading the next stream may wait for long.
    may_wait: bool,
}

impl<'a> Intake<'a> {
    fn take(&mut self, stream: CapturedStream, inherited: &Inherited) -> Result<StreamEntry, Failure> {
        let Sinks { session, monitor, .. } = self.make;
        let parent = inherited.entries.get(&stream.name).map(|entry| entry.root);
        let root = match stream.body {
            Body::None => StreamRoot { len: 0, levels: 0, top: None },
            Body::Unchanged => {
                let root = parent.ok_or_else(|| Error::bug("a stream is said to be unchanged, and the parent has none of its name"))?;
                monitor.advance(root.len);
                root
            }
            Body::Pages(pages) => {
                let chunk_len = page_chunk_len(session.repository().config().page_chunk_len, pages.page_size());
                let old = inherited.old_streams(&stream.name);
                let sink = self.make.make(&stream.name, Some(pages.len_bytes()), Content::Pages, &old, parent.as_ref())?;
                let own = Spool::in_memory(SPOOL_MEMORY);
                let spool = self.spool.as_ref().unwrap_or(&own);
                let root =
                    pages::Job { session, chunk_len, parent, monitor, sink: &sink, spool, sink_number: self.sinks.len() }.store(&*pages)?;
                self.keep(sink, root);
                if self.spool.is_none() {
                    self.store_aside(&own)?;
                }
                root
            }
            Body::Bytes(bytes) => {
                let input = if self.may_wait { Input::Slow(bytes) } else { Input::Ready(Box::new(NoHoles(bytes))) };
                self.take_content(&stream.name, input, true, inherited)?
            }
            Body::Sparse { input, len } => self.take_content(&stream.name, Input::Ready(input), len <= SPARSE_COMPARED_MAX, inherited)?,
        };
        Ok(StreamEntry { name: stream.name, kind: stream.kind, root, meta: stream.meta, tables: Vec::new() })
    }

    /// Stores a stream that is cut by its content; what has moved in it is looked for only if that is wanted.
    fn take_content(
        &mut self,
        name: &[u8],
        input: Input,
        compared: bool,
        inherited: &Inherited,
    ) -> Result<StreamRoot, Failure> {
        let make = self.make;
        let parent = inherited.entries.get(name).map(|entry| entry.root);
        let old = inherited.old_streams(name);
        let features = parent.filter(|_| compared).and_then(|root| make.session.repository().kept_features(make.source, name, &root));
        let make_sink = || if compared { make.make(name, None, Content::Rows, &old, None) } else { Ok(Sink::plain()) };
        let (root, sink) = content::store(make.session, &mut self.writer, input, parent, features, make_sink, make.monitor)?;
        sink.into_iter().for_each(|sink| self.keep(sink, root));
        Ok(root)
    }

    fn keep(&mut self, sink: Sink<'a>, root: StreamRoot) {
        self.sinks.push(sink);
        self.roots.push(root);
    }

    /// What keeps features, with the roots of their streams, for after the commit.
    fn into_keepers(self) -> Vec<(FeatureKeeper, StreamRoot)> {
        let kept = self.sinks.into_iter().zip(self.roots);
        kept.filter_map(|(sink, root)| Some((sink.into_keeper()?, root))).collect()
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

    /// Stores the listing and hands over everything that is still in this thread's segments.
    fn store_listing(&mut self, entries: &[StreamEntry], parent: Option<StreamRoot>) -> Result<StreamRoot> {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend_from_slice(&record::encode(entry).map_err(|m: Malformed| m.of("the new listing"))?);
        }
        let input = Input::Ready(Box::new(NoHoles(std::io::Cursor::new(bytes))));
        let silent = &crate::progress::Silent;
        let (root, _) = content::store(self.make.session, &mut self.writer, input, parent, None, || Ok(Sink::plain()), silent)
            .map_err(Failure::into_error)?;
        self.writer.flush()?;
        Ok(root)
    }
}

/// The identity of a source: a name of the user's choice, or kind, host and what the source says of itself.
pub fn source_of(source: &dyn Source, options: &BackupOptions) -> SourceRef {
    let description = source.identity();
    let mut hasher = blake3::Hasher::new_derive_key("icecore 2026-11 format 1 source identity");
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    match &options.source {
        Some(name) => part(name.as_bytes()),
        None => {
            part(description.kind.word().as_bytes());
            // A server's databases are the same from whatever machine they are dumped.
            if description.kind != SourceKind::Postgres {
                part(options.host.as_bytes());
            }
            description.parts.iter().for_each(|bytes| part(bytes));
        }
    }
    let label = options.source.clone().unwrap_or(description.label);
    SourceRef { id: SourceId(*hasher.finalize().as_bytes()), kind: description.kind, label }
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
    let mut flags = report.flags.clone();
    if options.time_ns > options.now_ns.saturating_add(FUTURE_MAX_NS) {
        flags.push(Flag { code: "future-time".into(), detail: "its time is more than a day ahead of the clock".into() });
    }
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
        listing,
        entries: entries.len() as u64,
        logical_bytes: entries.iter().filter(has_bytes).map(|entry| entry.root.len).sum(),
        packs: Vec::new(),
        stats: SnapshotStats::default(),
        written_ns: later(options.now_ns, started),
        facts: report.facts.clone(),
    }
}

/// The output of a program that is much smaller than the last good one may be cut short, whatever the program says.
fn shrunk(entries: &[StreamEntry], inherited: &Inherited) -> Vec<Flag> {
    let now = sizes(entries.iter());
    let lost = sizes(inherited.entries.values()).into_iter().filter(|(_, before)| *before >= SHRUNK_FROM).filter_map(|(name, before)| {
        let len = now.get(name).copied().unwrap_or(0);
        let name = String::from_utf8_lossy(name);
        (len < before / 2)
            .then(|| format!("{name} has {len} bytes, after {before} in the parent; if that is right: icecore mark SNAP accept"))
    });
    lost.map(|detail| Flag { code: "shrunk".into(), detail }).collect()
}

/// Bytes by stream. The files of a dump count as one, and as the same whether it is an archive or a directory: one table may well be emptied.
fn sizes<'e>(entries: impl Iterator<Item = &'e StreamEntry>) -> BTreeMap<&'e [u8], u64> {
    let mut sizes = BTreeMap::new();
    for entry in entries {
        *sizes.entry(dumped_database(&entry.name).unwrap_or(&entry.name)).or_default() += entry.root.len;
    }
    sizes
}

/// Stamps only save work: that they cannot be kept is no failure of the backup. Those of a flagged snapshot are of no use, as it will be no parent.
fn remember_stamps(repo: &Repository, record: &SnapshotRecord, id: SnapshotId, stamps: HashMap<Vec<u8>, Stamp>, monitor: &dyn Monitor) {
    if !record.flags.is_empty() {
        return;
    }
    let stamps: Vec<(Vec<u8>, Vec<u8>)> = stamps.into_iter().map(|(name, stamp)| (name, stamp.0)).collect();
    if let Err(error) = repo.catalog().put_stamps(record.source.id, id, &stamps) {
        monitor.warn(&format!("the next backup will read everything: {error}"));
    }
}
