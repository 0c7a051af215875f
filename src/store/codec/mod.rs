//! Encoding chunks: zstd, and deltas as zstd with a prefix. Pure; contexts are reused, one encoder or decoder for each thread.
//!
//! Lookups in the encoders' own tables that cannot fail fall back to nothing: a fresh chunk is decoded and compared before its pack is
//! committed, so an encoder that errs is found there. Decoders check every length.

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

/// The zstd level of frames of whole chunks: level 2 stores 3 to 4 % more of a store, in two thirds of the time. What is stored whole stays for the
/// whole history.
const WHOLE_LEVEL: i32 = 3;
/// The zstd level of a first look at rows, and of what a chunk would take whole: nearly as good, and faster.
const LOOK_LEVEL: i32 = 2;
/// The zstd level of deltas. Higher levels gain 3 % for ten times the time.
const DELTA_LEVEL: i32 = 3;

/// The zstd level of deltas of rows against rows. Rows are much alike, and only a search among several places finds the right one: levels 3, 5, 6 and 7
/// store a dump of pgbench in 263, 206, 199 and 190 KB (see `benches/dumps.rs`).
const ROWS_LEVEL: i32 = 6;
/// How that search is done: by chains in tables that stay in a core's own cache, with an entry for each byte of most windows and their chunks. By rows of
/// hashes, zstd's choice, in tables of its choice, 43 MB took 780 ms and not 224, and 511,758 bytes and not 510,802 (pgbench and text).
const ROWS_SEARCH: [CParameter; 3] =
    [CParameter::HashLog(16), CParameter::ChainLog(17), CParameter::UseRowMatchFinder(ParamSwitch::Disable)];

/// Compresses chunks.
pub struct Encoder {
    whole: CompressContext,
    /// For a first look at deltas of rows, for which its level finds as much as [`DELTA_LEVEL`] in 3/5 of the time.
    look: CompressContext,
    delta: CompressContext,
    /// Workspace.
    patch: Vec<u8>,
    /// Made when they are first used.
    rows: Option<CompressContext>,
    runs: Option<Runs>,
}

impl Encoder {
    /// A new encoder. Its tables, up to a MiB or so, are made when they are first used.
    pub fn new() -> Result<Self, Malformed> {
        let (whole, look) = (CompressContext::new(WHOLE_LEVEL, &[])?, CompressContext::new(LOOK_LEVEL, &[])?);
        let delta = CompressContext::new(DELTA_LEVEL, &[])?;
        Ok(Encoder { whole, look, delta, patch: Vec::new(), rows: None, runs: None })
    }

    /// `plain` as a zstd frame, into `out` (whose old contents go). Deterministic. `prefix` is empty or what stands before it in a delta.
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

    /// The same for rows against rows, or of anything for a look at how long it is.
    pub fn encode_rows(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        make_room(plain, out);
        self.look.compress(plain, prefix, out)
    }

    /// The same where rows and their places are the same but for a few, which takes a fraction of the time and about as many bytes as
    /// [`Encoder::squeeze_rows`]; `false` if that is not so.
    pub fn encode_runs(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<bool, Malformed> {
        #[cfg(test)]
        let plain = &spoilt(plain)[..];
        let runs = match &mut self.runs {
            Some(runs) => runs,
            none => none.insert(Runs::new()?),
        };
        runs.encode(plain, prefix, out)
    }

    /// The same again: smaller, and slower.
    pub fn squeeze_rows(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        make_room(plain, out);
        let context = match &mut self.rows {
            Some(context) => context,
            none => none.insert(CompressContext::new(ROWS_LEVEL, &ROWS_SEARCH)?),
        };
        context.compress(plain, prefix, out)
    }
}

fn make_room(plain: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
}

/// Decompresses chunks.
pub struct Decoder {
    context: DecompressContext,
    /// Workspace.
    patch: Vec<u8>,
}

impl Decoder {
    /// A new decoder.
    pub fn new() -> Result<Self, Malformed> {
        Ok(Decoder { context: DecompressContext::new()?, patch: Vec::new() })
    }

    /// The plain bytes of a frame, into `out` (whose old contents go). They must be exactly `plain_len` bytes; that is bounded before anything
    /// is allocated. A wrong prefix gives wrong bytes, not an error: the caller verifies the chunk id.
    pub fn decode(&mut self, encoded: &[u8], prefix: &[u8], plain_len: u32, out: &mut Vec<u8>) -> Result<(), Malformed> {
        if plain_len > CHUNK_LEN_MAX || prefix.len() > PREFIX_LEN_MAX {
            return Err(Malformed::new("the length of a chunk is out of bounds"));
        }
        out.clear();
        out.reserve_exact(plain_len as usize);
        self.context.decompress(encoded, prefix, out)?;
        match out.len() == plain_len as usize {
            true => Ok(()),
            false => Err(Malformed::new("the frame of a chunk does not give its length")),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Makes the encoders of this thread compress something else, as faulty memory would.
    pub(crate) static IS_FAULTY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
fn spoilt(plain: &[u8]) -> Vec<u8> {
    let mut plain = plain.to_vec();
    plain.last_mut().into_iter().filter(|_| IS_FAULTY.get()).for_each(|byte| *byte ^= 1);
    plain
}
