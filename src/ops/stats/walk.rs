//! Walks the trees of many snapshots. Subtrees that they share are walked once, as long as they are remembered.
//!
//! Guarantee: what is known of nodes has a memory budget, and one level of the walk holds a limited number of children.
//! If something was forgotten, it is walked again, with the same result.
//! Relies on the levels of nodes: each step goes down one level, so the walk ends. Damage ends it with an error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::chains::Profile;
use super::depths::Depths;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::progress::Monitor;
use crate::store::format::snapshot::StreamRoot;
use crate::store::repo::{Cache, Reader, read_node};

/// Most bytes, about, of what is known of nodes.
const NODES_BUDGET: usize = 16 << 20;
/// Bytes, about, that a node takes there besides its profile.
const NODE_BYTES: usize = 160;
/// Number of nodes whose places are looked up at once.
const NODES_AT_ONCE: usize = 256;
/// Most children that one level of a walk holds; those of further nodes wait.
const CHILDREN_AT_ONCE: usize = 32 << 10;
/// After this many nodes the places of chunks are forgotten: each keeps the table of a pack in memory.
const PLACES_KEPT: usize = 1024;

/// Walks snapshots.
pub(super) struct Walker<'a> {
    reader: &'a Reader,
    monitor: &'a dyn Monitor,
    depths: Depths,
    /// The profile of everything below a node, or in the streams of a part of a listing.
    nodes: Cache<ChunkId, Arc<Profile>>,
    /// The listing of the previous snapshot: an unchanged source gives the same one again.
    last: Option<(StreamRoot, Arc<Profile>)>,
    read_since_forgotten: usize,
}

impl<'a> Walker<'a> {
    /// Takes a reader for trees, and what is known of chunks.
    pub(super) fn new(reader: &'a Reader, depths: Depths, monitor: &'a dyn Monitor) -> Self {
        Walker { reader, monitor, depths, nodes: Cache::new(NODES_BUDGET), last: None, read_since_forgotten: 0 }
    }

    /// The profile of the chunks of all streams of a snapshot, given the root of its listing.
    ///
    /// # Errors
    /// Damage, if a part of a tree cannot be read or a chunk is in no pack.
    pub(super) fn snapshot(&mut self, listing: &StreamRoot) -> Result<Arc<Profile>> {
        if let Some((root, profile)) = &self.last
            && root == listing
        {
            return Ok(Arc::clone(profile));
        }
        let mut sum = Profile::default();
        let mut known = Vec::new();
        let reader = self.reader;
        let mut parts = reader.parts(listing)?;
        while let Some(part) = parts.next_besides(&mut |chunk| self.nodes.get(chunk).map(|profile| known.push(profile)).is_some()) {
            let part = part?;
            let chunk = part.chunk();
            let entries = part.entries;
            let roots: Vec<StreamRoot> = entries.iter().map(|entry| entry.root).collect();
            let profile = Arc::new(self.streams(&roots)?);
            sum.add(&profile);
            if let Some(chunk) = chunk {
                self.nodes.put(chunk, Arc::clone(&profile), NODE_BYTES + profile.weight());
            }
        }
        known.iter().for_each(|profile| sum.add(profile));
        let sum = Arc::new(sum);
        self.last = Some((*listing, Arc::clone(&sum)));
        Ok(sum)
    }

    fn streams(&mut self, roots: &[StreamRoot]) -> Result<Profile> {
        let mut by_level: BTreeMap<u8, Vec<ChunkId>> = BTreeMap::new();
        roots.iter().for_each(|root| by_level.entry(root.levels).or_default().extend(root.top));
        let mut sum = Profile::default();
        for (level, tops) in by_level {
            match level {
                0 => sum.add(&Profile::of(&self.depths.of_all(self.reader.repository(), &tops)?)),
                _ => sum.add(&Profile::sum(self.below_all(&tops, level)?.iter().map(|profile| &**profile))),
            }
        }
        Ok(sum)
    }

    /// The profile below each of these nodes, in their order. Many nodes of a level are read together, so that few
    /// look-ups are needed.
    fn below_all(&mut self, ids: &[ChunkId], level: u8) -> Result<Vec<Arc<Profile>>> {
        let mut found: HashMap<ChunkId, Arc<Profile>> = HashMap::new();
        // In the order of the stream: neighbours lie in the same packs.
        let mut unknown = Vec::new();
        let mut seen = HashSet::new();
        for id in ids.iter().filter(|id| seen.insert(**id)) {
            match self.nodes.get(id) {
                Some(profile) => drop(found.insert(*id, profile)),
                None => unknown.push(*id),
            }
        }
        drop(seen);
        for slice in unknown.chunks(NODES_AT_ONCE) {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            self.reader.prefetch(slice.iter().copied())?;
            let mut rest = slice;
            while !rest.is_empty() {
                for (id, profile) in self.read_some(&mut rest, level)? {
                    let profile = Arc::new(profile);
                    self.nodes.put(id, Arc::clone(&profile), NODE_BYTES + profile.weight());
                    found.insert(id, profile);
                }
            }
        }
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    /// Takes nodes from the start, as many as fit, and returns the profile below each.
    fn read_some(&mut self, rest: &mut &[ChunkId], level: u8) -> Result<Vec<(ChunkId, Profile)>> {
        let mut nodes = Vec::new();
        let mut children = Vec::new();
        while let Some((id, others)) = rest.split_first()
            && children.len() < CHILDREN_AT_ONCE
        {
            let node = read_node(self.reader, id, level)?;
            nodes.push((*id, node.children.len()));
            children.extend(node.children.iter().map(|child| child.id));
            *rest = others;
        }
        self.forget_places(nodes.len());
        let mut profiles = Vec::with_capacity(nodes.len());
        if level == 1 {
            let depths = self.depths.of_all(self.reader.repository(), &children)?;
            let mut left = depths.as_slice();
            for (id, count) in nodes {
                let (own, others) = left.split_at_checked(count).unwrap_or((left, &[]));
                profiles.push((id, Profile::of(own)));
                left = others;
            }
        } else {
            let mut below = self.below_all(&children, level - 1)?.into_iter();
            for (id, count) in nodes {
                let own: Vec<Arc<Profile>> = below.by_ref().take(count).collect();
                profiles.push((id, Profile::sum(own.iter().map(|profile| &**profile))));
            }
        }
        Ok(profiles)
    }

    fn forget_places(&mut self, read: usize) {
        self.read_since_forgotten += read;
        if self.read_since_forgotten >= PLACES_KEPT {
            self.reader.places().forget();
            self.read_since_forgotten = 0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::super::chains::Depth;
    use super::*;
    use crate::fs::disk::RealDisk;
    use crate::id::SourceId;
    use crate::progress::Silent;
    use crate::recorded::{EntryKind, SourceKind};
    use crate::store::backend::LocalBackend;
    use crate::store::format::NODE_FANOUT;
    use crate::store::format::key::KdfCost;
    use crate::store::format::record;
    use crate::store::format::snapshot::StreamEntry;
    use crate::store::format::snapshot::{SnapshotRecord, SourceRef};
    use crate::store::repo::{
        ChunkWriter, InitOptions, NewChunk, OpenOptions, Reference, Repository, SessionOptions, TreeCursor, TreeWriter, WriteSession,
    };

    fn stream(session: &WriteSession, writer: &mut ChunkWriter<'_>, chunks: &[Vec<u8>]) -> StreamRoot {
        let mut no_parent = TreeCursor::new(session.reader(), None);
        let mut tree = TreeWriter::new();
        for plain in chunks {
            let id = session.repository().keys().chunk_id(plain);
            writer.put(&[NewChunk { id, plain, references: vec![Reference::default()] }]).unwrap();
            tree.push(id, plain.len() as u32, writer, &mut no_parent).unwrap();
        }
        tree.finish(writer, &mut no_parent).unwrap()
    }

    /// Listings of a stream of many chunks, and of the same stream with one more changed each time; their packs are in the catalog.
    fn listings(repo: &Repository, changes: &[usize]) -> Vec<StreamRoot> {
        let mut chunks: Vec<Vec<u8>> = (0..3 * NODE_FANOUT as u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let session = WriteSession::begin(repo, &SessionOptions::default()).unwrap();
        let mut writer = session.writer().unwrap();
        let mut listings = Vec::new();
        for change in changes {
            chunks.get_mut(*change).unwrap().push(1);
            let root = stream(&session, &mut writer, &chunks);
            let entry = StreamEntry { name: b"x".to_vec(), kind: EntryKind::File, root, meta: None, tables: Vec::new() };
            listings.push(stream(&session, &mut writer, &[record::encode(&entry).unwrap()]));
        }
        writer.flush().unwrap();
        drop(writer);
        // Its packs are all that matters of the snapshot.
        let source = SourceRef { id: SourceId([0; 32]), kind: SourceKind::FILES, label: String::new() };
        let (time_ns, duration_us, parent, listing) = (0, 0, None, *listings.last().unwrap());
        let (host, user, tool, tags, flags, facts) = Default::default();
        let (entries, logical_bytes, packs, stats) = Default::default();
        let draft = SnapshotRecord {
            time_ns,
            duration_us,
            host,
            user,
            tool,
            source,
            parent,
            tags,
            flags,
            accepted: Vec::new(),
            listing,
            entries,
            logical_bytes,
            packs,
            stats,
            written_ns: 0,
            facts,
        };
        session.commit(draft).unwrap();
        listings
    }

    #[test]
    fn what_snapshots_share_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let backend = LocalBackend::create(&dir.path().join("repo"), Arc::new(RealDisk)).unwrap();
        Repository::init(
            &backend,
            &InitOptions { passphrase: None, cost: KdfCost { memory_kib: 8, passes: 1, lanes: 1 }, parity_percent: 0 },
        )
        .unwrap();
        let passphrase = || Err(Error::Poisoned);
        let options = OpenOptions { passphrase: &passphrase, cache_dir: dir.path().join("cache"), threads: 1, trust: Default::default() };
        let repo = Repository::open(Arc::new(backend), &options).unwrap();
        let listings = listings(&repo, &[0, 5, NODE_FANOUT]);
        let reader = Reader::for_trees(&repo);
        let mut walker = Walker::new(&reader, Depths::default(), &Silent);
        let all = Profile::of(&vec![Depth { level: 0, work: 1 }; 3 * NODE_FANOUT]);
        let mut read = Vec::new();
        for listing in [&listings[..], &listings[2..], &listings[..1]].concat() {
            let before = walker.read_since_forgotten;
            assert_eq!(*walker.snapshot(&listing).unwrap(), all);
            read.push(walker.read_since_forgotten - before);
        }
        assert_eq!(read, [4, 2, 2, 0, 0], "all nodes; the top and the one that changed; none");
    }
}
