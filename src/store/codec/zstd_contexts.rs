//! The zstd contexts. A prefix is lent to a context for one call only. The types of the `zstd` crate cannot say so of a context that is reused, and the
//! crate does not offer `ZSTD_compressSequences`; the unsafe blocks here have the arguments instead.

use std::ptr::NonNull;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, ResetDirective};
use zstd_sys::{ZSTD_CCtx, ZSTD_ResetDirective, ZSTD_Sequence, ZSTD_cParameter, ZSTD_format_e, ZSTD_strategy};

use crate::store::format::Malformed;

pub(super) struct CompressContext {
    context: CCtx<'static>,
}

pub(super) struct DecompressContext {
    context: DCtx<'static>,
}

fn failed(code: usize) -> Malformed {
    Malformed::new(format!("zstd: {}", zstd::zstd_safe::get_error_name(code)))
}

/// The window, as a power of two: the whole prefix must stay within reach of the last byte.
fn window_log(plain: &[u8], prefix: &[u8]) -> u32 {
    (plain.len() + prefix.len()).max(1 << 10).next_power_of_two().trailing_zeros()
}

impl CompressContext {
    /// With a level, and what is to be other than the level says.
    pub(super) fn new(level: i32, others: &[CParameter]) -> Result<Self, Malformed> {
        let mut context = CCtx::try_create().ok_or_else(|| Malformed::new("zstd: out of memory"))?;
        let frame = [
            CParameter::CompressionLevel(level),
            CParameter::Format(FrameFormat::Magicless),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ];
        for parameter in frame.iter().chain(others) {
            context.set_parameter(*parameter).map_err(failed)?;
        }
        Ok(CompressContext { context })
    }

    pub(super) fn compress(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        #[cfg(test)]
        let plain = &super::spoilt(plain)[..];
        self.context.set_parameter(CParameter::WindowLog(window_log(plain, prefix))).map_err(failed)?;
        if !prefix.is_empty() {
            // SAFETY: the context keeps the reference only until the session is reset, which happens below on every path
            // before `prefix` can go out of scope.
            let lent: &'static [u8] = unsafe { std::slice::from_raw_parts(prefix.as_ptr(), prefix.len()) };
            self.context.ref_prefix(lent).map_err(failed)?;
        }
        let result = self.context.compress2(out, plain);
        let reset = self.context.reset(ResetDirective::SessionOnly);
        if !prefix.is_empty() {
            self.context.ref_prefix(&[]).map_err(failed)?;
        }
        result.and(reset).map(drop).map_err(failed)
    }
}

/// Writes frames out of sequences.
pub(super) struct SequenceContext {
    context: NonNull<ZSTD_CCtx>,
}

// SAFETY: the context is owned, and zstd ties none to a thread.
unsafe impl Send for SequenceContext {}

impl Drop for SequenceContext {
    fn drop(&mut self) {
        // SAFETY: the context came from `ZSTD_createCCtx` and is freed once.
        unsafe { zstd_sys::ZSTD_freeCCtx(self.context.as_ptr()) };
    }
}

/// What zstd answers: a length, or an error.
fn answered(code: usize) -> Result<usize, Malformed> {
    // SAFETY: the function only looks at the number.
    if unsafe { zstd_sys::ZSTD_isError(code) } == 0 { Ok(code) } else { Err(failed(code)) }
}

impl SequenceContext {
    pub(super) fn new() -> Result<Self, Malformed> {
        // SAFETY: the function has no conditions; null is no memory.
        let context = NonNull::new(unsafe { zstd_sys::ZSTD_createCCtx() }).ok_or_else(|| Malformed::new("zstd: out of memory"))?;
        let mut context = SequenceContext { context };
        // Nothing is searched, so the tables are as small as can be: those of a search would take most of the time. The fast strategy uses the predefined
        // codes where there are few sequences.
        for (parameter, value) in [
            (ZSTD_cParameter::ZSTD_c_strategy, ZSTD_strategy::ZSTD_fast as i32),
            (ZSTD_cParameter::ZSTD_c_hashLog, 6),
            (ZSTD_cParameter::ZSTD_c_chainLog, 6),
            (ZSTD_cParameter::ZSTD_c_minMatch, super::sequences::COPY_LEN_MIN as i32),
            (ZSTD_cParameter::ZSTD_c_contentSizeFlag, 0),
            (ZSTD_cParameter::ZSTD_c_checksumFlag, 0),
            (ZSTD_cParameter::ZSTD_c_dictIDFlag, 0),
            // `ZSTD_c_format` in zstd.h.
            (ZSTD_cParameter::ZSTD_c_experimentalParam2, ZSTD_format_e::ZSTD_f_zstd1_magicless as i32),
        ] {
            context.set(parameter, value)?;
        }
        Ok(context)
    }

    fn set(&mut self, parameter: ZSTD_cParameter, value: i32) -> Result<(), Malformed> {
        // SAFETY: the context is valid while `self` is.
        answered(unsafe { zstd_sys::ZSTD_CCtx_setParameter(self.context.as_ptr(), parameter, value) }).map(drop)
    }

    /// The frame of `sequences`, which stand for `plain` after `prefix`, into `out` (whose old contents go).
    pub(super) fn compress(
        &mut self,
        sequences: &[ZSTD_Sequence],
        plain: &[u8],
        prefix: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        self.set(ZSTD_cParameter::ZSTD_c_windowLog, window_log(plain, prefix) as i32)?;
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let context = self.context.as_ptr();
        // SAFETY: pointers and lengths are those of slices that live through the call and of the capacity of `out`, of which zstd says how much it has
        // written. Sequences without delimiters of blocks (the default) are cut at the end of `plain`, so wrong ones cannot make zstd read or write
        // elsewhere: it reads `plain` only, and offsets are numbers to it. The context forgets the prefix with the call and the reset.
        let written = unsafe {
            answered(zstd_sys::ZSTD_CCtx_refPrefix(context, prefix.as_ptr().cast(), prefix.len())).and_then(|_| {
                let (to, capacity) = (out.as_mut_ptr().cast(), out.capacity());
                let (count, from) = (sequences.len(), plain.as_ptr().cast());
                answered(zstd_sys::ZSTD_compressSequences(context, to, capacity, sequences.as_ptr(), count, from, plain.len()))
            })
        };
        // SAFETY: as above; a prefix of length 0 is none.
        unsafe {
            zstd_sys::ZSTD_CCtx_reset(context, ZSTD_ResetDirective::ZSTD_reset_session_only);
            zstd_sys::ZSTD_CCtx_refPrefix(context, std::ptr::null(), 0);
        }
        // SAFETY: zstd has written that many bytes.
        written.map(|len| unsafe { out.set_len(len) })
    }
}

impl DecompressContext {
    pub(super) fn new() -> Result<Self, Malformed> {
        let mut context = DCtx::try_create().ok_or_else(|| Malformed::new("zstd: out of memory"))?;
        context.set_parameter(DParameter::Format(FrameFormat::Magicless)).map_err(failed)?;
        Ok(DecompressContext { context })
    }

    pub(super) fn decompress(&mut self, encoded: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        if !prefix.is_empty() {
            // SAFETY: as in `compress`.
            let lent: &'static [u8] = unsafe { std::slice::from_raw_parts(prefix.as_ptr(), prefix.len()) };
            self.context.ref_prefix(lent).map_err(failed)?;
        }
        let result = self.context.decompress(out, encoded);
        let reset = self.context.reset(ResetDirective::SessionOnly);
        if !prefix.is_empty() {
            self.context.ref_prefix(&[]).map_err(failed)?;
        }
        result.map_err(failed).and(reset.map(drop).map_err(failed))
    }
}
