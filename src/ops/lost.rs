//! Finds out which bytes of a stream are lost.
//!
//! Guarantee: only damage counts as loss; any other error is returned. Everything below a lost tree node counts as
//! lost, and so does a chunk or node with another length than the tree says.
//! Relies on the reader to verify every chunk, and to try other copies and parity first.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::ops::number::wide;
use crate::progress::Monitor;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{Reader, read_node};

/// Number of ranges that a message names.
const RANGES_NAMED: usize = 16;

/// The ranges of a stream that cannot be read, in bytes, in order, with neighbours merged. If a tree node is lost,
/// everything below it is.
///
/// # Errors
/// [`Error::Backend`] when reading itself fails; [`Error::Cancelled`].
pub fn lost_ranges(reader: &Reader, root: &StreamRoot, monitor: &dyn Monitor) -> Result<Vec<Range<u64>>> {
    let mut lost: Vec<Range<u64>> = Vec::new();
    let mut open: Vec<(ChunkId, u8, Range<u64>)> = root.top.map(|top| (top, root.levels, 0..root.len)).into_iter().collect();
    while let Some((id, level, at)) = open.pop() {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let len = at.end - at.start;
        let found = match level {
            0 => reader.chunk(&id).map(|bytes| (wide(bytes.len()) == len).then(Vec::new)),
            _ => read_node(reader, &id, level).map(|node| (node.span_bytes() == Some(len)).then_some(node.children)),
        };
        match found {
            // Push from the last child to the first, so that the walk goes front to back.
            Ok(Some(children)) => {
                let mut end = at.end;
                for child in children.iter().rev() {
                    let start = end.saturating_sub(child.len);
                    open.push((child.id, level.saturating_sub(1), start..end));
                    end = start;
                }
            }
            // Readable, but with another length than the tree says: not the bytes of this place.
            Ok(None) => add(&mut lost, at),
            Err(error) if error.is_damage() => add(&mut lost, at),
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

fn add(lost: &mut Vec<Range<u64>>, at: Range<u64>) {
    match lost.last_mut() {
        Some(last) if last.end == at.start => last.end = at.end,
        _ => lost.push(at),
    }
}

/// Adds the lost ranges of a stream to the error that reading it gave. An error that is not damage stays as it is.
pub(super) fn explained(reader: &Reader, (name, root): (&[u8], &StreamRoot), error: Error, monitor: &dyn Monitor) -> Error {
    if !error.is_damage() {
        return error;
    }
    let lost = match lost_ranges(reader, root, monitor) {
        Ok(lost) if !lost.is_empty() => lost,
        _ => return error,
    };
    let mut named: Vec<String> = lost.iter().take(RANGES_NAMED).map(|range| format!("{}-{}", range.start, range.end - 1)).collect();
    if lost.len() > named.len() {
        named.push(format!("and {} more", lost.len() - named.len()));
    }
    let bytes: u64 = lost.iter().map(|range| range.end - range.start).sum();
    let detail = format!("{bytes} of {} bytes are lost: {} (counted from 0); {error}", root.len, named.join(", "));
    Error::corrupt(format!("stream {}", String::from_utf8_lossy(name)), detail)
}
