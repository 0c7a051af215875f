//! Divides stored bytes by their purpose.
//!
//! Guarantee: encoded chunks and metadata together are all stored bytes. A frame that chunks share counts once.
//! Relies on the tables of packs. A pack without a readable table counts only with its size, as metadata.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::store::format::HEADER_LEN;
use crate::store::format::pack::{Encoding, FOOTER_LEN, Trailer};
use crate::store::format::snapshot::PackRef;

macro_rules! encodings {
    ($($variant:ident => $name:literal,)+) => {
        /// The names of the encodings, in the order in which costs give them.
        pub const ENCODINGS: &[&str] = &[$($name),+];

        fn name_of(encoding: Encoding) -> &'static str {
            match encoding {
                $(Encoding::$variant => $name,)+
            }
        }
    };
}

// A further encoding of the format is one line here; without it this does not compile.
encodings! {
    Raw => "raw",
    Zstd => "zstd",
    Delta => "delta",
    Patch => "patch",
}

/// Stored bytes by their purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// All stored bytes.
    pub stored_bytes: u64,
    /// Encoded bytes of chunks, without tree nodes, in the order of [`ENCODINGS`].
    encoded: [u64; ENCODINGS.len()],
    /// Encoded bytes of tree nodes.
    pub node_bytes: u64,
    /// Bytes of the tables of packs.
    pub table_bytes: u64,
    /// Bytes of padding and parity in packs.
    pub padding_bytes: u64,
    /// Bytes of all objects except packs: snapshot records, keys, the configuration, marks.
    pub record_bytes: u64,
}

impl Serialize for Cost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("stored_bytes", &self.stored_bytes)?;
        for (name, bytes) in self.by_encoding() {
            map.serialize_entry(&format!("{name}_bytes"), &bytes)?;
        }
        map.serialize_entry("metadata_bytes", &self.metadata_bytes())?;
        map.serialize_entry("node_bytes", &self.node_bytes)?;
        map.serialize_entry("table_bytes", &self.table_bytes)?;
        map.serialize_entry("padding_bytes", &self.padding_bytes)?;
        map.serialize_entry("record_bytes", &self.record_bytes)?;
        map.end()
    }
}

impl Cost {
    /// Encoded bytes of chunks, without tree nodes, by the name of the encoding.
    pub fn by_encoding(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ENCODINGS.iter().copied().zip(self.encoded)
    }

    /// All bytes that are not encoded chunks: nodes, tables, padding, records, and headers, footers and seals of
    /// packs.
    pub fn metadata_bytes(&self) -> u64 {
        self.stored_bytes.saturating_sub(self.encoded.iter().sum())
    }

    /// `logical_bytes` divided by the stored bytes; `None` if nothing is stored.
    pub fn ratio(&self, logical_bytes: u64) -> Option<f64> {
        (self.stored_bytes > 0).then(|| logical_bytes as f64 / self.stored_bytes as f64)
    }

    /// Adds another cost.
    pub(super) fn add(&mut self, other: &Cost) {
        self.stored_bytes += other.stored_bytes;
        self.encoded.iter_mut().zip(other.encoded).for_each(|(sum, bytes)| *sum += bytes);
        self.node_bytes += other.node_bytes;
        self.table_bytes += other.table_bytes;
        self.padding_bytes += other.padding_bytes;
        self.record_bytes += other.record_bytes;
    }

    /// Adds an object that is not a pack.
    pub(super) fn add_small(&mut self, bytes: u64) {
        self.stored_bytes += bytes;
        self.record_bytes += bytes;
    }

    /// Adds a pack whose table cannot be read: only its size is known.
    pub(super) fn add_unknown(&mut self, bytes: u64) {
        self.stored_bytes += bytes;
    }

    /// Adds a pack.
    pub(super) fn add_table(&mut self, pack: &PackRef, trailer: &Trailer) {
        let segments: u64 = trailer.segments.iter().map(|len| u64::from(*len)).sum();
        self.stored_bytes += pack.size;
        self.table_bytes += pack.size.saturating_sub(pack.trailer_offset).saturating_sub(FOOTER_LEN as u64);
        self.padding_bytes += pack.trailer_offset.saturating_sub(HEADER_LEN as u64).saturating_sub(segments);
        let mut last = None;
        for chunk in &trailer.chunks {
            // Count a frame once, at its first chunk. A node never shares its frame with a data chunk.
            if last.replace(chunk.frame) == Some(chunk.frame) {
                continue;
            }
            let Some(frame) = trailer.frames.get(chunk.frame as usize) else { continue };
            let name = name_of(frame.encoding);
            let bytes = match chunk.node {
                true => Some(&mut self.node_bytes),
                false => self.encoded.iter_mut().zip(ENCODINGS).find(|(_, of)| **of == name).map(|(bytes, _)| bytes),
            };
            bytes.into_iter().for_each(|bytes| *bytes += u64::from(frame.encoded_len));
        }
    }
}
