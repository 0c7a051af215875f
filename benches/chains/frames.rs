//! Table A: whole chunks that share a frame.

use zstd::zstd_safe::DDict;

use super::common::store::PAGE_BYTES;
use super::history::History;
use super::squeeze::{Squeeze, decode_start, decoder, encode_all_with, timed};

pub const CHUNK_BYTES: usize = 64 << 10;
/// Frames that the decoder is tried on.
const SAMPLES: usize = 41;
/// Reads that are timed; no multiple of the samples, so that they differ.
const DECODED: usize = 512;

/// Prints the table for the first version.
pub fn tables(history: &History) {
    let file = history.bytes(history.version(0));
    let whole = zstd::bulk::compress(&file, 3).expect("room enough").len();
    println!("A. whole frames of {} bytes; `zstd -3` of the file: {whole} bytes", file.len());
    println!("{:>24} {:>9} {:>11} {:>7} {:>7} {:>13} {:>13}", "", "frame KiB", "bytes", "of -3", "MB/s", "us a chunk", "us a frame");
    for level in 1..=3 {
        for kib in [64, 128, 256, 512, 1024, 2048] {
            row(&file, whole, &format!("level {level}"), Squeeze::level(level), kib << 10);
        }
    }
    row(&file, whole, "level 3, whole file", Squeeze { window_log: 21, ..Squeeze::level(3) }, file.len());
    row(&file, whole, "level 3, long, whole file", Squeeze { window_log: 27, long: true, ..Squeeze::level(3) }, file.len());
    for kib in [512, 1024] {
        row(&file, whole, "level 3, hash 18 chain 17", Squeeze { hash_log: 18, chain_log: 17, ..Squeeze::level(3) }, kib << 10);
        row(&file, whole, "level 2, hash 18", Squeeze { hash_log: 18, ..Squeeze::level(2) }, kib << 10);
        row(&file, whole, "level 3, long", Squeeze { long: true, ..Squeeze::level(3) }, kib << 10);
        row(&file, whole, "level 3, hash 19 chain 18", Squeeze { hash_log: 19, chain_log: 18, ..Squeeze::level(3) }, kib << 10);
        row(&file, whole, "level 4", Squeeze::level(4), kib << 10);
    }
}

fn row(file: &[u8], whole: usize, name: &str, squeeze: Squeeze, frame_bytes: usize) {
    let (frames, seconds) = timed(|| squeeze.encode_all(file.chunks(frame_bytes)));
    let bytes: usize = frames.iter().map(Vec::len).sum();
    let mut context = decoder();
    let mut room = vec![0; frame_bytes];
    let every = (frames.len() / SAMPLES).max(1);
    let sample: Vec<&Vec<u8>> = frames[..(frames.len() - 1).max(1)].iter().step_by(every).collect();
    let (decoded, chunk_s) = timed(|| {
        let starts = (1..=frame_bytes / CHUNK_BYTES).cycle().take(DECODED);
        let frames = sample.iter().cycle();
        starts.zip(frames).map(|(chunks, frame)| decode_start(&mut context, frame, &mut room, chunks * CHUNK_BYTES)).count()
    });
    let ((), frame_s) =
        timed(|| sample.iter().cycle().take(DECODED).for_each(|frame| decode_start(&mut context, frame, &mut room, frame_bytes)));
    println!(
        "{name:>24} {:>9} {bytes:>11} {:>7.3} {:>7.0} {:>13.1} {:>13.1}",
        frame_bytes >> 10,
        bytes as f64 / whole as f64,
        file.len() as f64 / 1e6 / seconds,
        chunk_s * 1e6 / decoded as f64,
        frame_s * 1e6 / DECODED as f64
    );
}

/// Prints what one dictionary for all chunks of the first version would do.
pub fn dictionaries(history: &History) {
    let file = history.bytes(history.version(0));
    let whole = zstd::bulk::compress(&file, 3).expect("room enough").len();
    let pages: Vec<&[u8]> = file.chunks(PAGE_BYTES).collect();
    println!("\n64 KiB frames behind one digested dictionary; its own bytes, compressed, are counted");
    for kib in [64, 128, 256] {
        let bytes = kib << 10;
        let drawn = || pages.iter().step_by(pages.len() * PAGE_BYTES / bytes).flat_map(|page| page.iter().copied()).collect();
        dictionary_rows(&file, whole, "pages from all over the file", drawn);
        for share in [4, 64] {
            let sampled: Vec<&[u8]> = pages.iter().step_by(share).copied().collect();
            let train = || zstd::dict::from_samples(&sampled, bytes).expect("samples enough");
            dictionary_rows(&file, whole, &format!("trained on a page in {share}"), train);
        }
    }
}

fn dictionary_rows(file: &[u8], whole: usize, name: &str, make: impl FnOnce() -> Vec<u8>) {
    let (dictionary, make_s) = timed(make);
    let stored = Squeeze::level(3).encode(&dictionary, &[]).len();
    for level in 2..=4 {
        let (frames, s) = timed(|| encode_all_with(&dictionary, level, file.chunks(CHUNK_BYTES)));
        let bytes = frames.iter().map(Vec::len).sum::<usize>() + stored;
        let digested = DDict::create(&dictionary);
        let mut context = decoder();
        context.ref_ddict(&digested).expect("a fresh context");
        let mut room = vec![0; CHUNK_BYTES];
        let full = &frames[..frames.len() - 1];
        let ((), decode_s) = timed(|| full.iter().for_each(|frame| decode_start(&mut context, frame, &mut room, CHUNK_BYTES)));
        println!(
            "{:>3} KiB, {name}, {make_s:.1} s; level {level}: {bytes} bytes, {:.3} of -3, {:.0} MB/s, {:.1} us a chunk",
            dictionary.len() >> 10,
            bytes as f64 / whole as f64,
            file.len() as f64 / 1e6 / s,
            decode_s * 1e6 / full.len() as f64
        );
    }
}
