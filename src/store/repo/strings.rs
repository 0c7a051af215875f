//! Encodes byte strings in a row, each after its length.
//! Decoding returns `None` for a block that does not consist of whole pairs. The encoding serves only data that this
//! machine alone reads again.

/// Appends a string; `None` if it is 4 GiB long or longer.
pub(crate) fn put_string(block: &mut Vec<u8>, string: &[u8]) -> Option<()> {
    let len = u32::try_from(string.len()).ok()?;
    block.extend_from_slice(&len.to_le_bytes());
    block.extend_from_slice(string);
    Some(())
}

/// All strings of a block, in pairs; `None` if the block does not consist of pairs.
pub(crate) fn string_pairs(mut block: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut pairs = Vec::new();
    while !block.is_empty() {
        let first = take_string(&mut block)?.to_vec();
        pairs.push((first, take_string(&mut block)?.to_vec()));
    }
    Some(pairs)
}

fn take_string<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (len, after) = rest.split_first_chunk::<4>()?;
    let (string, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    *rest = after;
    Some(string)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{put_string, string_pairs};

    #[test]
    fn pairs_come_back_and_nothing_else_is_one() {
        let mut block = Vec::new();
        for string in [b"".as_slice(), b"one", b"two", b""] {
            put_string(&mut block, string).unwrap();
        }
        assert_eq!(string_pairs(&block).unwrap(), [(b"".to_vec(), b"one".to_vec()), (b"two".to_vec(), b"".to_vec())]);
        let whole = [0, 11, 22];
        for len in 0..block.len() {
            assert_eq!(string_pairs(block.get(..len).unwrap()).is_some(), whole.contains(&len), "cut at {len}");
        }
        assert!(string_pairs(&[255; 40]).is_none());
    }
}
