//! The zstd contexts. A prefix is lent to a context for one call only, which the types of the `zstd` crate cannot say of a context that is
//! reused; the two unsafe blocks here say it instead.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, ResetDirective};

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
        // The whole prefix must stay within reach of the last byte.
        let window = (plain.len() + prefix.len()).max(1 << 10).next_power_of_two().trailing_zeros();
        self.context.set_parameter(CParameter::WindowLog(window)).map_err(failed)?;
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
