//! The zstd contexts, reused from chunk to chunk. All unsafe code of the codec is here.
//!
//! It is needed for two reasons. A prefix is lent to a context for one call only, which the types of the `zstd` crate
//! cannot express for a reused context. And the crate does not offer `ZSTD_compressSequences`. The SAFETY comments say
//! why each call is sound.

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

/// The window size, as a power of two. The last plain byte must still reach the first byte of the prefix. 1 KiB is
/// zstd's minimum.
fn window_log(plain: &[u8], prefix: &[u8]) -> u32 {
    (plain.len() + prefix.len()).max(1 << 10).next_power_of_two().trailing_zeros()
}

impl CompressContext {
    /// A context with a compression level, and parameters that override its defaults.
    pub(super) fn new(level: i32, others: &[CParameter]) -> Result<Self, Malformed> {
        let mut context = CCtx::try_create().ok_or_else(|| Malformed::new("zstd: out of memory"))?;
        // The frame has no magic, length or checksum: the trailer has the length, and the chunk id verifies the
        // content. For deltas of 60 bytes these fields would be a large part.
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

    /// Writes the frame of `plain` into the capacity of `out`, which is empty.
    pub(super) fn compress(&mut self, plain: &[u8], prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        #[cfg(test)]
        let plain = &super::spoilt(plain)[..];
        self.context.set_parameter(CParameter::WindowLog(window_log(plain, prefix))).map_err(failed)?;
        if !prefix.is_empty() {
            // SAFETY: the context keeps the reference only until the session is reset, which happens below on every
            // path before `prefix` can go out of scope.
            let lent: &'static [u8] = unsafe { std::slice::from_raw_parts(prefix.as_ptr(), prefix.len()) };
            self.context.ref_prefix(lent).map_err(failed)?;
        }
        let result = self.context.compress2(out, plain);
        // The reset after each call also ends a frame that failed half way; else the next call would continue it.
        let reset = self.context.reset(ResetDirective::SessionOnly);
        if !prefix.is_empty() {
            self.context.ref_prefix(&[]).map_err(failed)?;
        }
        result.and(reset).map(drop).map_err(failed)
    }
}

/// Writes frames from given sequences.
pub(super) struct SequenceContext {
    context: NonNull<ZSTD_CCtx>,
}

// SAFETY: `self` owns the context alone, and zstd does not tie a context to a thread.
unsafe impl Send for SequenceContext {}

impl Drop for SequenceContext {
    fn drop(&mut self) {
        // SAFETY: the context came from `ZSTD_createCCtx` and is freed once.
        unsafe { zstd_sys::ZSTD_freeCCtx(self.context.as_ptr()) };
    }
}

/// The length that zstd has returned, or the error that the number stands for.
fn answered(code: usize) -> Result<usize, Malformed> {
    // SAFETY: the function only looks at the number.
    if unsafe { zstd_sys::ZSTD_isError(code) } == 0 { Ok(code) } else { Err(failed(code)) }
}

impl SequenceContext {
    pub(super) fn new() -> Result<Self, Malformed> {
        // SAFETY: the function has no conditions. It gives null if there is no memory.
        let context = NonNull::new(unsafe { zstd_sys::ZSTD_createCCtx() }).ok_or_else(|| Malformed::new("zstd: out of memory"))?;
        let mut context = SequenceContext { context };
        // zstd searches nothing here, so its tables are as small as possible: clearing larger ones would take most of
        // the time. The fast strategy uses the predefined codes if there are few sequences.
        for (parameter, value) in [
            (ZSTD_cParameter::ZSTD_c_strategy, ZSTD_strategy::ZSTD_fast as i32),
            (ZSTD_cParameter::ZSTD_c_hashLog, 6),
            (ZSTD_cParameter::ZSTD_c_chainLog, 6),
            (ZSTD_cParameter::ZSTD_c_minMatch, super::sequences::MATCH_LEN_MIN as i32),
            (ZSTD_cParameter::ZSTD_c_contentSizeFlag, 0),
            (ZSTD_cParameter::ZSTD_c_checksumFlag, 0),
            (ZSTD_cParameter::ZSTD_c_dictIDFlag, 0),
            // Its name in zstd.h is `ZSTD_c_format`.
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

    /// Writes the frame of `sequences` into `out`, whose old contents are dropped. The sequences describe `plain`,
    /// which follows `prefix`.
    pub(super) fn compress(
        &mut self,
        sequences: &[ZSTD_Sequence],
        plain: &[u8],
        prefix: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        // At most 64, so the cast keeps the value.
        self.set(ZSTD_cParameter::ZSTD_c_windowLog, window_log(plain, prefix) as i32)?;
        super::make_room(plain, out);
        let context = self.context.as_ptr();
        // SAFETY: the pointers and lengths are those of slices that live through the call, and of the spare capacity of
        // `out`; zstd returns how much of it was written. Sequences without block delimiters (the default) are cut at
        // the end of `plain`, so wrong ones cannot make zstd read or write elsewhere: it reads `plain` only and takes
        // offsets as numbers. The context forgets the prefix after the call and the reset.
        let written = unsafe {
            answered(zstd_sys::ZSTD_CCtx_refPrefix(context, prefix.as_ptr().cast(), prefix.len())).and_then(|_| {
                let (to, capacity) = (out.as_mut_ptr().cast(), out.capacity());
                let (count, from) = (sequences.len(), plain.as_ptr().cast());
                answered(zstd_sys::ZSTD_compressSequences(context, to, capacity, sequences.as_ptr(), count, from, plain.len()))
            })
        };
        // SAFETY: as above. A prefix of length 0 means that there is no prefix.
        unsafe {
            zstd_sys::ZSTD_CCtx_reset(context, ZSTD_ResetDirective::ZSTD_reset_session_only);
            zstd_sys::ZSTD_CCtx_refPrefix(context, std::ptr::null(), 0);
        }
        // SAFETY: zstd has written `len` bytes from the start of `out`.
        written.map(|len| unsafe { out.set_len(len) })
    }
}

impl DecompressContext {
    pub(super) fn new() -> Result<Self, Malformed> {
        let mut context = DCtx::try_create().ok_or_else(|| Malformed::new("zstd: out of memory"))?;
        context.set_parameter(DParameter::Format(FrameFormat::Magicless)).map_err(failed)?;
        Ok(DecompressContext { context })
    }

    /// Writes the content of a frame into the capacity of `out`, which is empty. A frame with more content is an error.
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
