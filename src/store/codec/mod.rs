//! Encodes and decodes chunks: as zstd frames, and as deltas, which are zstd frames with a prefix of base bytes.
//!
//! The module is pure: bytes in, bytes out, no files and no keys. Each thread has its own encoder or decoder and reuses
//! its zstd contexts. Encoding is deterministic. Decoders bound and check every length, because encoded bytes come from
//! disk.
//!
//! Encoders look things up in tables that they have made themselves. Lints forbid indexing, so a lookup that cannot
//! fail has a fallback ("nothing found") instead of a panic. A fault there cannot store wrong data: every fresh chunk
//! is decoded and compared before its pack is committed.

mod patch;
pub mod reed_solomon;
mod rows;
mod sequences;
pub mod similarity;
mod zstd_contexts;

use rows::Runs;
use zstd::zstd_safe::{CParameter, ParamSwitch};
use zstd_contexts::{CompressContext, DecompressContext};

use crate::store::format::{CHUNK_LEN_MAX, Malformed, PREFIX_LEN_MAX};

/// The zstd level of frames of whole chunks. Level 2 takes two thirds of the time, but 3 to 4 % more bytes, and whole
/// chunks stay for the whole history.
const WHOLE_LEVEL: i32 = 3;
/// The zstd level of estimates: a first look at a delta of rows, and the size that a chunk would have if it were stored
/// whole. Nearly as good as level 3, and faster.
const LOOK_LEVEL: i32 = 2;
/// The zstd level of deltas. Higher levels gain 3 % for ten times the time.
const DELTA_LEVEL: i32 = 3;

/// The zstd level of deltas of rows against rows. Rows are much alike, so zstd must compare several places to find the
/// right one. Levels 3, 5, 6 and 7 store a dump of pgbench in 263, 206, 199 and 190 KB (see `benches/dumps.rs`).
const ROWS_LEVEL: i32 = 6;
/// Parameters of that search: hash chains, in tables that fit the cache of a core and have an entry for each byte of
/// most windows and chunks. Measured on 43 MB of pgbench and text: 224 ms and 510,802 bytes. zstd's own choice (the row
/// match finder, larger tables): 780 ms and 511,758 bytes.
const ROWS_SEARCH: [CParameter; 3] =
    [CParameter::HashLog(16), CParameter::ChainLog(17), CParameter::UseRowMatchFinder(ParamSwitch::Disable)];

/// Compresses chunks. One for each thread.
pub struct Encoder {
    whole: CompressContext,
    /// For estimates. On rows its level finds as much as [`DELTA_LEVEL`] in 3/5 of the time.
    look: CompressContext,
    delta: CompressContext,
    /// Workspace of `encode_patch`: the frame, before the bitmap is put before it.
    patch: Vec<u8>,
    /// For [`Encoder::squeeze_rows`]. Made at its first use, since sources without dumps never need it.
    rows: Option<CompressContext>,
    /// For [`Encoder::encode_runs`]. Made at its first use, too.
    runs: Option<Runs>,
}

impl Encoder {
    /// A new encoder. zstd allocates its tables (about 1 MiB) at their first use.
    pub fn new() -> Result<Self, Malformed> {
        let (whole, look) = (CompressContext::new(WHOLE_LEVEL, &[])?, CompressContext::new(LOOK_LEVEL, &[])?);
        let delta = CompressContext::new(DELTA_LEVEL, &[])?;
        Ok(Encoder { whole, look, delta, patch: Vec::new(), rows: None, runs: None })
    }

    /// Writes `plain` as a zstd frame into `out`, whose old contents are dropped. `prefix` is empty for a whole chunk,
    /// else the slices of the bases of a delta. The same input always gives the same bytes.
    pub fn encode(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        if !prefix.is_empty() {
            return self.encode_delta(plain, prefix, out);
        }
        make_room(plain, out);
        self.whole.compress(plain, prefix, out)
    }

    fn encode_delta(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        make_room(plain, out);
        self.delta.compress(plain, prefix, out)
    }

    /// As [`Encoder::encode`], at the faster level: for rows against rows, and for estimates of a size.
    pub fn encode_rows(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        make_room(plain, out);
        self.look.compress(plain, prefix, out)
    }

    /// As [`Encoder::encode`], for rows that are in `prefix` in the same order except for a few. Takes about as many
    /// bytes as [`Encoder::squeeze_rows`] and a fraction of its time. Gives `false`, and no frame, if too much differs.
    pub fn encode_runs(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        #[cfg(test)]
        let plain = &spoilt(plain)[..];
        let runs = match &mut self.runs {
            Some(runs) => runs,
            none => none.insert(Runs::new()?),
        };
        runs.encode(plain, prefix, out)
    }

    /// As [`Encoder::encode_rows`], smaller and slower.
    pub fn squeeze_rows(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        make_room(plain, out);
        let context = match &mut self.rows {
            Some(context) => context,
            none => none.insert(CompressContext::new(ROWS_LEVEL, &ROWS_SEARCH)?),
        };
        context.compress(plain, prefix, out)
    }
}

/// Empties `out` and reserves what zstd needs at worst: it writes into spare capacity and never grows the vector.
fn make_room(plain: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
}

/// Decompresses chunks. One for each thread.
pub struct Decoder {
    context: DecompressContext,
    /// Workspace of `decode_patch`: the changed pieces.
    patch: Vec<u8>,
}

impl Decoder {
    /// A new decoder.
    pub fn new() -> Result<Self, Malformed> {
        Ok(Decoder { context: DecompressContext::new()?, patch: Vec::new() })
    }

    /// Writes the plain bytes of a frame into `out`, whose old contents are dropped. Fails unless they are exactly
    /// `plain_len` bytes. A wrong prefix gives wrong bytes and no error, so the caller must compare the result with the
    /// chunk id.
    pub fn decode(&mut self, encoded: &[u8], prefix: &[u8], plain_len: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
        // The length comes from a trailer, so it is bounded before it is allocated.
        if plain_len > CHUNK_LEN_MAX || prefix.len() > PREFIX_LEN_MAX {
            return Err(Malformed::new("the length of a chunk is out of bounds"));
        }
        out.clear();
        out.reserve_exact(plain_len as usize);
        // zstd writes into the capacity only. A frame that holds more is its error, one that holds less is ours, below.
        self.context.decompress(encoded, prefix, out)?;
        match out.len() == plain_len as usize {
            true => Ok(()),
            false => Err(Malformed::new("the frame of a chunk does not decode to the length of the chunk")),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Makes the encoders of this thread compress other bytes than they were given, as faulty memory would.
    pub(crate) static IS_FAULTY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
fn spoilt(plain: &[u8]) -> Vec<u8> {
    let mut plain = plain.to_vec();
    plain.last_mut().into_iter().filter(|_| IS_FAULTY.get()).for_each(|byte| *byte ^= 1);
    plain
}
