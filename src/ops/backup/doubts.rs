//! Packs that a backup does not rely on, because they are damaged or gone.
//!
//!
//! A backup notices three kinds of damage: packs that are missing in the listing or have another size, always; packs
//! that a check or an earlier backup on this machine has found damaged; and damage in what it reads, which is delta
//! bases and the parent's trees. It does not notice damage in an unchanged chunk that nothing reads, in a pack of the
//! right size: a check finds that, and then the next backup knows.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::id::PackId;
use crate::progress::Monitor;
use crate::store::backend::ObjectKey;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::catalog::PackReading;
use crate::store::repo::{Repository, Suspects, WriteSession};

/// The packs that are not relied on.
pub(super) struct Doubts {
    /// `None`: no doubts, all packs are relied on.
    suspects: Option<Suspects>,
    /// The damaged packs that the running session has met.
    met: Arc<Mutex<BTreeSet<PackId>>>,
    /// Whether the catalog was found stale once already. Then the next time is an error.
    pub(super) is_last: bool,
}

impl Doubts {
    /// Compares the listing with the catalog, before a refresh makes the catalog forget the packs that are gone.
    pub(super) fn of(repo: &Repository) -> Result<Self> {
        Ok(Doubts { suspects: repo.suspect_packs()?, met: Arc::default(), is_last: false })
    }

    /// Passes the doubts on to a new session. Returns whether there are any; then the session must read everything.
    pub(super) fn tell(&mut self, session: &mut WriteSession, parent: Option<&SnapshotRecord>) -> Result<bool> {
        let of_last: Vec<PackId> = self.met().into_iter().collect();
        if !of_last.is_empty() {
            self.suspects.get_or_insert_default().packs.extend(of_last);
        }
        // If a pack of the parent is unknown, it is gone or a prune has moved its chunks. Then nothing of the parent
        // is taken over unseen.
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

    /// Whether the session has met damaged packs that it relied on. They are recorded in the catalog.
    pub(super) fn have_grown(&self, session: &WriteSession, now_ns: i64, monitor: &dyn Monitor) -> Result<bool> {
        let known = |id: &PackId| self.suspects.as_ref().is_some_and(|suspects| suspects.packs.contains(id));
        let mut new: Vec<PackId> = Vec::new();
        for id in self.met().into_iter().filter(|id| !known(id)) {
            // A pack that has just gone is not damaged: a prune has deleted it, and the commit notices that.
            new.extend(session.repository().backend().stat(&ObjectKey::Pack(id))?.map(|_| id));
        }
        for id in &new {
            monitor.warn(&format!("pack {id} is damaged: what this backup shares with it is stored anew; starting again"));
        }
        let readings: Vec<_> = new.iter().map(|id| (*id, PackReading { time_ns: now_ns, is_sound: false })).collect();
        // A failure is ignored: the record only saves finding the damage again.
        let _ = session.repository().catalog().put_readings(&readings);
        Ok(!new.is_empty())
    }

    fn met(&self) -> BTreeSet<PackId> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
