//! Parity sections: redundant bytes in an object that can heal it.
//!
//! An object with a section consists of its *head*, the section, and its *tail*. Head and tail are the data; they are
//! cut into shards. The section has a checksum of every shard, twice. It also has either parity shards of a
//! Reed-Solomon code over all data shards, or a replica (a second copy of the data) if that is shorter. All of it
//! follows from head and tail, so a damaged section is made anew. Nothing in a section is trusted: after healing, the
//! object is compared with its name.

use super::wire::Input;
use super::{Malformed, PACK_LEN_MAX, RECORD_LEN_MAX};

/// The first 8 bytes of a descriptor.
pub const PARITY_MAGIC: [u8; 8] = *b"\xCEicePAR\n";
/// Bytes in a descriptor. A section begins and ends with one.
pub const DESCRIPTOR_LEN: usize = 48;
/// Bytes of the checksum at the end of a descriptor.
pub const DESCRIPTOR_CHECKSUM_LEN: usize = 16;
/// Bytes of a descriptor's checksum that must be right (96 bits). So a damaged byte in the checksum does not cost the
/// descriptor.
const CHECKSUM_MATCHES_MIN: usize = 12;
/// Bytes of a shard's checksum. It finds accidents. The name of the object finds everything else.
pub const SHARD_CHECKSUM_LEN: usize = 8;
/// Parity shards start at multiples of it, and their length is a multiple of it, in bytes: disks lose whole sectors.
pub const PARITY_SECTOR_LEN: u32 = 4096;
/// Bytes of a shard with a replica. Of each shard, one of the two copies must be whole.
pub const COPY_SHARD_LEN: u32 = 256;
/// The most data shards of a code. A longer object has longer shards. Bounds the work.
pub const DATA_SHARDS_MAX: u32 = 4096;
/// The fewest parity shards: one bad sector of a disk may touch two shards.
pub const PARITY_SHARDS_MIN: u32 = 2;
/// The most parity that a repository may ask for, in percent of the data.
pub const PARITY_PERCENT_MAX: u8 = 50;
/// The parity of a new repository in a directory, in percent, if the user does not ask for another. It heals a bad
/// sector or two in a pack of usual length.
pub const PARITY_PERCENT_DEFAULT: u8 = 3;
/// The longest object with a section, in bytes: the longest record with its replica.
pub const PROTECTED_LEN_MAX: u64 = 160 << 20;

const _: () = assert!(2 * RECORD_LEN_MAX as u64 + (RECORD_LEN_MAX as u64 >> 4) < PROTECTED_LEN_MAX && PROTECTED_LEN_MAX < PACK_LEN_MAX);

/// The layout of an object with a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes before the section.
    head_len: u64,
    /// Bytes after the section.
    tail_len: u32,
    /// Bytes in a shard. The last shard of the head and the last of the tail may be shorter.
    shard_len: u32,
    /// Parity shards; 0 with a replica.
    parity_shards: u32,
}

impl Geometry {
    /// The layout of a pack: with this many percent of parity, or with a replica if that is shorter.
    pub fn of_pack(head_len: u64, tail_len: u32, percent: u8) -> Self {
        // One shard less than the limit: head and tail are cut by themselves, and rounding up both makes at most one
        // shard more than rounding up their sum.
        let room = u64::from(DATA_SHARDS_MAX - 1) * u64::from(PARITY_SECTOR_LEN);
        let sectors = (head_len + u64::from(tail_len)).div_ceil(room).max(1);
        let shard_len = u32::try_from(sectors).unwrap_or(u32::MAX).saturating_mul(PARITY_SECTOR_LEN);
        let coded = Geometry { head_len, tail_len, shard_len, parity_shards: 0 };
        let parity_shards = (coded.data_shards() * u64::from(percent)).div_ceil(100).max(u64::from(PARITY_SHARDS_MIN));
        let parity_shards = u32::try_from(parity_shards).unwrap_or(u32::MAX);
        let coded = Geometry { parity_shards, ..coded };
        let copied = Geometry { shard_len: COPY_SHARD_LEN, parity_shards: 0, ..coded };
        if coded.section_len() < copied.section_len() { coded } else { copied }
    }

    /// The layout of a record of `len` bytes: with a replica.
    pub fn of_record(len: u64) -> Self {
        Geometry { head_len: len, tail_len: 0, shard_len: COPY_SHARD_LEN, parity_shards: 0 }
    }

    /// Whether a reader accepts it. Everything below computes with lengths that passed this, so nothing overflows.
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

    /// Whether the section has a replica, and not parity.
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

    /// How many spare shards there are: of parity, or of the replica.
    pub fn spare_shards(&self) -> u64 {
        if self.is_copy() { self.data_shards() } else { u64::from(self.parity_shards) }
    }

    /// How many checksums a table has: those of the data shards, then those of the parity shards. Shards of a replica
    /// have the checksums of the data.
    pub fn checksums(&self) -> u64 {
        self.data_shards() + u64::from(self.parity_shards)
    }

    /// Bytes in a table of checksums.
    pub fn table_len(&self) -> u64 {
        self.checksums() * SHARD_CHECKSUM_LEN as u64
    }

    /// The start of the first of the two tables, directly after the first descriptor.
    pub fn first_table(&self) -> u64 {
        self.head_len + DESCRIPTOR_LEN as u64
    }

    /// The start of the parity or the replica. Parity starts at a multiple of a sector, with zeros before it.
    pub fn spare_start(&self) -> u64 {
        let end = self.first_table() + self.table_len();
        if self.is_copy() { end } else { end.next_multiple_of(u64::from(PARITY_SECTOR_LEN)) }
    }

    /// Bytes of parity, or of the replica.
    pub fn spare_len(&self) -> u64 {
        match self.is_copy() {
            true => self.head_len + u64::from(self.tail_len),
            false => u64::from(self.parity_shards) * u64::from(self.shard_len),
        }
    }

    /// The start of the second table.
    pub fn second_table(&self) -> u64 {
        self.spare_start() + self.spare_len()
    }

    /// The start of the second descriptor.
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

    /// The place of a data shard: start and length.
    pub fn data_shard(&self, number: u64) -> (u64, u64) {
        let shard_len = u64::from(self.shard_len);
        let (start, end) = match number.checked_sub(self.head_shards()) {
            None => (number * shard_len, self.head_len),
            Some(in_tail) => (self.head_len + self.section_len() + in_tail * shard_len, self.object_len()),
        };
        (start, end.saturating_sub(start).min(shard_len))
    }

    /// The place of a spare shard: start and length.
    pub fn spare_shard(&self, number: u64) -> (u64, u64) {
        let shard_len = u64::from(self.shard_len);
        match (self.is_copy(), number.checked_sub(self.head_shards())) {
            (false, _) => (self.spare_start() + number * shard_len, shard_len),
            // In a replica the tail comes first. So every byte has the same distance from its second copy, and that
            // distance is the largest possible.
            (true, None) => (self.spare_start() + u64::from(self.tail_len) + number * shard_len, self.data_shard(number).1),
            (true, Some(in_tail)) => (self.spare_start() + in_tail * shard_len, self.data_shard(number).1),
        }
    }

    /// How many shards the head has.
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
    /// If the bytes are not a descriptor, or if it exceeds the bounds of the format.
    pub fn decode(bytes: &[u8; DESCRIPTOR_LEN]) -> Result<Self, Malformed> {
        let geometry = Self::fields(bytes)?;
        match geometry.encode() == *bytes && geometry.is_sane() {
            true => Ok(geometry),
            false => Err(Malformed::new("the descriptor of its parity is damaged")),
        }
    }

    /// The descriptor that these bytes were before they were damaged. This finds it if the magic and the checksum are
    /// mostly right and at most one byte of the fields is wrong.
    pub fn decode_damaged(bytes: &[u8; DESCRIPTOR_LEN]) -> Option<Self> {
        // Whether the fields fit most of the checksum.
        let near = |bytes: &[u8; DESCRIPTOR_LEN]| {
            let geometry = Self::fields(bytes).ok()?;
            let expected = geometry.encode();
            let sums = expected.last_chunk::<DESCRIPTOR_CHECKSUM_LEN>()?.iter().zip(bytes.last_chunk::<DESCRIPTOR_CHECKSUM_LEN>()?);
            (sums.filter(|(one, other)| one == other).count() >= CHECKSUM_MATCHES_MIN && geometry.is_sane()).then_some(geometry)
        };
        let fields = PARITY_MAGIC.len()..DESCRIPTOR_LEN - DESCRIPTOR_CHECKSUM_LEN;
        near(bytes).or_else(|| {
            // Tries all values of each byte of the fields: 24 times 256 short hashes.
            fields.flat_map(|place| (0..=u8::MAX).map(move |value| (place, value))).find_map(|(place, value)| {
                let mut changed = *bytes;
                changed.get_mut(place).into_iter().for_each(|byte| *byte = value);
                near(&changed)
            })
        })
    }

    /// The fields. Magic, zeros and checksum are ignored.
    fn fields(bytes: &[u8; DESCRIPTOR_LEN]) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        input.array::<8>()?;
        Ok(Geometry { head_len: input.u64()?, tail_len: input.u32()?, shard_len: input.u32()?, parity_shards: input.u32()? })
    }
}

/// The length of a stored record without its section, which is its end.
///
/// # Errors
/// If the bytes do not end with a section that fits.
pub fn record_len(stored: &[u8]) -> Result<usize, Malformed> {
    let missing = || Malformed::new("its second copy is missing");
    let geometry = Geometry::decode(stored.last_chunk::<DESCRIPTOR_LEN>().ok_or_else(missing)?)?;
    match geometry == Geometry::of_record(geometry.head_len) && geometry.object_len() == stored.len() as u64 {
        true => usize::try_from(geometry.head_len).map_err(|_| missing()),
        false => Err(missing()),
    }
}
