//! Writes files with holes: whole blocks of zeros are not written.
//!
//! Guarantee: the file reads the same as if all bytes had been written.
//! Relies on the caller: the place in the file must read as zeros before, as in a new file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Holes begin and end at multiples of this: the block length of most file systems, or a part of it.
const BLOCK_LEN: u64 = 4096;

/// Writes bytes to a place in a file that has zeros there. Whole blocks of zeros are left out.
pub(crate) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    // The part of `bytes` that has been looked at, and the start of its last blocks that are not written yet. They are
    // written together.
    let (mut at, mut pending): (usize, Option<usize>) = (0, None);
    // usize fits u64 on every platform.
    let flush = |from: usize, to: usize| file.write_all_at(bytes.get(from..to).unwrap_or_default(), offset + from as u64);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        // At most BLOCK_LEN, so it fits usize.
        let to_boundary = (BLOCK_LEN - (offset + at as u64) % BLOCK_LEN) as usize;
        let (block, _) = rest.split_at(to_boundary.min(rest.len()));
        match block.iter().all(|&byte| byte == 0) {
            true => pending.take().map_or(Ok(()), |from| flush(from, at))?,
            false => pending = pending.or(Some(at)),
        }
        at += block.len();
    }
    pending.map_or(Ok(()), |from| flush(from, at))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn all_but_blocks_of_zeros_is_written() {
        let mut bytes = vec![0u8; 1 << 20];
        for at in [0, 5000, 8191, 8192, 700_000, (1 << 20) - 1] {
            bytes.iter_mut().skip(at).take(100).for_each(|byte| *byte = 7);
        }
        for offset in [0, 1, 4095, 4096, 100_001] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(offset + bytes.len() as u64).unwrap();
            write(&file, &bytes, offset).unwrap();
            let mut back = vec![1; bytes.len()];
            file.read_exact_at(&mut back, offset).unwrap();
            assert!(back == bytes, "{offset}");
            assert!(file.metadata().unwrap().blocks() * 512 < 200_000, "{offset}");
        }
    }
}
