//! Zstd with the parameters that a table varies, and the CPU time of this thread.

use std::time::{Duration, Instant};

use zstd::zstd_safe::{CCtx, CDict, CParameter, DCtx, DParameter, FrameFormat, InBuffer, OutBuffer, ParamSwitch, ResetDirective};

use super::frames::CHUNK_BYTES;

/// How to compress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Squeeze {
    pub level: i32,
    /// 0: as large as prefix and plain bytes together.
    pub window_log: u32,
    pub long: bool,
    /// Literals stay as they are, for a second stage.
    pub raw_literals: bool,
    pub hash_log: u32,
    pub chain_log: u32,
}

impl Squeeze {
    pub fn level(level: i32) -> Self {
        Squeeze { level, ..Squeeze::default() }
    }

    /// A frame as the codec writes it, after a prefix.
    pub fn encode(&self, plain: &[u8], prefix: &[u8]) -> Vec<u8> {
        let mut context = CCtx::create();
        self.prepare(&mut context, plain.len() + prefix.len());
        if !prefix.is_empty() {
            context.ref_prefix(prefix).expect("a fresh context");
        }
        let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
        context.compress2(&mut out, plain).expect("room enough");
        out
    }

    /// Frames without prefixes, with one context.
    pub fn encode_all<'a>(&self, plains: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let mut context = CCtx::create();
        let mut out = Vec::new();
        let mut frame = |plain: &[u8]| {
            self.prepare(&mut context, plain.len());
            out.clear();
            out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
            context.compress2(&mut out, plain).expect("room enough");
            out.clone()
        };
        plains.map(&mut frame).collect()
    }

    fn prepare(&self, context: &mut CCtx<'_>, reach: usize) {
        let fits = reach.max(1 << 10).next_power_of_two().trailing_zeros();
        let window_log = if self.window_log > 0 { self.window_log } else { fits };
        let mut set = |parameter| context.set_parameter(parameter).map(drop).expect("a known parameter");
        set(CParameter::CompressionLevel(self.level));
        set(CParameter::Format(FrameFormat::Magicless));
        set(CParameter::ContentSizeFlag(false));
        set(CParameter::ChecksumFlag(false));
        set(CParameter::DictIdFlag(false));
        set(CParameter::WindowLog(window_log));
        if self.long {
            set(CParameter::EnableLongDistanceMatching(true));
        }
        if self.raw_literals {
            set(CParameter::LiteralCompressionMode(ParamSwitch::Disable));
        }
        if self.hash_log > 0 {
            set(CParameter::HashLog(self.hash_log));
        }
        if self.chain_log > 0 {
            set(CParameter::ChainLog(self.chain_log));
        }
    }
}

/// Frames behind a digested dictionary.
pub fn encode_all_with<'a>(dictionary: &[u8], level: i32, plains: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let digested = CDict::create(dictionary, level);
    let mut context = CCtx::create();
    Squeeze::level(level).prepare(&mut context, CHUNK_BYTES + dictionary.len());
    context.ref_cdict(&digested).expect("a fresh context");
    let mut frame = |plain: &[u8]| {
        let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
        context.compress2(&mut out, plain).expect("room enough");
        out
    };
    plains.map(&mut frame).collect()
}

/// Decodes the first `len` bytes of a frame and stops there.
pub fn decode_start(context: &mut DCtx<'_>, frame: &[u8], room: &mut [u8], len: usize) {
    context.reset(ResetDirective::SessionOnly).expect("a context");
    let mut input = InBuffer::around(frame);
    let mut output = OutBuffer::around(&mut room[..len]);
    while output.pos() < len {
        context.decompress_stream(&mut output, &mut input).expect("a frame of this run");
    }
}

pub fn decoder() -> DCtx<'static> {
    let mut context = DCtx::create();
    context.set_parameter(DParameter::Format(FrameFormat::Magicless)).expect("a known parameter");
    context
}

/// CPU time that this thread has used (Linux; elsewhere the time that passes).
pub fn thread_cpu(start: Instant) -> Duration {
    let on_cpu_ns = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let on_cpu_ns = on_cpu_ns.and_then(|text| text.split(' ').next()?.parse().ok());
    on_cpu_ns.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// What `work` gives and the CPU seconds it takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let before = thread_cpu(start);
    let result = work();
    (result, (thread_cpu(start) - before).as_secs_f64())
}
