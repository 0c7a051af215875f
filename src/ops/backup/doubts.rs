//! What a backup doubts of what is stored, and what it learns about that while it reads bases.
//!
//! What is noticed: packs that are gone or have another size, in the listing, always; packs that a check or an earlier backup on this machine has found damaged; and
//! damage in what this backup reads, which is the bases of its deltas and the trees of its parent. What nothing reads (a chunk that has not changed, in a pack of the right
//! size) is for a check to find; the next backup knows.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::id::PackId;
use crate::progress::Monitor;
use crate::store::backend::ObjectKey;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::catalog::PackReading;
use crate::store::repo::{Repository, Suspects, WriteSession};

/// Packs that are not to be relied upon.
pub(super) struct Doubts {
    suspects: Option<Suspects>,
    /// What the session that runs has come upon.
    met: Arc<Mutex<BTreeSet<PackId>>>,
    /// Whether this is the last attempt after something has gone stale.
    pub(super) is_last: bool,
}

impl Doubts {
    /// Looks at the listing, before a refresh lets the catalog forget what is gone.
    pub(super) fn of(repo: &Repository) -> Result<Self> {
        Ok(Doubts { suspects: repo.suspect_packs()?, met: Arc::default(), is_last: false })
    }

    /// Tells a new session; whether it has to be careful.
    pub(super) fn tell(&mut self, session: &mut WriteSession, parent: Option<&SnapshotRecord>) -> Result<bool> {
        let of_last: Vec<PackId> = self.met().into_iter().collect();
        if !of_last.is_empty() {
            self.suspects.get_or_insert_default().packs.extend(of_last);
        }
        // Packs of the parent that nobody has are gone, or a prune has moved what was in them.
        let has_all = |record: &SnapshotRecord| session.repository().knows_all(record.packs.iter().map(|pack| pack.id));
        if self.suspects.is_none() && !parent.map_or(Ok(true), has_all)? {
            self.suspects = Some(Suspects::default());
        }
        self.met = session.reader().bad_packs();
        if let Some(suspects) = &self.suspects {
            session.distrust(suspects.clone());
        }
        Ok(self.suspects.is_some())
    }

    /// Whether the session has come upon damaged packs that it had relied upon. The catalog remembers them. One that has just gone is for the commit to notice.
    pub(super) fn have_grown(&self, session: &WriteSession, now_ns: i64, monitor: &dyn Monitor) -> Result<bool> {
        let known = |id: &PackId| self.suspects.as_ref().is_some_and(|suspects| suspects.packs.contains(id));
        let mut new: Vec<PackId> = Vec::new();
        for id in self.met().into_iter().filter(|id| !known(id)) {
            new.extend(session.repository().backend().stat(&ObjectKey::Pack(id))?.map(|_| id));
        }
        for id in &new {
            monitor.warn(&format!("pack {id} is damaged: what this backup shares with it is stored anew; starting again"));
        }
        let readings: Vec<_> = new.iter().map(|id| (*id, PackReading { time_ns: now_ns, is_sound: false })).collect();
        // Only saves finding it again.
        let _ = session.repository().catalog().put_readings(&readings);
        Ok(!new.is_empty())
    }

    fn met(&self) -> BTreeSet<PackId> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
