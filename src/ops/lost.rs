//! Which bytes of a stream are lost.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{Reader, read_node};

/// Ranges that a message names.
const RANGES_NAMED: usize = 16;

/// The ranges of a stream that cannot be given back, in bytes, in order, as long as they can be. Below a tree node that is lost everything is.
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
            0 => reader.chunk(&id).map(|bytes| (bytes.len() as u64 == len).then(Vec::new)),
            _ => read_node(reader, &id, level).map(|node| (node.span_bytes() == Some(len)).then_some(node.children)),
        };
        match found {
            Ok(Some(children)) => {
                let mut end = at.end;
                for child in children.iter().rev() {
                    let start = end.saturating_sub(child.len);
                    open.push((child.id, level.saturating_sub(1), start..end));
                    end = start;
                }
            }
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

/// The error of a stream that cannot be given back, with the bytes that are lost. One that is no damage is given back as it is.
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
