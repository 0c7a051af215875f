//! The rows of a trailer. Each chunk has a row, and the row of the first chunk of a frame also describes the frame.
//!
//! Rows are short, because there is one for each stored copy of a chunk: frequent cases have a bit (the nominal length,
//! the same frame, a whole base), and places follow from the lengths before them. A table has exactly one encoding, so
//! the reader refuses the long form where the short one is possible. The reader checks every bound of the format.

use std::collections::HashMap;

use super::super::wire::{Input, put_varint};
use super::{CHUNK_LEN_MAX, ChunkEntry, Encoding, FRAME_LEN_MAX, Frame, IdPrefix, Malformed, Slice, prefix_fits};
use crate::id::ChunkId;
use crate::store::format::{LEVEL_READ_MAX, SEGMENT_LEN_MAX, SLICES_MAX, WORK_READ_MAX};

/// Bits of the byte that starts a row.
mod bit {
    pub const ENCODING: u8 = 0b0000_0011;
    pub const NODE: u8 = 0b0000_0100;
    pub const NEXT_SEGMENT: u8 = 0b0000_1000;
    pub const NOMINAL_LEN: u8 = 0b0001_0000;
    pub const WHOLE_BASE: u8 = 0b0010_0000;
    pub const SAME_FRAME: u8 = 0b0100_0000;
    pub const RESERVED: u8 = 0b1000_0000;
    /// Bits that only the first row of a frame may have.
    pub const OF_FRAME: u8 = ENCODING | NEXT_SEGMENT | WHOLE_BASE;
}

/// Encodes rows.
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
    nominal_len: u32,
    /// The place of each base in the list of bases, which is in the order of first use.
    places: HashMap<IdPrefix, u32>,
    /// The frame of the last row, and its segment.
    last: Option<(u32, u32)>,
}

impl Writer {
    pub(super) fn new(nominal_len: u32, rows: usize) -> Self {
        Writer { bytes: Vec::with_capacity(rows * 8), nominal_len, places: HashMap::new(), last: None }
    }

    /// The bases of all rows so far, in the order of their first use.
    pub(super) fn bases(&self) -> Vec<IdPrefix> {
        let mut bases: Vec<(u32, IdPrefix)> = self.places.iter().map(|(base, place)| (*place, *base)).collect();
        bases.sort_unstable();
        bases.into_iter().map(|(_, base)| base).collect()
    }

    /// Appends the row of a chunk of this frame.
    pub(super) fn put(&mut self, chunk: &ChunkEntry, frame: Option<&Frame>) {
        let same_frame = self.last.is_some_and(|(last, _)| last == chunk.frame);
        let nominal = chunk.plain_len == self.nominal_len;
        let mut bits = 0;
        for (set, bit) in [(chunk.node, bit::NODE), (nominal, bit::NOMINAL_LEN), (same_frame, bit::SAME_FRAME)] {
            bits |= if set { bit } else { 0 };
        }
        let start = self.bytes.len();
        // The bits that depend on the frame are added below.
        self.bytes.push(bits);
        if let Some(frame) = frame.filter(|_| !same_frame) {
            put_varint(&mut self.bytes, frame.encoded_len);
        }
        if !nominal {
            put_varint(&mut self.bytes, chunk.plain_len);
        }
        put_varint(&mut self.bytes, chunk.version);
        if let Some(frame) = frame.filter(|_| !same_frame) {
            let next_segment = self.last.is_some_and(|(_, segment)| segment != frame.segment);
            let bits = if next_segment { bit::NEXT_SEGMENT } else { 0 } | self.put_encoding(frame);
            self.bytes.get_mut(start).into_iter().for_each(|byte| *byte |= bits);
            self.last = Some((chunk.frame, frame.segment));
        }
    }

    /// Appends the fields that only deltas have. Gives the bits of the encoding.
    fn put_encoding(&mut self, frame: &Frame) -> u8 {
        match frame.encoding {
            Encoding::Raw => return 0,
            Encoding::Zstd => return 1,
            Encoding::Delta | Encoding::Patch => {}
        }
        let code = if frame.encoding == Encoding::Patch { 3 } else { 2 };
        self.bytes.push(frame.level);
        put_varint(&mut self.bytes, frame.work);
        // There are fewer bases than slices in a pack, which are fewer than 2^32, so the casts of places keep every
        // value.
        let next = self.places.len() as u32;
        // The usual delta: its prefix is one whole base, which no other delta of this pack has used before. A bit says
        // all of it.
        if let [Slice { base, offset: 0, len }] = frame.slices.as_slice()
            && *len == self.nominal_len
            && !self.places.contains_key(base)
        {
            self.places.insert(*base, next);
            return code | bit::WHOLE_BASE;
        }
        put_varint(&mut self.bytes, frame.slices.len() as u32);
        for slice in &frame.slices {
            let next = self.places.len() as u32;
            let place = *self.places.entry(slice.base).or_insert(next);
            put_varint(&mut self.bytes, next - place);
            put_varint(&mut self.bytes, slice.offset);
            // 0 stands for the nominal length. An empty slice would be a fault of the writer. It is written as the
            // nominal length spelled out, which every reader refuses.
            let len = match slice.len {
                len if len == self.nominal_len => 0,
                0 => self.nominal_len,
                len => len,
            };
            put_varint(&mut self.bytes, len);
        }
        code
    }
}

/// Decodes rows.
pub(super) struct Reader<'a> {
    rows: Input<'a>,
    bases: &'a [IdPrefix],
    /// How many of the bases were used so far.
    used_bases: usize,
    /// Stored bytes of each segment.
    segments: &'a [u32],
    nominal_len: u32,
    /// Bytes that sealing adds to a segment.
    overhead: usize,
    frames: Vec<Frame>,
    /// The segment of the next frame.
    segment: u32,
    /// The start of the next frame in its segment.
    offset: u32,
    /// Plain bytes of the segment that no frame has taken yet.
    rest: u32,
    /// For `prefix_fits`.
    workspace: Vec<IdPrefix>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(rows: Input<'a>, bases: &'a [IdPrefix], segments: &'a [u32], nominal_len: u32, overhead: usize) -> Self {
        let (frames, workspace) = (Vec::new(), Vec::new());
        Reader { rows, bases, used_bases: 0, segments, nominal_len, overhead, frames, segment: 0, offset: 0, rest: 0, workspace }
    }

    /// The frames, after the last row.
    pub(super) fn finish(self) -> Result<Vec<Frame>, Malformed> {
        self.rows.end()?;
        self.close_frame()?;
        let used_segments = if self.frames.is_empty() { 0 } else { self.segment as usize + 1 };
        match self.rest == 0 && used_segments == self.segments.len() && self.used_bases == self.bases.len() {
            true => Ok(self.frames),
            false => Err(Malformed::new("the chunks in its trailer do not fill its segments, or not all of its bases are used")),
        }
    }

    /// The next row, of the chunk with this id.
    pub(super) fn take(&mut self, id: ChunkId) -> Result<ChunkEntry, Malformed> {
        let bits = self.rows.u8()?;
        if bits & bit::RESERVED != 0 {
            return Err(Malformed::newer("an unknown way to encode a chunk"));
        }
        // Only the first row of a frame has an encoded length.
        let encoded_len = match bits & bit::SAME_FRAME {
            0 => Some(self.rows.varint()?),
            _ if bits & bit::OF_FRAME == 0 => None,
            _ => return Err(Malformed::new("a row describes a frame that it does not start")),
        };
        let plain_len = if bits & bit::NOMINAL_LEN != 0 { self.nominal_len } else { self.explicit_len()? };
        if plain_len == 0 || plain_len > CHUNK_LEN_MAX {
            return Err(Malformed::new("the length of a chunk is out of bounds"));
        }
        let version = self.rows.varint()?;
        if let Some(encoded_len) = encoded_len {
            self.close_frame()?;
            let frame = self.take_frame(bits, encoded_len)?;
            self.frames.push(frame);
        }
        // There is at most one frame for each chunk, and at most PACK_CHUNKS_MAX chunks, so the cast keeps the value.
        let number = self.frames.len() as u32;
        let frame = self.frames.last_mut().ok_or_else(|| Malformed::new("its first row does not start a frame"))?;
        // The chunks of a frame follow each other, so a chunk begins where the frame has ended so far.
        let offset = frame.plain_len;
        frame.plain_len = offset.saturating_add(plain_len);
        match frame.plain_len <= FRAME_LEN_MAX {
            true => Ok(ChunkEntry { id, frame: number - 1, offset, plain_len, node: bits & bit::NODE != 0, version }),
            false => Err(Malformed::new("the length of a frame is out of bounds")),
        }
    }

    /// A length that is spelled out. It must differ from the nominal length, which has a bit: one table, one encoding.
    fn explicit_len(&mut self) -> Result<u32, Malformed> {
        match self.rows.varint()? {
            len if len == self.nominal_len => Err(Malformed::new("a chunk spells out the nominal length")),
            len => Ok(len),
        }
    }

    /// The rest of a row that starts a frame. The frame has no chunk yet.
    fn take_frame(&mut self, bits: u8, encoded_len: u32) -> Result<Frame, Malformed> {
        // The first frame enters the first segment. A later one may enter the next segment only if the frames have
        // filled the current one.
        match (self.frames.is_empty(), bits & bit::NEXT_SEGMENT != 0) {
            (true, false) => self.enter(0)?,
            (false, true) if self.rest == 0 => self.enter(self.segment.saturating_add(1))?,
            (false, false) => {}
            _ => return Err(Malformed::new("the chunks in its trailer do not fill its segments")),
        }
        let encoding = match bits & bit::ENCODING {
            0 => Encoding::Raw,
            1 => Encoding::Zstd,
            2 => Encoding::Delta,
            _ => Encoding::Patch,
        };
        let (segment, offset) = (self.segment, self.offset);
        let mut frame = Frame { segment, offset, encoded_len, plain_len: 0, encoding, level: 0, work: 1, slices: Vec::new() };
        if encoding.is_delta() {
            (frame.level, frame.work) = (self.rows.u8()?, self.rows.varint()?);
            if frame.level == 0 || frame.level > LEVEL_READ_MAX || frame.work < 2 || frame.work > WORK_READ_MAX {
                return Err(Malformed::new("the level or work of a frame is out of bounds"));
            }
            frame.slices = self.take_slices(bits & bit::WHOLE_BASE != 0)?;
        } else if bits & bit::WHOLE_BASE != 0 {
            return Err(Malformed::new("a frame that is not a delta has a base"));
        }
        if encoded_len == 0 || encoded_len > self.rest {
            return Err(Malformed::new("a frame reaches past its segment"));
        }
        self.rest -= encoded_len;
        self.offset += encoded_len;
        Ok(frame)
    }

    /// Begins the next segment.
    fn enter(&mut self, segment: u32) -> Result<(), Malformed> {
        let stored = self.segments.get(segment as usize).ok_or_else(|| Malformed::new("a chunk lies in no segment"))?;
        let plain = (*stored as usize).checked_sub(self.overhead).and_then(|len| u32::try_from(len).ok());
        self.rest =
            plain.filter(|len| *len <= SEGMENT_LEN_MAX).ok_or_else(|| Malformed::new("the length of a segment is out of bounds"))?;
        (self.segment, self.offset) = (segment, 0);
        Ok(())
    }

    /// The slices of a delta.
    fn take_slices(&mut self, whole_base: bool) -> Result<Vec<Slice>, Malformed> {
        if whole_base {
            let whole = Slice { base: self.base(0)?, offset: 0, len: self.nominal_len };
            return self.bounded(vec![whole]);
        }
        let count = self.rows.varint()? as usize;
        if count == 0 || count > SLICES_MAX {
            return Err(Malformed::new("a delta has too many slices or none"));
        }
        let used_before = self.used_bases;
        let mut slices = Vec::with_capacity(count);
        for _ in 0..count {
            let back = self.rows.varint()? as usize;
            let base = self.base(back)?;
            let offset = self.rows.varint()?;
            let len = match self.rows.varint()? {
                0 => self.nominal_len,
                len if len == self.nominal_len => return Err(Malformed::new("a slice spells out the nominal length")),
                len => len,
            };
            slices.push(Slice { base, offset, len });
        }
        // A whole base that is new in this table has a bit. The long form is refused.
        let [Slice { offset: 0, len, .. }] = slices.as_slice() else { return self.bounded(slices) };
        match *len == self.nominal_len && self.used_bases > used_before {
            true => Err(Malformed::new("a delta spells out a whole base")),
            false => self.bounded(slices),
        }
    }

    /// Refuses slices that exceed the bounds of the format.
    fn bounded(&mut self, slices: Vec<Slice>) -> Result<Vec<Slice>, Malformed> {
        match prefix_fits(&slices, &mut self.workspace) {
            true => Ok(slices),
            false => Err(Malformed::new("the prefix of a delta is out of bounds")),
        }
    }

    /// The base that is `back` places before the first unused one. With 0 it is the first unused one, which is used
    /// from now on.
    fn base(&mut self, back: usize) -> Result<IdPrefix, Malformed> {
        let base = self.used_bases.checked_sub(back).and_then(|place| self.bases.get(place));
        self.used_bases += usize::from(back == 0);
        base.copied().ok_or_else(|| Malformed::new("a slice names no base of its trailer"))
    }

    /// Checks the last frame, after all of its chunks are known.
    fn close_frame(&self) -> Result<(), Malformed> {
        match self.frames.last() {
            Some(frame) if frame.encoding == Encoding::Raw && frame.encoded_len != frame.plain_len => {
                Err(Malformed::new("a raw frame has two lengths"))
            }
            _ => Ok(()),
        }
    }
}
