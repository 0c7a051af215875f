//! A prune as the design describes it, in steps that can be stopped between: what the writer's half of the protocol has to stand up to.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use icecore::id::{ChunkId, PackId};
use icecore::progress::Silent;
use icecore::store::backend::{Backend, ObjectKey, ObjectKind, WriteMode};
use icecore::store::format::node::Node;
use icecore::store::format::pack::{IdPrefix, Slice, Trailer};
use icecore::store::format::snapshot::{SnapshotRecord, StreamRoot};
use icecore::store::format::{HEADER_LEN, Kind, ObjectHeader, SALT_LEN, record};
use icecore::store::repo::{Reader, Repository};

/// One prune with a grace time of zero. Steps: mark, look, delete, unmark.
pub struct Prune {
    backend: Arc<dyn Backend>,
    /// Takes all pending records that are there when it marks for those of dead writers.
    expire: bool,
    /// Pending records, by the id of their tombstones.
    expired: BTreeSet<ObjectKey>,
    marked: BTreeSet<PackId>,
    doomed: Vec<PackId>,
    pub deleted: usize,
}

impl Prune {
    pub fn new(backend: Arc<dyn Backend>, expire: bool) -> Self {
        Prune { backend, expire, expired: BTreeSet::new(), marked: BTreeSet::new(), doomed: Vec::new(), deleted: 0 }
    }

    /// Runs one of the four steps.
    pub fn step(&mut self, number: usize) {
        match number {
            0 => self.mark(),
            1 => self.look(),
            2 => self.delete(),
            _ => self.unmark(),
        }
    }

    fn mark(&mut self) {
        if self.expire {
            self.expired = self.pending().into_iter().collect();
        }
        let live = self.live();
        self.marked = self.packs().into_iter().filter(|pack| !live.contains(pack)).collect();
        let dead_writers = self.expired.iter().map(expiry_of);
        for id in self.marked.iter().copied().chain(dead_writers) {
            // One that an earlier prune has left is as good.
            let _ = self.backend.write(&ObjectKey::Tombstone(id), &[b"marked"], WriteMode::CreateNew);
        }
    }

    /// Lists pending records, then snapshots, then tombstones afresh; only what is marked and still dead is doomed.
    fn look(&mut self) {
        let live = self.live();
        let tombstones: BTreeSet<PackId> = self.list(ObjectKind::Tombstone).into_iter().filter_map(pack_of).collect();
        self.doomed = self.packs().into_iter().filter(|pack| tombstones.contains(pack) && !live.contains(pack)).collect();
    }

    fn delete(&mut self) {
        self.deleted += self.doomed.len();
        self.doomed.drain(..).for_each(|pack| self.backend.delete(&[ObjectKey::Pack(pack)]).unwrap());
        self.expired.iter().for_each(|key| self.backend.delete(&[*key]).unwrap());
    }

    fn unmark(&mut self) {
        let dead_writers = self.expired.iter().map(expiry_of);
        for id in self.marked.iter().copied().chain(dead_writers) {
            self.backend.delete(&[ObjectKey::Tombstone(id)]).unwrap();
        }
    }

    fn list(&self, kind: ObjectKind) -> Vec<ObjectKey> {
        self.backend.list(kind).unwrap().map(|info| info.unwrap().key).collect()
    }

    fn packs(&self) -> Vec<PackId> {
        self.list(ObjectKind::Pack).into_iter().filter_map(pack_of).collect()
    }

    fn pending(&self) -> Vec<ObjectKey> {
        self.list(ObjectKind::Pending)
    }

    /// The packs that listed and pending snapshots need: the copy of the lowest level of every chunk and of its bases.
    fn live(&self) -> HashSet<PackId> {
        let cache = super::simulated::scratch();
        let repo = super::support::open_backend(self.backend.clone(), cache.path().to_path_buf(), 1).unwrap();
        let pending: Vec<SnapshotRecord> =
            self.pending().into_iter().filter(|key| !self.expired.contains(key)).filter_map(|key| open_pending(&repo, &key)).collect();
        let listed = repo.refresh().unwrap();
        assert!(listed.damage.is_empty(), "{:?}", listed.damage);
        repo.list_all_packs().unwrap();
        let copies = Copies::of(&repo);
        let reader = Reader::new(&repo);
        let mut live = Live { reader: &reader, copies: &copies, seen: HashSet::new(), packs: HashSet::new() };
        for record in listed.snapshots.iter().map(|(_, record)| record).chain(&pending) {
            live.walk(&record.listing);
            reader.listing(&record.listing, &Silent).unwrap().iter().for_each(|entry| live.walk(&entry.root));
        }
        live.packs
    }
}

/// The tombstone of a pending record that has expired.
fn expiry_of(pending: &ObjectKey) -> PackId {
    let ObjectKey::Pending { id, .. } = pending else { unreachable!() };
    PackId(*id.as_bytes())
}

fn pack_of(key: ObjectKey) -> Option<PackId> {
    match key {
        ObjectKey::Pack(id) | ObjectKey::Tombstone(id) => Some(id),
        _ => None,
    }
}

/// A pending record; `None` if its writer has just removed it.
fn open_pending(repo: &Repository, key: &ObjectKey) -> Option<SnapshotRecord> {
    let stored = repo.backend().read(key, None).ok()?;
    let header = ObjectHeader::decode(&stored, Kind::Snapshot).unwrap();
    let mut body = stored[HEADER_LEN..].to_vec();
    repo.keys().sealer(&header).unwrap().open(0, &mut body).unwrap();
    Some(record::decode(&body).unwrap())
}

/// A copy of a chunk: the level of its frame, the pack, and what the frame is a delta of.
type Stored = (u8, PackId, Arc<[Slice]>);

/// All copies of all chunks, the lowest level first.
struct Copies(BTreeMap<IdPrefix, Vec<Stored>>);

impl Copies {
    fn of(repo: &Repository) -> Self {
        let mut copies: BTreeMap<IdPrefix, Vec<Stored>> = BTreeMap::new();
        for known in repo.catalog().packs().unwrap() {
            let kept = repo.catalog().trailer(known.num).unwrap().unwrap();
            let trailer = Trailer::decode(&kept[SALT_LEN..], repo.keys().cipher().overhead()).unwrap();
            let frames: Vec<Stored> = trailer.frames.into_iter().map(|frame| (frame.level, known.pack.id, frame.slices.into())).collect();
            for entry in trailer.chunks {
                copies.entry(entry.id.prefix()).or_default().push(frames[entry.frame as usize].clone());
            }
        }
        copies.values_mut().for_each(|copies| copies.sort_by_key(|(level, pack, _)| (*level, *pack)));
        Copies(copies)
    }
}

impl Copies {
    /// Of the copies below a level that have all their bases the one of the lowest level: an earlier prune may have kept a pack with
    /// copies that nobody needed, and deleted their bases.
    fn best(&self, prefix: IdPrefix, below: u8) -> Option<&Stored> {
        let mut copies = self.0.get(&prefix)?.iter();
        copies.find(|(level, _, slices)| *level < below && slices.iter().all(|slice| self.best(slice.base, *level).is_some()))
    }
}

struct Live<'a> {
    reader: &'a Reader,
    copies: &'a Copies,
    seen: HashSet<ChunkId>,
    packs: HashSet<PackId>,
}

impl Live<'_> {
    fn walk(&mut self, root: &StreamRoot) {
        let mut open: Vec<(ChunkId, u8)> = root.top.map(|top| (top, root.levels)).into_iter().collect();
        while let Some((id, level)) = open.pop() {
            if !self.seen.insert(id) {
                continue;
            }
            self.keep(id.prefix(), u8::MAX);
            if level > 0 {
                let node = Node::decode(&self.reader.chunk(&id).unwrap(), level).unwrap();
                open.extend(node.children.iter().map(|child| (child.id, level - 1)));
            }
        }
    }

    fn keep(&mut self, prefix: IdPrefix, below: u8) {
        let (level, pack, slices) = self.copies.best(prefix, below).expect("a live chunk has no pack");
        self.packs.insert(*pack);
        slices.iter().for_each(|slice| self.keep(slice.base, *level));
    }
}
