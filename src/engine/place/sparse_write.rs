//! Files that had holes get them back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where holes may begin and end: the length of a block of most file systems, or a part of it.
const BLOCK_LEN: usize = 4096;

/// Writes bytes to their place in a file that has zeros there, but for whole blocks of zeros.
pub(crate) fn write(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let (mut rest, mut at) = (bytes, offset);
    // What is to be written of the blocks before `rest`, and where.
    let mut pending: Option<(u64, usize)> = None;
    let flush = |pending: Option<(u64, usize)>| match pending {
        Some((from, len)) => {
            let start = (from - offset) as usize;
            file.write_all_at(bytes.get(start..start + len).unwrap_or_default(), from)
        }
        None => Ok(()),
    };
    while !rest.is_empty() {
        let to_boundary = BLOCK_LEN - (at % BLOCK_LEN as u64) as usize;
        let (block, after) = rest.split_at(to_boundary.min(rest.len()));
        match block.iter().all(|&byte| byte == 0) {
            true => flush(pending.take())?,
            false => pending = Some(pending.map_or((at, block.len()), |(from, len)| (from, len + block.len()))),
        }
        (rest, at) = (after, at + block.len() as u64);
    }
    flush(pending)
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
