//! Where streams are cut. Page files are cut at fixed places, so that a page keeps its chunk; anything else by its content, so that an
//! insertion moves only the cuts near it.

use std::io::Read;

use fastcdc::v2020::{Normalization, StreamCDC};

use crate::format::CHUNK_LEN_MAX;

/// Bytes in a chunk of a page file with this page size: the repository's length, or one page where that is longer.
pub fn page_chunk_len(configured: u32, page_size: u32) -> u32 {
    configured.max(page_size)
}

/// Cuts a stream by its content with FastCDC (Xia et al., USENIX ATC 2016; the 2020 variant), normalisation level 1. Chunks are between a
/// quarter and four times of the aimed-at length; `seed` makes the cuts of an encrypted repository its own, so that their lengths tell
/// nothing about known contents.
pub fn content_chunks<R: Read>(input: R, aimed_len: u32, seed: u64) -> impl Iterator<Item = std::io::Result<Vec<u8>>> {
    let aimed = aimed_len as usize;
    let longest = (aimed * 4).min(CHUNK_LEN_MAX as usize);
    StreamCDC::with_level_and_seed(input, aimed / 4, aimed, longest, Normalization::Level1, seed)
        .map(|chunk| chunk.map(|data| data.data).map_err(std::io::Error::from))
}
