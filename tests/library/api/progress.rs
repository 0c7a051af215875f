//! Progress goes on to the end: what is read and stored later counts when it is stored, and its sum is what was announced.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use icecore::Error;
use icecore::engine::{Body, Capture, CaptureReport, CapturedStream, Known, PageRead, Source, SourceDescription};
use icecore::ops::backup::{BackupOptions, backup};
use icecore::ops::check::{CheckOptions, check};
use icecore::progress::Monitor;
use icecore::recorded::{EntryKind, SourceKind};

use super::support::{Bed, back_up, make_database};

const PAGE: usize = 4096;
const LEN: u64 = 4 << 20;

/// Hears how many bytes each phase announces and gets, and how many come once the source has been read whole.
#[derive(Default)]
struct Heard {
    read: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: &'static str,
    announced: BTreeMap<&'static str, Option<u64>>,
    done: BTreeMap<&'static str, u64>,
    after_reading: u64,
}

impl Monitor for Heard {
    fn phase(&self, name: &'static str, total_bytes: Option<u64>) {
        let mut state = self.state.lock().unwrap();
        state.phase = name;
        state.announced.insert(name, total_bytes);
    }

    fn advance(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap();
        let phase = state.phase;
        *state.done.entry(phase).or_default() += bytes;
        if self.read.load(Ordering::SeqCst) >= LEN {
            state.after_reading += bytes;
        }
    }

    fn warn(&self, _message: &str) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// One database of random pages. Of each further version a few bytes of every page differ.
struct Pages {
    version: u8,
    blocks: bool,
    read: Arc<AtomicU64>,
}

impl PageRead for Pages {
    fn len_bytes(&self) -> u64 {
        LEN
    }

    fn page_size(&self) -> u32 {
        PAGE as u32
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> icecore::Result<()> {
        for (number, page) in (offset / PAGE as u64..).zip(buffer.chunks_mut(PAGE)) {
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(page);
            page[..16].fill(self.version);
        }
        self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}

impl Source for Pages {
    fn identity(&self) -> SourceDescription {
        SourceDescription { kind: SourceKind::FILES, parts: vec![b"pages".to_vec()], label: "pages".into() }
    }

    fn capture<'a>(&'a self, _: &'a dyn Known, _: &'a dyn Monitor) -> icecore::Result<Box<dyn Capture + 'a>> {
        Ok(Box::new(Reading(Some(self), self.blocks)))
    }
}

struct Reading<'a>(Option<&'a Pages>, bool);

impl Capture for Reading<'_> {
    fn total_bytes(&self) -> Option<u64> {
        Some(LEN)
    }

    fn next_stream(&mut self) -> icecore::Result<Option<CapturedStream>> {
        let Some(pages) = self.0.take() else { return Ok(None) };
        let body = Body::Pages(Arc::new(Pages { read: Arc::clone(&pages.read), ..*pages }));
        Ok(Some(CapturedStream { name: b"db".to_vec(), kind: EntryKind::File, meta: None, body }))
    }

    fn unreadable(&mut self, error: Error) -> icecore::Result<()> {
        Err(error)
    }

    fn blocks_writers(&self) -> bool {
        self.1
    }

    fn finish(self: Box<Self>) -> icecore::Result<CaptureReport> {
        Ok(CaptureReport::default())
    }
}

/// Backs up a version; gives how many bytes of progress came after all of it was read.
fn late(bed: &Bed, version: u8, blocks: bool) -> u64 {
    let heard = Heard::default();
    let source = Pages { version, blocks, read: Arc::clone(&heard.read) };
    let time_ns = i64::from(version);
    let options = BackupOptions { time_ns, now_ns: time_ns, host: "test".into(), ..BackupOptions::default() };
    backup(&bed.open(), &source, &options, &heard).unwrap();
    assert_eq!(heard.read.load(Ordering::SeqCst), LEN, "read once");
    let state = heard.state.into_inner().unwrap();
    assert_eq!((state.announced["reading"], state.done["reading"]), (Some(LEN), LEN), "{:?}", state.done);
    state.after_reading
}

#[test]
fn a_database_whose_writers_wait_is_stored_after_it_was_read() {
    let bed = Bed::new(false);
    let after = late(&bed, 1, true);
    assert!(after >= LEN / 2, "half of each chunk counts when it is stored: {after}");
}

#[test]
fn changed_pages_are_stored_after_all_was_read() {
    let bed = Bed::new(false);
    late(&bed, 1, false);
    let after = late(&bed, 2, false);
    assert!(after >= LEN / 2, "half of each chunk counts when it is stored: {after}");
}

#[test]
fn a_check_counts_decoding_too() {
    let bed = Bed::new(false);
    let path = bed.path("db.sqlite");
    make_database(&path, 2000);
    let repo = bed.open();
    back_up(&repo, &path, 1);
    let heard = Heard::default();
    assert!(!check(&repo, &CheckOptions::read_all(), &heard).unwrap().is_damaged());
    let state = heard.state.into_inner().unwrap();
    assert_eq!(state.announced["reading packs"], Some(state.done["reading packs"]), "{:?}", state.done);
}
