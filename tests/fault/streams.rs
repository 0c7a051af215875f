//! Long streams, stored by several threads and written by two: a call that fails, a wish to stop and a source that stalls.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use icecore::Error;
use icecore::engine::{Body, Capture, CaptureReport, CapturedStream, Known, PageRead, Source, SourceDescription};
use icecore::id::SnapshotId;
use icecore::ops::backup::{BackupOptions, backup};
use icecore::ops::restore::dump;
use icecore::progress::Monitor;
use icecore::recorded::{EntryKind, SourceKind};
use icecore::store::backend::ObjectKey;
use icecore::store::repo::Repository;

use crate::faults::{assert_names, fates};
use crate::hook::{Call, Fate, Hooked};
use crate::memory::{Memory, Objects};
use crate::proof::{self, FAULTS};
use crate::world::{Random, World, check_clean, in_parallel, seed};

/// Far longer than a backup here takes.
const LIMIT: Duration = Duration::from_secs(300);
const BLOCK: usize = 64 << 10;
/// Several packs.
const LONG: u64 = 28 << 20;
/// How much may still be read after a failure: what waits in queues and what the threads have in hand.
const ON_THE_WAY: u64 = 24 << 20;

/// Bytes that do not compress.
fn block(number: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    blake3::Hasher::new().update(&number.to_le_bytes()).update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What the stream does.
struct Flow {
    pages: bool,
    seed: u64,
    len: u64,
    /// Where reading waits until the other side is dropped.
    stall: Mutex<Option<(u64, Receiver<()>)>>,
    read: Arc<AtomicU64>,
    cancelled: Arc<AtomicBool>,
    /// Whether the user asks to stop when reading begins to wait.
    cancels: bool,
}

impl Flow {
    fn new(pages: bool, seed: u64, len: u64) -> Self {
        Flow { pages, seed, len, stall: Mutex::default(), read: Arc::default(), cancelled: Arc::default(), cancels: false }
    }

    fn stalling(at: u64, cancels: bool) -> (Self, Sender<()>) {
        let (end, wait) = channel();
        (Flow { stall: Mutex::new(Some((at, wait))), cancels, ..Flow::new(false, 1, LONG) }, end)
    }

    fn whole(&self) -> Vec<u8> {
        (0..self.len / BLOCK as u64).flat_map(|number| block(number, self.seed)).collect()
    }
}

struct FlowBody {
    seed: u64,
    len: u64,
    at: u64,
    block: Vec<u8>,
    stall: Option<(u64, Receiver<()>)>,
    read: Arc<AtomicU64>,
    cancels: Option<Arc<AtomicBool>>,
}

impl Read for FlowBody {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.stall.as_ref().is_some_and(|(at, _)| *at <= self.at) {
            if let Some(cancelled) = &self.cancels {
                cancelled.store(true, Ordering::SeqCst);
            }
            let _ = self.stall.take().unwrap().1.recv();
            return Ok(0);
        }
        if self.at >= self.len {
            return Ok(0);
        }
        let (number, inside) = (self.at / BLOCK as u64, (self.at % BLOCK as u64) as usize);
        if inside == 0 {
            self.block = block(number, self.seed);
        }
        let got = (&self.block[inside..]).read(buffer)?;
        self.at += got as u64;
        self.read.fetch_add(got as u64, Ordering::SeqCst);
        Ok(got)
    }
}

struct FlowPages {
    seed: u64,
    len: u64,
    read: Arc<AtomicU64>,
}

impl PageRead for FlowPages {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn page_size(&self) -> u32 {
        4096
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> icecore::Result<()> {
        for (number, part) in (offset / BLOCK as u64..).zip(buffer.chunks_mut(BLOCK)) {
            part.copy_from_slice(&block(number, self.seed)[..part.len()]);
        }
        self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        Ok(())
    }
}

impl Source for Flow {
    fn identity(&self) -> SourceDescription {
        SourceDescription { kind: SourceKind::FILES, parts: vec![b"flow".to_vec()], label: "flow".into() }
    }

    fn capture<'a>(&'a self, _: &'a dyn Known, _: &'a dyn Monitor) -> icecore::Result<Box<dyn Capture + 'a>> {
        Ok(Box::new(Flowing(Some(self))))
    }
}

struct Flowing<'a>(Option<&'a Flow>);

impl Capture for Flowing<'_> {
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn next_stream(&mut self) -> icecore::Result<Option<CapturedStream>> {
        let Some(flow) = self.0.take() else { return Ok(None) };
        let (seed, len, read) = (flow.seed, flow.len, flow.read.clone());
        let body = match flow.pages {
            true => Body::Pages(Arc::new(FlowPages { seed, len, read })),
            false => {
                let (stall, cancels) = (flow.stall.lock().unwrap().take(), flow.cancels.then(|| flow.cancelled.clone()));
                Body::Bytes(Box::new(FlowBody { seed, len, at: 0, block: Vec::new(), stall, read, cancels }))
            }
        };
        Ok(Some(CapturedStream { name: b"flow".to_vec(), kind: EntryKind::File, meta: None, body }))
    }

    fn unreadable(&mut self, error: Error) -> icecore::Result<()> {
        Err(error)
    }

    fn blocks_writers(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> icecore::Result<CaptureReport> {
        Ok(CaptureReport::default())
    }
}

struct Asked(Arc<AtomicBool>);

impl Monitor for Asked {
    fn phase(&self, _: &'static str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn warn(&self, _: &str) {}
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

fn run(repo: &Repository, flow: &Flow, time: i64) -> icecore::Result<SnapshotId> {
    let options = BackupOptions { time_ns: time, now_ns: time, host: "test".into(), ..BackupOptions::default() };
    backup(repo, flow, &options, &Asked(flow.cancelled.clone())).map(|report| report.id)
}

/// Runs it in a thread of its own: one that does not come back is a failure, not a test without end.
fn within_limit(repo: Repository, flow: Flow) -> Error {
    let (sender, done) = channel();
    std::thread::spawn(move || sender.send(run(&repo, &flow, 10)));
    done.recv_timeout(LIMIT).expect("it does not come back").expect_err("it cannot have succeeded")
}

/// A repository in which every pack fails except those let through, and how much had been read when the first one failed.
fn failing(
    objects: &Objects,
    world: &World,
    pass: usize,
    only_one: bool,
    threads: usize,
    read: &Arc<AtomicU64>,
) -> (Repository, Arc<AtomicU64>) {
    let (packs, at) = (AtomicUsize::new(0), Arc::new(AtomicU64::new(u64::MAX)));
    let (failed_at, read) = (at.clone(), read.clone());
    let hooked = Hooked::new(Memory::new(objects.clone()), move |_, call| match call {
        Call::Write(ObjectKey::Pack(_)) => {
            let number = packs.fetch_add(1, Ordering::SeqCst);
            if number == pass || number > pass && !only_one {
                failed_at.fetch_min(read.load(Ordering::SeqCst), Ordering::SeqCst);
                return Fate::Fail(ErrorKind::StorageFull);
            }
            Fate::Proceed
        }
        _ => Fate::Proceed,
    });
    (crate::support::open_backend(Arc::new(hooked), world.path("cache"), threads).unwrap(), at)
}

fn empty(encrypted: bool) -> (World, Objects) {
    let world = World::new(encrypted);
    let objects = Memory::load(&*world.local());
    (world, objects)
}

/// Of two threads that write packs one fails, and the other would go on to the end.
#[test]
fn a_failed_writer_is_noticed_at_once() {
    for (pages, threads, pass, only_one) in
        [(false, 1, 0, true), (false, 2, 0, true), (false, 4, 2, true), (false, 4, 1, false), (true, 2, 0, true), (true, 4, 2, false)]
    {
        let (world, objects) = empty(true);
        let flow = Flow::new(pages, 1, 160 << 20);
        let read = flow.read.clone();
        let (repo, failed_at) = failing(&objects, &world, pass, only_one, threads, &read);
        let error = within_limit(repo, flow);
        assert!(error.to_string().contains("no storage space"), "{error}");
        let (at, end) = (failed_at.load(Ordering::SeqCst), read.load(Ordering::SeqCst));
        assert!(end - at < ON_THE_WAY, "{threads} threads, pages {pages}: failed at {at}, read {end}");
    }
}

/// The source has nothing to say when the disk is full, or when the user wants to stop.
#[test]
fn a_stalled_source_holds_nothing_up() {
    for threads in [1, 4] {
        for at in [0, 1 << 20, 26 << 20] {
            let (world, objects) = empty(false);
            let (flow, _end) = Flow::stalling(at, true);
            let repo = crate::support::open_backend(Memory::new(objects.clone()), world.path("cache"), threads).unwrap();
            let error = within_limit(repo, flow);
            assert!(matches!(error, Error::Cancelled), "{error}");
        }
        let (world, objects) = empty(false);
        let (flow, _end) = Flow::stalling(26 << 20, false);
        let read = flow.read.clone();
        let (repo, _) = failing(&objects, &world, 0, true, threads, &read);
        let error = within_limit(repo, flow);
        assert!(error.to_string().contains("no storage space"), "{error}");
    }
}

fn stored(repo: &Repository) -> Vec<Vec<u8>> {
    let dumped = |(_, record): &(SnapshotId, icecore::store::format::snapshot::SnapshotRecord)| {
        let mut bytes = Vec::new();
        dump(repo, record, b"flow", &mut bytes, &icecore::progress::Silent).unwrap();
        bytes
    };
    repo.refresh().unwrap().snapshots.iter().map(dumped).collect()
}

/// Some call fails or lies while four threads store a stream of several packs and two write: what is listed is whole, and the next backup works.
#[test]
fn a_call_fails_among_several_threads() {
    let mut random = Random(seed());
    for pages in [false, true] {
        let (world, objects) = empty(true);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let noted = calls.clone();
        let hooked = Hooked::new(Memory::new(objects.clone()), move |_, call| {
            noted.lock().unwrap().push(call);
            Fate::Proceed
        });
        let quiet = crate::support::open_backend(Arc::new(hooked), world.path("quiet"), 4).unwrap();
        run(&quiet, &Flow::new(pages, 1, LONG), 10).unwrap();
        let calls = calls.lock().unwrap().clone();
        // Calls that several threads make come in another order each time: what fails is found by its number, whatever it is then.
        let all: Vec<(usize, Fate)> =
            calls.iter().enumerate().flat_map(|(number, call)| fates(*call).into_iter().map(move |fate| (number, fate))).collect();
        let cases = proof::some_of((0..24).map(|_| all[random.below(all.len())]).collect(), 3, seed() ^ u64::from(pages));
        in_parallel(&cases, |&(number, fate)| {
            let here = world.copy();
            let memory = Memory::new(objects.clone());
            let met = Arc::new(Mutex::new(None));
            let met_here = met.clone();
            let hooked = Hooked::new(memory.clone(), move |at, call| {
                let is_it = at == number;
                if is_it {
                    *met_here.lock().unwrap() = Some(call);
                }
                if is_it { fate } else { Fate::Proceed }
            });
            let flow = Flow::new(pages, 1, LONG);
            let result = crate::support::open_backend(Arc::new(hooked), here.path("cache"), 4).and_then(|repo| run(&repo, &flow, 10));
            let repo = crate::support::open_backend(memory, here.path("cache"), 4).unwrap();
            let listed = stored(&repo);
            match &result {
                Ok(_) => assert!(listed == [flow.whole()]),
                Err(error) => {
                    assert_names(error, met.lock().unwrap().expect("it failed before"), fate);
                    // A record whose answer was lost may be there.
                    assert!(listed.is_empty() || listed == [flow.whole()]);
                }
            }
            let next = Flow::new(pages, 2, 4 << 20);
            run(&repo, &next, 20).unwrap();
            assert!(stored(&repo).contains(&next.whole()));
            check_clean(&repo);
        });
        proof::count(if pages { "page files, several threads" } else { "streams, several threads" }, &[(FAULTS, cases.len())]);
    }
}
