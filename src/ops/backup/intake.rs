//! Takes the streams of a capture one by one and stores each as it comes.
//!
//! For each stream this finds its base, chooses the way to store it (pages, by content, not at all), counts it for
//! the judgement, and sorts its entry into the new listing. The source is held open only as long as needed: while
//! that blocks writers, new chunks are set aside and stored after the capture.
//!
//! Guarantees: a stream that cannot be read is left to the capture to report; a failure of the repository ends the
//! backup. Memory does not grow with the number of streams.

use std::collections::HashMap;
use std::time::Instant;

use super::by_content::{self, Input};
use super::census::Census;
use super::collect::Failure;
use super::history::Inherited;
use super::moved::Content;
use super::pages::{self, SetAside};
use super::sink::{Sink, Sinks};
use super::sorted::{Sorted, Sorter};
use crate::engine::{self, Body, CaptureReport, CapturedStream, NamedRoot, Source, Stamp};
use crate::error::{Error, Result};
use crate::fs::sparse_read::NoHoles;
use crate::ops::number::micros;
use crate::progress::Monitor;
use crate::recorded::TableContent;
use crate::store::chunker::page_chunk_len;
use crate::store::format::snapshot::{SourceRef, StreamEntry, StreamRoot};
use crate::store::format::{Malformed, record};
use crate::store::repo::{BACKUP_LEN_MAX, ChunkWriter, FeatureKeeper, ListingCuts, Spool, WriteSession, too_much_text};

/// At most this many lines of a program's messages are shown.
const MESSAGES_MAX: usize = 20;
/// Bytes of set-aside chunks that are kept in memory; more go to a sealed file.
const SPOOL_MEMORY: usize = 4 << 20;
/// Sparse files up to this length, bytes, are searched for moved content. The features kept for that grow with the
/// length.
const SPARSE_COMPARED_MAX: u64 = 1 << 30;

/// A capture whose streams and listing are stored.
pub(super) struct Captured {
    /// The entries, encoded, by name.
    pub(super) entries: Sorted,
    /// The census of these entries.
    pub(super) census: Census,
    /// The stored listing of these entries.
    pub(super) listing: StreamRoot,
    /// The files and directories that were named, if the source consists of trees.
    pub(super) roots: Vec<NamedRoot>,
    /// What the capture reports at its end, without the stamps.
    pub(super) report: CaptureReport,
    /// The stamps of the files, by the names of their streams.
    pub(super) stamps: Sorted,
    /// The feature keepers, with the names and roots of their streams. They are finished after the commit.
    pub(super) keepers: Vec<(Vec<u8>, FeatureKeeper, StreamRoot)>,
    /// How long the source was held open, microseconds.
    pub(super) capture_us: u64,
    /// Streams that were not read.
    pub(super) unchanged_streams: usize,
}

/// Captures a source and stores what it gives.
///
/// # Errors
/// The errors of the source, and failures of the session.
pub(super) fn capture(
    session: &WriteSession,
    source: &dyn Source,
    source_ref: &SourceRef,
    inherited: &Inherited,
    monitor: &dyn Monitor,
) -> Result<Captured> {
    let known = inherited.known(session);
    let started = Instant::now();
    let mut capture = source.capture(&known, monitor)?;
    let roots = capture.roots();
    monitor.phase("reading", capture.total_bytes());
    if capture.total_bytes().is_some_and(|bytes| bytes > BACKUP_LEN_MAX) {
        monitor.warn(&format!("the source may be too large for one snapshot: {}", too_much_text()));
    }
    let make = Sinks { session, monitor, source: source_ref.id };
    let mut intake = Intake { make, writer: session.writer()?, spool: None, sinks: Vec::new(), roots: Vec::new(), may_wait: true };
    let mut census = Census::new(engine::of(&source_ref.kind).comparison(), &inherited.past, &roots);
    let dir = session.repository().cache_dir();
    let (mut entries, mut stamps) = (Sorter::new(dir), Sorter::new(dir));
    let mut unchanged_streams = 0;
    while let Some(stream) = capture.next_stream()? {
        // Take stamps away as they come: all of them might not fit into memory.
        put_stamps(&mut stamps, capture.take_stamps())?;
        unchanged_streams += usize::from(matches!(stream.body, Body::Unchanged));
        intake.set_aside(capture.blocks_writers())?;
        intake.may_wait = capture.may_wait();
        match intake.take(stream, inherited) {
            Ok(entry) => {
                census.add(&entry);
                let encoded = record::encode(&entry).map_err(of_listing)?;
                entries.put(entry.name, encoded)?;
            }
            // The capture decides whether it can go on without this stream.
            Err(Failure::Input(error)) => capture.unreadable(error)?,
            Err(Failure::Session(error)) => return Err(error),
        }
    }
    let mut report = capture.finish()?;
    tell_messages(&report, monitor);
    put_stamps(&mut stamps, std::mem::take(&mut report.stamps))?;
    let capture_us = micros(started.elapsed());
    // The source is closed now; storing what was set aside makes nobody wait.
    intake.store_set_aside()?;
    let (entries, stamps) = (entries.finish(), stamps.finish());
    let listing = intake.store_listing(&entries, &report, inherited.listing)?;
    let keepers = intake.into_keepers();
    Ok(Captured { entries, census, listing, roots, report, stamps, keepers, capture_us, unchanged_streams })
}

fn of_listing(malformed: Malformed) -> Error {
    malformed.of("the new listing")
}

fn put_stamps(sorter: &mut Sorter, stamps: HashMap<Vec<u8>, Stamp>) -> Result<()> {
    stamps.into_iter().try_for_each(|(name, stamp)| sorter.put(name, stamp.0))
}

/// Adds the contents of tables to an encoded entry. Some captures know them only at their end.
fn with_contents(encoded: Vec<u8>, tables: Option<&Vec<TableContent>>) -> Result<Vec<u8>> {
    let Some(tables) = tables.filter(|tables| !tables.is_empty()) else { return Ok(encoded) };
    let entry = record::decode::<StreamEntry>(&encoded).map_err(of_listing)?;
    record::encode(&StreamEntry { tables: tables.clone(), ..entry }).map_err(of_listing)
}

/// Stores streams as they come.
struct Intake<'a> {
    make: Sinks<'a>,
    writer: ChunkWriter<'a>,
    /// Takes new chunks of page files as long as the open capture blocks writers.
    spool: Option<Spool<SetAside>>,
    /// The sinks of the long streams so far; `roots` has their names and roots in the same order.
    sinks: Vec<Sink<'a>>,
    roots: Vec<(Vec<u8>, StreamRoot)>,
    /// Whether reading the next stream may block for long.
    may_wait: bool,
}

impl<'a> Intake<'a> {
    fn take(&mut self, stream: CapturedStream, inherited: &Inherited) -> Result<StreamEntry, Failure> {
        let Sinks { session, monitor, .. } = self.make;
        let len = if let Body::Pages(pages) = &stream.body { Some(pages.len_bytes()) } else { None };
        let old = inherited.entry(self.make.session.reader(), &stream.name)?;
        let base = inherited.base(&stream.name, old.as_ref().map(|old| old.root), len);
        let is_unchanged = matches!(stream.body, Body::Unchanged);
        let root = match stream.body {
            Body::None => StreamRoot { len: 0, levels: 0, top: None },
            // Not read. The parent's tree is taken over as a whole.
            Body::Unchanged => {
                let root = old
                    .as_ref()
                    .map(|old| old.root)
                    .ok_or_else(|| Error::bug("a stream is said to be unchanged, and the parent has none of its name"))?;
                monitor.advance(root.len);
                root
            }
            Body::Pages(pages) => {
                let chunk_len = page_chunk_len(session.repository().config().page_chunk_len, pages.page_size());
                let old = inherited.old_streams(&stream.name, base);
                let sink = self.make.make(&stream.name, Some(pages.len_bytes()), Content::Pages, &old, base.as_ref())?;
                // Nobody waits: set aside in memory only, and store at the end of this stream.
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
        let (mut meta, mut tables) = (stream.meta, Vec::new());
        if let Some(old) = old {
            if is_unchanged && meta.is_none() {
                meta = old.meta;
            }
            // Equal bytes hold equal rows, so the recorded contents are still right.
            if old.root == root {
                tables = old.tables;
            }
        }
        Ok(StreamEntry { name: stream.name, kind: stream.kind, root, meta, tables })
    }

    /// Stores a stream that is cut by its content. `compared` says whether moved content is looked for.
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

    /// The feature keepers with the names and roots of their streams, for after the commit.
    fn into_keepers(self) -> Vec<(Vec<u8>, FeatureKeeper, StreamRoot)> {
        let kept = self.sinks.into_iter().zip(self.roots);
        kept.filter_map(|(sink, (name, root))| Some((name, sink.into_keeper()?, root))).collect()
    }

    /// Says whether chunks of page files are set aside from now on. If not, those that were set aside are stored now.
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

    /// Stores the listing of these entries, and flushes the segments of this thread.
    fn store_listing(&mut self, entries: &Sorted, report: &CaptureReport, parent: Option<StreamRoot>) -> Result<StreamRoot> {
        let session = self.make.session;
        let entries = entries.iter()?.map(|item| {
            let (name, encoded) = item?;
            let encoded = with_contents(encoded, report.contents.get(&name))?;
            Ok((name, encoded))
        });
        let cuts = ListingCuts::new(entries, session.repository().keys().chunking_seed());
        let silent = &crate::progress::Silent;
        let (root, _) = by_content::store_cuts(session, &mut self.writer, cuts, parent, None, || Ok(Sink::plain()), silent)
            .map_err(Failure::into_error)?;
        self.writer.flush()?;
        Ok(root)
    }
}

/// Shows the standard error of programs that ended well.
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
            monitor.warn(&format!("{program}: and {} more lines; `icecore show` has all of them", lines.len() - MESSAGES_MAX));
        }
    }
}
