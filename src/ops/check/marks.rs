//! Puts marks on snapshots by what a check has found.
//!
//! Guarantee: a snapshot is marked as verified only after a check that has read everything, and only if it was marked
//! as damaged. A snapshot that was always whole gets no mark.
//! Relies on the check's report: it must name every snapshot that damage touches.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{CheckReport, Subset};
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::ops::mark::{Author, Statement, mark};
use crate::store::format::mark::MarkKind;
use crate::store::repo::Repository;

/// Number of streams that a mark names.
const STREAMS_NAMED: usize = 5;

/// The marks that were put.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckMarks {
    /// Snapshots that were marked as damaged.
    #[serde(rename = "marked_damaged")]
    pub damaged: Vec<SnapshotId>,
    /// Snapshots that had been marked as damaged, are whole, and were marked as verified.
    #[serde(rename = "marked_verified")]
    pub verified: Vec<SnapshotId>,
}

/// Marks snapshots that damage touches, so that they do not count as good. After a check that has read everything it
/// also marks those as verified that were marked as damaged and are whole. A snapshot whose mark says this already
/// gets no further mark, nor does one that was always whole: a check of a sound repository writes nothing.
///
/// # Errors
/// The errors of [`mark`]. A snapshot that is gone or whose record cannot be read is passed over.
pub fn mark_found(repo: &Repository, report: &CheckReport, subset: Subset, author: &Author) -> Result<CheckMarks> {
    let refreshed = repo.refresh()?;
    let mut touched: BTreeMap<SnapshotId, BTreeSet<String>> = BTreeMap::new();
    for one in &report.touched {
        let names = one.stream.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        touched.entry(one.snapshot).or_default().extend(names);
    }
    let has_read_all = subset == Subset::All && report.data.is_some_and(|data| data.is_complete());
    let mut marks = CheckMarks::default();
    for (id, _) in &refreshed.snapshots {
        let is_marked = refreshed.marks.get(id).and_then(|marks| marks.health()).is_some_and(|mark| mark.kind == MarkKind::Damaged);
        let (kind, detail, done) = match touched.get(id) {
            Some(streams) if !is_marked => (MarkKind::Damaged, detail(streams), &mut marks.damaged),
            None if is_marked && has_read_all => (MarkKind::Verified, String::new(), &mut marks.verified),
            _ => continue,
        };
        match mark(repo, &refreshed, id, &Statement { kind, code: String::new(), detail }, author) {
            Ok(_) => done.push(*id),
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(marks)
}

fn detail(streams: &BTreeSet<String>) -> String {
    let named: Vec<&str> = streams.iter().take(STREAMS_NAMED).map(String::as_str).collect();
    match streams.len() {
        0 => "a check found that its record or listing cannot be read".to_owned(),
        count if count > STREAMS_NAMED => {
            format!("a check found damage in {} and {} more streams", named.join(", "), count - STREAMS_NAMED)
        }
        _ => format!("a check found damage in {}", named.join(", ")),
    }
}
