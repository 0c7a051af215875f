//! The pages of a file that are other than in the file of the step before, each compressed by itself.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::common::Result;
use crate::common::store::PAGE_BYTES;

/// Bytes of these pages at zstd -3; all pages when there is no earlier file.
///
/// # Errors
/// When a file cannot be read.
pub fn packed_bytes(new: &Path, old: Option<&Path>) -> Result<u64> {
    let mut new = File::open(new)?;
    let mut old = old.map(File::open).transpose()?;
    let mut packer = zstd::bulk::Compressor::new(3)?;
    let (mut fresh, mut before) = (Vec::new(), Vec::new());
    let mut packed = 0;
    while block(&mut new, &mut fresh)? {
        match &mut old {
            Some(old) => drop(block(old, &mut before)?),
            None => before.clear(),
        }
        let mut earlier = before.chunks(PAGE_BYTES);
        for page in fresh.chunks(PAGE_BYTES) {
            if earlier.next() != Some(page) {
                packed += packer.compress(page)?.len() as u64;
            }
        }
    }
    Ok(packed)
}

/// Reads the next pages of a file; false at its end.
fn block(file: &mut File, pages: &mut Vec<u8>) -> Result<bool> {
    pages.clear();
    Ok(file.take(256 * PAGE_BYTES as u64).read_to_end(pages)? > 0)
}
