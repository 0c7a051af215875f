//! Finds missing chunks in files, by their content.
//!
//! A file is cut in every way in which a backup could have cut it: into pages of every possible length, and by
//! content. For each way the tree nodes are built, too, because nodes can be missing like chunks. Whatever has a
//! wanted id is stored. The id is a hash of the bytes, so nothing wrong can be stored.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::ops::number::{index, wide};
use crate::progress::Monitor;
use crate::store::chunker::content_chunks;
use crate::store::format::NODE_FANOUT;
use crate::store::format::node::{Child, Node};
use crate::store::format::pack::IdPrefix;
use crate::store::repo::{Repacker, Repository};

/// The longest page of a database, bytes: <https://sqlite.org/fileformat2.html>, section 1.3.2. Chunks are as long as
/// the pages if the repository's page chunks are shorter.
const PAGE_SIZE_MAX: u32 = 64 << 10;

/// Cuts files and stores the chunks that are wanted.
pub(super) struct Cutter<'a> {
    pub(super) repo: &'a Repository,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) wanted: &'a HashSet<IdPrefix>,
    pub(super) repacker: &'a mut Repacker,
    /// The chunks that were found and stored.
    pub(super) found: HashSet<ChunkId>,
}

impl Cutter<'_> {
    /// Cuts a file, or all files below a directory. Files that cannot be read are reported and passed over.
    pub(super) fn look_into(&mut self, path: &Path) -> Result<()> {
        for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
            match entry {
                Ok(entry) if entry.file_type().is_file() => self.file(entry.path())?,
                // A path that the user names may be a link. Links below a directory may lead anywhere and are not
                // followed.
                Ok(entry) if entry.depth() == 0 && entry.path_is_symlink() && entry.path().is_file() => self.file(entry.path())?,
                Ok(_) => {}
                Err(error) => self.monitor.warn(&format!("{}: {error}", path.display())),
            }
        }
        Ok(())
    }

    /// Cuts one file in all ways.
    fn file(&mut self, path: &Path) -> Result<()> {
        let config = self.repo.config();
        let (shortest, content_len) = (config.page_chunk_len, config.content_chunk_len);
        let mut len = shortest;
        // Every power of two from the repository's own length to the longest page.
        while len <= shortest.max(PAGE_SIZE_MAX) {
            let cut = self.open(path).map(|file| file.map(|file| Pages { file, len: index(len) }));
            self.cut(path, cut?)?;
            len *= 2;
        }
        let seed = self.repo.keys().chunking_seed();
        let cut = self.open(path)?.map(|file| content_chunks(file, content_len, seed));
        self.cut(path, cut)
    }

    fn open(&self, path: &Path) -> Result<Option<File>> {
        match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) => {
                self.monitor.warn(&format!("{}: {error}", path.display()));
                Ok(None)
            }
        }
    }

    /// Offers all pieces of one way of cutting, and the nodes above them.
    fn cut(&mut self, path: &Path, pieces: Option<impl Iterator<Item = std::io::Result<Vec<u8>>>>) -> Result<()> {
        let mut tree: Vec<Vec<Child>> = Vec::new();
        for piece in pieces.into_iter().flatten() {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            match piece {
                Ok(bytes) => {
                    let id = self.offer(&bytes, false)?;
                    self.push(&mut tree, 0, Child { id, len: wide(bytes.len()) })?;
                }
                // The pieces before the error are as good as ever.
                Err(error) => {
                    self.monitor.warn(&format!("{}: {error}", path.display()));
                    break;
                }
            }
        }
        // The end of the file: close the open nodes from the bottom to the top. A top node with a single child does
        // not exist, because its child is the root.
        let mut level = 0;
        while let Some(open) = tree.get(level) {
            if level + 1 == tree.len() && open.len() <= 1 {
                break;
            }
            if !open.is_empty() {
                self.close(&mut tree, level)?;
            }
            level += 1;
        }
        Ok(())
    }

    /// Adds a child to the open node of a level, and closes the node when it is full.
    fn push(&mut self, tree: &mut Vec<Vec<Child>>, level: usize, child: Child) -> Result<()> {
        if tree.len() <= level {
            tree.push(Vec::with_capacity(NODE_FANOUT));
        }
        let Some(open) = tree.get_mut(level) else { return Ok(()) };
        open.push(child);
        if open.len() >= NODE_FANOUT { self.close(tree, level) } else { Ok(()) }
    }

    /// Closes the open node of a level: builds the node that a backup of the same bytes would have built.
    fn close(&mut self, tree: &mut Vec<Vec<Child>>, level: usize) -> Result<()> {
        let Some(open) = tree.get_mut(level) else { return Ok(()) };
        let node = Node {
            level: u8::try_from(level + 1).map_err(|_| Error::bug("a tree of more than 255 levels"))?,
            children: std::mem::take(open),
        };
        let len = node.children.iter().map(|child| child.len).sum();
        let id = self.offer(&node.encode(), true)?;
        self.push(tree, level + 1, Child { id, len })
    }

    /// Stores a chunk if it is wanted, and returns its id.
    fn offer(&mut self, plain: &[u8], node: bool) -> Result<ChunkId> {
        let id = self.repo.keys().chunk_id(plain);
        if self.wanted.contains(&id.prefix()) && self.found.insert(id) {
            self.repacker.store_whole(id, plain, node, 0)?;
        }
        Ok(id)
    }
}

/// Reads a file in pieces of one length.
struct Pages {
    file: File,
    len: usize,
}

impl Iterator for Pages {
    type Item = std::io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = Vec::with_capacity(self.len);
        match (&mut self.file).take(wide(self.len)).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(_) => Some(Ok(piece)),
            Err(error) => Some(Err(error)),
        }
    }
}
