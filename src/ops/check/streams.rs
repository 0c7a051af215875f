//! Checking that every chunk of every snapshot can be read.

use std::collections::HashSet;

use super::packs::BadCopies;
use super::{CheckReport, Severity, Touched};
use crate::error::{Error, Result};
use crate::format::snapshot::{SnapshotRecord, StreamRoot};
use crate::id::{ChunkId, SnapshotId};
use crate::progress::Monitor;
use crate::repo::{Reader, Repository, walk_tree};

/// Chunks that are remembered as sound, so that what many snapshots share is looked up once; bounds the memory, not the result.
const SOUND_MAX: usize = 1 << 20;

/// Walks all trees.
pub(super) fn check_streams(
    repo: &Repository,
    snapshots: &[(SnapshotId, SnapshotRecord)],
    bad: &BadCopies,
    monitor: &dyn Monitor,
    report: &mut CheckReport,
) -> Result<()> {
    monitor.phase("checking snapshots", None);
    let reader = Reader::new(repo);
    let mut walker = Walker { reader: &reader, bad, sound_chunks: HashSet::new(), sound_nodes: HashSet::new() };
    for (id, snapshot) in snapshots {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        let listing = match walker.check_tree(&snapshot.listing)? {
            None => reader.listing(&snapshot.listing),
            Some(damage) => Err(damage),
        };
        let entries = match listing {
            Ok(entries) => entries,
            Err(error) if error.is_damage() => {
                report.found(Severity::Damage, "stream", format!("snapshot {id}"), format!("its listing cannot be read: {error}"));
                report.touched.push(Touched { snapshot: *id, stream: None });
                continue;
            }
            Err(error) => return Err(error),
        };
        for entry in entries {
            if let Some(damage) = walker.check_tree(&entry.root)? {
                let object = format!("snapshot {id}, stream {}", String::from_utf8_lossy(&entry.name));
                report.found(Severity::Damage, "stream", object, damage.to_string());
                report.touched.push(Touched { snapshot: *id, stream: Some(entry.name) });
            }
        }
    }
    Ok(())
}

struct Walker<'a> {
    reader: &'a Reader,
    bad: &'a BadCopies,
    sound_chunks: HashSet<ChunkId>,
    /// Nodes below which everything is sound.
    sound_nodes: HashSet<ChunkId>,
}

impl Walker<'_> {
    /// The first damage in a tree, if there is any.
    fn check_tree(&mut self, root: &StreamRoot) -> Result<Option<Error>> {
        let mut damage = None;
        let mut fresh = Vec::new();
        let walked = walk_tree(self.reader, root, &mut |id, level| {
            if level == 0 {
                damage = self.check_chunk(id)?.or(damage.take());
                return Ok(false);
            }
            // Sound before: nothing below has to be looked at again.
            let known_sound = self.sound_nodes.contains(id);
            fresh.extend((!known_sound).then_some(*id));
            Ok(!known_sound)
        });
        match walked {
            Ok(()) => {}
            Err(error) if error.is_damage() => damage = damage.or(Some(error)),
            Err(error) => return Err(error),
        }
        if damage.is_none() {
            self.sound_nodes.extend(fresh);
        }
        Ok(damage)
    }

    fn check_chunk(&mut self, id: &ChunkId) -> Result<Option<Error>> {
        if self.sound_chunks.contains(id) {
            return Ok(None);
        }
        let copies = self.reader.repository().copies(id)?;
        if copies.is_empty() {
            return Ok(Some(Error::corrupt(format!("chunk {id}"), "no pack holds it")));
        }
        if copies.iter().all(|copy| self.bad.contains(&copy.place())) {
            return Ok(Some(Error::corrupt(format!("chunk {id}"), "every stored copy of it is damaged or lacks its base")));
        }
        if self.sound_chunks.len() >= SOUND_MAX {
            self.sound_chunks.clear();
        }
        self.sound_chunks.insert(*id);
        Ok(None)
    }
}
