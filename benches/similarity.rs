//! What similarity deltas of moved content cost: a store before and after a VACUUM, and a text dump with moved blocks. Each chunk that is
//! not in the old stream is stored whole, against the same place of the old stream, and against slices that similarity chose; the
//! measure is the whole old stream as one window (`zstd --patch-from`). *Rows* are what the slices take in a pack's trailer.
//!
//! `cargo bench --bench similarity -- [--quick] [--dump] [--old FILE --new FILE] [--dir DIR]`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use std::collections::HashSet;
use std::convert::Infallible;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use common::Result;
use common::args::Args;
use common::prose::Prose;
use common::rng::{Rng, mix};
use common::store::{Store, StoreSpec};
use icecore::store::chunker::content_chunks;
use icecore::store::codec::similarity::matching::{Batch, Matcher, Matches};
use icecore::store::codec::similarity::slices::{Limits, OldChunk, Slice, choose};
use icecore::store::codec::similarity::{Features, PIECE_LEN, Sampler};
use icecore::store::codec::{Decoder, Encoder};
use zstd::zstd_safe::{CCtx, CParameter};

/// Steps before the VACUUM.
const STEPS: u32 = 20;
/// Bytes of the dump.
const DUMP_BYTES: usize = 20_000_000;
/// Of 100 blocks of 100 lines, how many move.
const MOVED_PERCENT: u64 = 30;

fn main() -> Result<()> {
    let Some(args) = Args::read(&["--quick", "--dump", "--old", "--new", "--dir"])? else { return Ok(()) };
    if let (Some(old), Some(new)) = (args.value("--old"), args.value("--new")) {
        let (old, new) = (std::fs::read(old)?, std::fs::read(new)?);
        return [64 << 10, 32 << 10].into_iter().try_for_each(|len| Corpus::pages(&old, &new, len).report("files"));
    }
    if !args.flag("--dump") {
        let spec = if args.flag("--quick") { StoreSpec::quick() } else { StoreSpec { vacuum_steps: Vec::new(), ..StoreSpec::default() } };
        let dir = tempfile::tempdir_in(args.value("--dir").unwrap_or(env!("CARGO_TARGET_TMPDIR")))?;
        let (old, new) = vacuum(&dir.path().join("store.db"), spec)?;
        for chunk_len in [64 << 10, 32 << 10] {
            Corpus::pages(&old, &new, chunk_len).report("VACUUM")?;
        }
    }
    let (old, new) = dumps();
    [64 << 10, 32 << 10].into_iter().try_for_each(|len| Corpus::dump(&old, &new, len)?.report("dump, 30 % of blocks moved"))
}

/// The file before and after.
fn vacuum(path: &Path, spec: StoreSpec) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut store = Store::create(path, spec)?;
    (1..=STEPS).try_for_each(|n| store.step(n))?;
    let old = std::fs::read(path)?;
    store.vacuum()?;
    Ok((old, std::fs::read(path)?))
}

/// Lines as of `COPY`, and the same with blocks of them elsewhere.
fn dumps() -> (Vec<u8>, Vec<u8>) {
    let prose = Prose::new(1);
    let mut rng = Rng::new(1, "dump");
    let mut blocks = Vec::new();
    let mut bytes = 0;
    while bytes < DUMP_BYTES {
        let mut block = String::new();
        for line in 0..100 {
            let id = blocks.len() * 100 + line;
            let text = prose.text(&mut rng, (id as u64 / 20) << 32, 200).replace('\n', "\\n");
            let time = 1_700_000_000 + id * 180;
            block += &format!("{id}\t{:016x}\t{time}\t{}\t{}\t{text}\n", rng.next(), prose.word(&mut rng), rng.below(1000));
        }
        bytes += block.len();
        blocks.push(block);
    }
    let old = blocks.concat().into_bytes();
    let (mut moved, mut order): (Vec<&String>, Vec<&String>) = blocks.iter().partition(|_| rng.percent(MOVED_PERCENT));
    while let Some(block) = moved.pop() {
        order.insert(rng.below(order.len() as u64) as usize, block);
    }
    (old, order.into_iter().flat_map(|block| block.bytes()).collect())
}

/// Two streams and their chunks.
struct Corpus<'a> {
    old: &'a [u8],
    new: &'a [u8],
    chunk_len: usize,
    old_chunks: Vec<Range<usize>>,
    /// Those of the new stream that the old one does not have.
    fresh: Vec<Range<usize>>,
}

impl<'a> Corpus<'a> {
    fn new(old: &'a [u8], new: &'a [u8], chunk_len: usize, old_chunks: Vec<Range<usize>>, new_chunks: Vec<Range<usize>>) -> Self {
        let known: HashSet<&[u8]> = old_chunks.iter().map(|range| &old[range.clone()]).collect();
        let fresh = new_chunks.into_iter().filter(|range| !known.contains(&new[range.clone()])).collect();
        Corpus { old, new, chunk_len, fresh, old_chunks }
    }

    fn pages(old: &'a [u8], new: &'a [u8], chunk_len: usize) -> Self {
        let cut = |bytes: &[u8]| (0..bytes.len()).step_by(chunk_len).map(|at| at..(at + chunk_len).min(bytes.len())).collect();
        Self::new(old, new, chunk_len, cut(old), cut(new))
    }

    fn dump(old: &'a [u8], new: &'a [u8], chunk_len: usize) -> Result<Self> {
        let cut = |bytes: &[u8]| -> Result<Vec<Range<usize>>> {
            let mut chunks: Vec<Range<usize>> = Vec::new();
            for chunk in content_chunks(bytes, u32::try_from(chunk_len)?, 1) {
                let start = chunks.last().map_or(0, |last| last.end);
                chunks.push(start..start + chunk?.len());
            }
            Ok(chunks)
        };
        Ok(Self::new(old, new, chunk_len, cut(old)?, cut(new)?))
    }

    fn report(&self, name: &str) -> Result<()> {
        println!("\n{name}: {} bytes, {} KiB chunks, {} of them new", self.new.len(), self.chunk_len >> 10, self.fresh.len());
        let matches = self.matches();
        let window = window(self.old, self.new)?;
        println!(
            "{:<28} {:>9} {:>7} {:>6} {:>12} {:>12} {:>10} {:>6}",
            "", "bytes", "rows", "ratio", "slices, p99", "bases, p99", "prefix KiB", "MB/s"
        );
        println!("{:<28} {window:>9}", "old stream as one window");
        self.row("whole", window, |_, _| Vec::new())?;
        self.row("same place", window, |_, new| {
            let (start, end) = (new.start.min(self.old.len()) as u64, new.end.min(self.old.len()) as u64);
            if start == end { Vec::new() } else { vec![Slice { chunk: start..end, range: start..end }] }
        })?;
        let all = Limits::default();
        let variants = [
            ("similar", all, 1),
            ("similar, 16 bases", Limits { bases: 16, ..all }, 1),
            ("similar, 8 bases", Limits { bases: 8, ..all }, 1),
            ("similar, prefix 256 KiB", Limits { prefix_len: 256 << 10, ..all }, 1),
            ("similar, prefix 128 KiB", Limits { prefix_len: 128 << 10, ..all }, 1),
            ("similar, bases of work 1-30", all, 30),
        ];
        for (name, limits, work) in variants {
            self.row(name, window, |number, _| self.choose(&matches, number, limits, work))?;
        }
        Ok(())
    }

    fn matches(&self) -> Matches {
        let megabytes = |bytes: usize, since: Instant| bytes as f64 / 1e6 / since.elapsed().as_secs_f64();
        let sampler = Sampler::new(1);
        let start = Instant::now();
        let features: Vec<Features> = self.old.chunks(PIECE_LEN).map(|piece| sampler.features(piece)).collect();
        print!("features of the old stream {:.0} MB/s", megabytes(self.old.len(), start));
        let start = Instant::now();
        let mut batch = Batch::new();
        for range in &self.fresh {
            batch.add(&sampler, &self.new[range.clone()]).expect("these streams fit a batch");
        }
        print!(", anchors of the new {:.0}", megabytes(self.new.len(), start));
        let start = Instant::now();
        let mut matcher = Matcher::new(batch);
        matcher.pass(features);
        let matches = matcher.finish();
        println!(", matching {:.0} (of the old stream)", megabytes(self.old.len(), start));
        matches
    }

    fn choose(&self, matches: &Matches, number: usize, limits: Limits, work_max: u32) -> Vec<Slice> {
        let chunk_at = |at: u64| -> std::result::Result<Option<OldChunk>, Infallible> {
            let chunk = self.old_chunks.get(self.old_chunks.partition_point(|chunk| chunk.end as u64 <= at));
            let work = |chunk: &Range<usize>| 1 + (mix(chunk.start as u64) % u64::from(work_max)) as u32;
            Ok(chunk.map(|chunk| OldChunk { range: chunk.start as u64..chunk.end as u64, work: work(chunk) }))
        };
        let Ok(slices) = choose(&matches.of(number as u32), limits, chunk_at);
        slices
    }

    /// Encodes all new chunks, each against what `slices` says, decodes them again, and prints what came out.
    fn row(&self, name: &str, window: usize, slices: impl Fn(usize, &Range<usize>) -> Vec<Slice>) -> Result<()> {
        let (mut encoder, mut decoder) = (Encoder::new()?, Decoder::new()?);
        let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
        let (mut bytes, mut rows, mut prefixes, mut seconds) = (0, 0, 0, 0.0);
        let (mut counts, mut bases) = (Vec::new(), Vec::new());
        for (number, range) in self.fresh.iter().enumerate() {
            let plain = &self.new[range.clone()];
            let start = Instant::now();
            let slices = slices(number, range);
            let parts: Vec<&[u8]> = slices.iter().map(|slice| &self.old[slice.range.start as usize..slice.range.end as usize]).collect();
            let prefix = parts.concat();
            encoder.encode(plain, &prefix, &mut encoded)?;
            seconds += start.elapsed().as_secs_f64();
            decoder.decode(&encoded, &prefix, u32::try_from(plain.len())?, &mut decoded)?;
            assert!(decoded == plain, "a delta gives other bytes");
            bytes += encoded.len();
            prefixes += prefix.len();
            rows += slices.iter().map(row_len).sum::<usize>();
            counts.push(slices.len());
            bases.push(slices.iter().map(|slice| slice.chunk.start).collect::<HashSet<_>>().len());
        }
        let ratio = (bytes + rows) as f64 / window as f64;
        let (counts, bases) = (mean_and_p99(&mut counts), mean_and_p99(&mut bases));
        let plain: usize = self.fresh.iter().map(ExactSizeIterator::len).sum();
        let (prefix, speed) = ((prefixes / self.fresh.len().max(1)) >> 10, plain as f64 / 1e6 / seconds);
        println!("{name:<28} {bytes:>9} {rows:>7} {ratio:>6.2} {counts:>12} {bases:>12} {prefix:>10} {speed:>6.0}");
        Ok(())
    }
}

/// Bytes of a slice in a trailer: the start of the base's id, offset and length.
fn row_len(slice: &Slice) -> usize {
    let leb128_len = |value: u64| (64 - (value | 1).leading_zeros()).div_ceil(7) as usize;
    8 + leb128_len(slice.range.start - slice.chunk.start) + leb128_len(slice.range.end - slice.range.start)
}

fn mean_and_p99(counts: &mut [usize]) -> String {
    counts.sort_unstable();
    let mean = counts.iter().sum::<usize>() as f64 / counts.len().max(1) as f64;
    format!("{mean:.1}, {}", counts.get(counts.len() * 99 / 100).unwrap_or(&0))
}

/// Bytes of `new` with `old` before it, as `zstd -3 --patch-from` does it on one thread.
fn window(old: &[u8], new: &[u8]) -> Result<usize> {
    let failed = |code| zstd::zstd_safe::get_error_name(code);
    let mut context = CCtx::create();
    let window = (old.len() + new.len()).next_power_of_two().trailing_zeros();
    for parameter in [CParameter::CompressionLevel(3), CParameter::WindowLog(window), CParameter::EnableLongDistanceMatching(true)] {
        context.set_parameter(parameter).map_err(failed)?;
    }
    context.ref_prefix(old).map_err(failed)?;
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(new.len()));
    Ok(context.compress2(&mut out, new).map_err(failed)?)
}
