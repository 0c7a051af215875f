//! Parity sections: what an object carries to heal itself.
//!
//! An object with a section is its *head*, the section, its *tail*. Head and tail, the data, are cut into shards. The section holds a checksum
//! of every shard, twice, and either parity shards of a Reed-Solomon code over all of them or, where that is less, a second copy. What is in
//! it follows from head and tail alone, so a damaged section is made anew, and nothing in it has to be believed: who heals an object compares
//! the result with its name.

use super::wire::Input;
use super::{Malformed, PACK_LEN_MAX, RECORD_LEN_MAX};

/// The first 8 bytes of a descriptor.
pub const PARITY_MAGIC: [u8; 8] = *b"\xCEicePAR\n";
/// Bytes in a descriptor, with which a section begins and ends.
pub const DESCRIPTOR_LEN: usize = 48;
/// Bytes of the checksum that ends a descriptor.
pub const DESCRIPTOR_CHECKSUM_LEN: usize = 16;
/// Bytes of a descriptor's checksum that have to be right: one flipped in it does not cost the descriptor. 96 bits.
const CHECKSUM_MATCHES_MIN: usize = 12;
/// Bytes of a shard's checksum. Finds accidents; the object's name is for the rest.
pub const SHARD_CHECKSUM_LEN: usize = 8;
/// Parity shards start at multiples of it and are whole multiples of it long, in bytes: what disks lose is whole sectors.
pub const PARITY_SECTOR_LEN: u32 = 4096;
/// Bytes of a shard where there is a second copy: of each, one of the two has to be whole.
pub const COPY_SHARD_LEN: u32 = 256;
/// The most data shards under a code: of a longer object the shards are longer. Bounds the work.
pub const DATA_SHARDS_MAX: u32 = 4096;
/// The fewest parity shards: a bad sector of a disk may touch two shards.
pub const PARITY_SHARDS_MIN: u32 = 2;
/// The most parity that a repository may ask for, in percent of the data.
pub const PARITY_PERCENT_MAX: u8 = 50;
/// The parity of a new repository in a directory unless another is asked for, in percent: it heals a bad sector or two in a pack of usual length.
pub const PARITY_PERCENT_DEFAULT: u8 = 3;
/// The longest object with a section, in bytes: the longest record with its second copy.
pub const PROTECTED_LEN_MAX: u64 = 160 << 20;

const _: () = assert!(2 * RECORD_LEN_MAX as u64 + (RECORD_LEN_MAX as u64 >> 4) < PROTECTED_LEN_MAX && PROTECTED_LEN_MAX < PACK_LEN_MAX);

/// Where everything of an object with a section lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes before the section.
    head_len: u64,
    /// Bytes after it.
    tail_len: u32,
    /// Bytes in a shard; the last of the head and the last of the tail may be shorter.
    shard_len: u32,
    /// Parity shards; 0 for a second copy.
    parity_shards: u32,
}

impl Geometry {
    /// That of a pack: so many percent of parity, or a second copy where that is shorter.
    pub fn of_pack(head_len: u64, tail_len: u32, percent: u8) -> Self {
        // Rounding head and tail up makes at most one shard more than rounding their sum up.
        let room = u64::from(DATA_SHARDS_MAX - 1) * u64::from(PARITY_SECTOR_LEN);
        let sectors = (head_len + u64::from(tail_len)).div_ceil(room).max(1);
        let shard_len = u32::try_from(sectors).unwrap_or(u32::MAX).saturating_mul(PARITY_SECTOR_LEN);
        let coded = Geometry { head_len, tail_len, shard_len, parity_shards: 0 };
        let parity_shards = (coded.data_shards() * u64::from(percent)).div_ceil(100).max(u64::from(PARITY_SHARDS_MIN)) as u32;
        let coded = Geometry { parity_shards, ..coded };
        let copied = Geometry { shard_len: COPY_SHARD_LEN, parity_shards: 0, ..coded };
        if coded.section_len() < copied.section_len() { coded } else { copied }
    }

    /// That of a record of so many bytes: a second copy.
    pub fn of_record(len: u64) -> Self {
        Geometry { head_len: len, tail_len: 0, shard_len: COPY_SHARD_LEN, parity_shards: 0 }
    }

    /// Whether a reader takes it: lengths within bounds, and the numbers of shards as a writer chooses them.
    fn is_sane(&self) -> bool {
        let is_short = self.head_len > 0 && self.head_len <= PROTECTED_LEN_MAX && u64::from(self.tail_len) <= PROTECTED_LEN_MAX;
        let shards_fit = match self.is_copy() {
            true => self.shard_len == COPY_SHARD_LEN,
            false => {
                let is_whole = self.shard_len > 0 && self.shard_len.is_multiple_of(PARITY_SECTOR_LEN);
                is_whole && {
                    let data = self.data_shards();
                    data <= u64::from(DATA_SHARDS_MAX) && (u64::from(PARITY_SHARDS_MIN)..=data).contains(&u64::from(self.parity_shards))
                }
            }
        };
        is_short && shards_fit && self.object_len() <= PROTECTED_LEN_MAX
    }

    /// Whether the section holds a second copy.
    pub fn is_copy(&self) -> bool {
        self.parity_shards == 0
    }

    /// Bytes before the section.
    pub fn head_len(&self) -> u64 {
        self.head_len
    }

    /// Bytes in a shard that is not the last of head or tail.
    pub fn shard_len(&self) -> u32 {
        self.shard_len
    }

    /// How many shards the data has.
    pub fn data_shards(&self) -> u64 {
        self.head_shards() + u64::from(self.tail_len).div_ceil(u64::from(self.shard_len))
    }

    /// How many shards of parity, or of the second copy, there are.
    pub fn spare_shards(&self) -> u64 {
        if self.is_copy() { self.data_shards() } else { u64::from(self.parity_shards) }
    }

    /// How many checksums a table has: of the data shards and then of the parity shards; a second copy has the same ones.
    pub fn checksums(&self) -> u64 {
        self.data_shards() + u64::from(self.parity_shards)
    }

    /// Bytes in a table of checksums.
    pub fn table_len(&self) -> u64 {
        self.checksums() * SHARD_CHECKSUM_LEN as u64
    }

    /// Where the first of the two tables starts; the first descriptor ends there.
    pub fn first_table(&self) -> u64 {
        self.head_len + DESCRIPTOR_LEN as u64
    }

    /// Where parity, or the second copy, starts. Parity starts at a multiple of a sector, with zeros before it.
    pub fn spare_start(&self) -> u64 {
        let end = self.first_table() + self.table_len();
        if self.is_copy() { end } else { end.next_multiple_of(u64::from(PARITY_SECTOR_LEN)) }
    }

    /// Bytes of parity, or of the second copy.
    pub fn spare_len(&self) -> u64 {
        match self.is_copy() {
            true => self.head_len + u64::from(self.tail_len),
            false => u64::from(self.parity_shards) * u64::from(self.shard_len),
        }
    }

    /// Where the second table starts.
    pub fn second_table(&self) -> u64 {
        self.spare_start() + self.spare_len()
    }

    /// Where the second descriptor starts.
    pub fn second_descriptor(&self) -> u64 {
        self.second_table() + self.table_len()
    }

    /// Bytes in the section.
    pub fn section_len(&self) -> u64 {
        self.second_descriptor() + DESCRIPTOR_LEN as u64 - self.head_len
    }

    /// Bytes in the whole object.
    pub fn object_len(&self) -> u64 {
        self.head_len + self.section_len() + u64::from(self.tail_len)
    }

    /// Where a data shard lies: start and length.
    pub fn data_shard(&self, number: u64) -> (u64, u64) {
        let shard_len = u64::from(self.shard_len);
        let (start, end) = match number.checked_sub(self.head_shards()) {
            None => (number * shard_len, self.head_len),
            Some(in_tail) => (self.head_len + self.section_len() + in_tail * shard_len, self.object_len()),
        };
        (start, end.saturating_sub(start).min(shard_len))
    }

    /// Where a shard of parity, or of the second copy, lies.
    pub fn spare_shard(&self, number: u64) -> (u64, u64) {
        let shard_len = u64::from(self.shard_len);
        match (self.is_copy(), number.checked_sub(self.head_shards())) {
            (false, _) => (self.spare_start() + number * shard_len, shard_len),
            // The tail comes first: so each byte is as far from its copy as any other, and that is as far as can be.
            (true, None) => (self.spare_start() + u64::from(self.tail_len) + number * shard_len, self.data_shard(number).1),
            (true, Some(in_tail)) => (self.spare_start() + in_tail * shard_len, self.data_shard(number).1),
        }
    }

    fn head_shards(&self) -> u64 {
        self.head_len.div_ceil(u64::from(self.shard_len))
    }

    /// The descriptor: magic, length of head and tail, shard length, number of parity shards, four zeros, checksum.
    pub fn encode(&self) -> [u8; DESCRIPTOR_LEN] {
        let fields = [
            &PARITY_MAGIC[..],
            &self.head_len.to_le_bytes(),
            &self.tail_len.to_le_bytes(),
            &self.shard_len.to_le_bytes(),
            &self.parity_shards.to_le_bytes(),
            &0u32.to_le_bytes(),
        ]
        .concat();
        let mut bytes = [0; DESCRIPTOR_LEN];
        let hash = blake3::hash(&fields);
        bytes.iter_mut().zip(fields.iter().chain(hash.as_bytes())).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// Reads a descriptor.
    ///
    /// # Errors
    /// When it is not one, or asks for more than the bounds of the format.
    pub fn decode(bytes: &[u8; DESCRIPTOR_LEN]) -> Result<Self, Malformed> {
        let geometry = Self::fields(bytes)?;
        match geometry.encode() == *bytes && geometry.is_sane() {
            true => Ok(geometry),
            false => Err(Malformed::new("the descriptor of its parity does not hold")),
        }
    }

    /// The descriptor that these bytes were before some of them were damaged: any of the magic or the checksum, as long as most of these are right, and one
    /// of the fields.
    pub fn decode_damaged(bytes: &[u8; DESCRIPTOR_LEN]) -> Option<Self> {
        let near = |bytes: &[u8; DESCRIPTOR_LEN]| {
            let geometry = Self::fields(bytes).ok()?;
            let expected = geometry.encode();
            let sums = expected.last_chunk::<DESCRIPTOR_CHECKSUM_LEN>()?.iter().zip(bytes.last_chunk::<DESCRIPTOR_CHECKSUM_LEN>()?);
            (sums.filter(|(one, other)| one == other).count() >= CHECKSUM_MATCHES_MIN && geometry.is_sane()).then_some(geometry)
        };
        let fields = PARITY_MAGIC.len()..DESCRIPTOR_LEN - DESCRIPTOR_CHECKSUM_LEN;
        near(bytes).or_else(|| {
            fields.flat_map(|place| (0..=u8::MAX).map(move |value| (place, value))).find_map(|(place, value)| {
                let mut changed = *bytes;
                changed.get_mut(place).into_iter().for_each(|byte| *byte = value);
                near(&changed)
            })
        })
    }

    /// The fields, whatever stands in the places of magic, zeros and checksum.
    fn fields(bytes: &[u8; DESCRIPTOR_LEN]) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        input.array::<8>()?;
        Ok(Geometry { head_len: input.u64()?, tail_len: input.u32()?, shard_len: input.u32()?, parity_shards: input.u32()? })
    }
}

/// The length of the object in `stored` without its section, which must be its end, as it is of records.
///
/// # Errors
/// When it does not end with a section that fits.
pub fn record_len(stored: &[u8]) -> Result<usize, Malformed> {
    let missing = || Malformed::new("its second copy is not there");
    let geometry = Geometry::decode(stored.last_chunk::<DESCRIPTOR_LEN>().ok_or_else(missing)?)?;
    match geometry == Geometry::of_record(geometry.head_len) && geometry.object_len() == stored.len() as u64 {
        true => usize::try_from(geometry.head_len).map_err(|_| missing()),
        false => Err(missing()),
    }
}
