//! Marks snapshots after a repair: as damaged if a part of them is lost, as verified if they are whole again.
//!
//! Guarantee: only a repair that has read everything marks a snapshot as verified. A snapshot with losses gets a mark
//! with the code `LOST`. Prune relies on it: it tolerates only snapshots with that code.
//! Relies on the run's set of dead copies being complete for what was read.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::ops::check::{BadCopies, CheckReport, Subset, check_snapshots, check_streams};
use crate::ops::mark::{Statement, mark};
use crate::store::format::mark::MarkKind;
use crate::store::repo::LOST;

use super::run::Run;

/// Number of streams that a mark names.
const STREAMS_NAMED: usize = 5;

impl Run<'_> {
    /// Checks the streams of all snapshots against the copies that are still dead, and marks the snapshots.
    pub(super) fn mark_snapshots(&mut self) -> Result<()> {
        let mut report = CheckReport::default();
        let snapshots = check_snapshots(self.repo, &mut report)?;
        let bad = BadCopies { lost: self.sick.dead.clone(), ..BadCopies::default() };
        check_streams(self.repo, &snapshots, &bad, self.monitor, &mut report)?;
        report.touched.sort();
        report.touched.dedup();
        let mut lost: BTreeMap<SnapshotId, BTreeSet<String>> = BTreeMap::new();
        for touched in &report.touched {
            let names = touched.stream.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            lost.entry(touched.snapshot).or_default().extend(names);
        }
        self.report.lost = report.touched;
        // Only a repair that has read everything may say that a snapshot is whole.
        let has_read_all = !self.options.structure_only && self.options.subset == Subset::All;
        let refreshed = self.repo.refresh()?;
        for (id, _) in &refreshed.snapshots {
            let health = refreshed.marks.get(id).and_then(|marks| marks.health()).filter(|mark| mark.kind == MarkKind::Damaged);
            let (kind, code, detail, done) = match lost.get(id) {
                // Not marked as lossy yet. A damage mark with another code is renewed: prune tolerates only lossy
                // snapshots.
                Some(streams) if health.is_none_or(|mark| mark.code != LOST) => {
                    (MarkKind::Damaged, LOST.to_owned(), detail(streams), &mut self.report.damaged)
                }
                None if health.is_some() && has_read_all => (MarkKind::Verified, String::new(), String::new(), &mut self.report.verified),
                _ => continue,
            };
            match mark(self.repo, &refreshed, id, &Statement { kind, code, detail }, &self.options.author) {
                Ok(_) => done.push(*id),
                // The snapshot was forgotten meanwhile.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The text of a mark.
fn detail(streams: &BTreeSet<String>) -> String {
    let named: Vec<&str> = streams.iter().take(STREAMS_NAMED).map(String::as_str).collect();
    match streams.len() {
        0 => "its list of streams is lost".to_owned(),
        count if count > STREAMS_NAMED => format!("parts of {} and of {} more streams are lost", named.join(", "), count - STREAMS_NAMED),
        _ => format!("parts of {} are lost", named.join(", ")),
    }
}
