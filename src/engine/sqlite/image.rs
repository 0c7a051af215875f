//! The pages of a database as its read transaction sees them: the file that a checkpoint at this instant would leave.
//!
//! Each page comes from the write-ahead log if the log has it newer, else from the main file. `mod.rs` says why this
//! gives one consistent image although others write meanwhile. It relies on the open read transaction of [`Engine`], so
//! reading fails once that has ended.
//!
//! Several threads read at once. Frames of the log are checked for page number and salts as they are read. Every page
//! passes by the structure check, so that a damaged database is flagged without reading it twice.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use super::bounds::can_grow;
use super::content::NoContent;
use super::engine::Engine;
use super::explain::explain;
use super::header::{self, SqliteHeader};
use super::job::Outcome;
use super::structure::{Root, StructureInspector, StructureReport};
use super::wal::{FRAME_HEADER_BYTES, FrameMap, MapError, WalState, frame_bytes, frame_offset};
use crate::engine::PageRead;
use crate::error::{Error, Result};

/// The byte where SQLite's locks are (<https://sqlite.org/fileformat2.html#the_lock_byte_page>). The page around it
/// holds no data.
const PENDING_BYTE: u64 = 0x4000_0000;

/// Memory for checking the structure of one database as its pages pass by. Of databases that need more, each page is
/// checked by itself only.
const INSPECTOR_BYTES_MAX: usize = 24 << 20;

/// The page size of a database without any byte, for [`PageRead::page_size`].
const EMPTY_PAGE_SIZE: u32 = 4096;

/// The most bytes of consecutive frames that are read at once.
const FRAME_RUN_BYTES: usize = 65_536;

/// A consistent image: the main file, except for the pages that the log has newer.
pub(super) struct Image {
    path: PathBuf,
    /// `None` after [`Image::close`].
    engine: RwLock<Option<Engine>>,
    /// Bytes in the image.
    len: u64,
    /// Bytes in the main file when the transaction began. The image has zeros after them, unless the log has the page.
    main_len: u64,
    page_size: u32,
    frames: FrameMap,
    /// The salts that every frame of the log must have.
    salts: [u8; 8],
    /// Sees every page that is read. `None` for a database without any byte, and after [`Image::inspect`].
    inspector: RwLock<Option<StructureInspector>>,
}

impl Image {
    /// Takes over an engine whose read transaction is open. `state` is what the transaction sees of the log, if there
    /// is a log. `path` is for messages.
    pub(super) fn new(path: PathBuf, engine: Engine, state: Option<WalState>) -> Result<(Self, SqliteHeader)> {
        let main_len = engine.main_len().map_err(|e| explain(&path, &e))?;
        let mut image = Self {
            path,
            engine: RwLock::new(None),
            len: main_len,
            main_len,
            page_size: EMPTY_PAGE_SIZE,
            frames: FrameMap::default(),
            salts: [0; 8],
            inspector: RwLock::new(None),
        };
        // Without frames after the backfilled ones, the main file alone is the image, and its own header says how long
        // it is.
        if let Some(state) = state.filter(|state| state.header.frames() > state.backfilled) {
            image.frames = FrameMap::build(&engine, &state).map_err(|e| match e {
                MapError::Engine(e) => explain(&image.path, &e),
                MapError::Damaged(detail) => image.log_damaged(detail),
            })?;
            image.salts = state.header.salts();
            image.page_size = state.header.page_size();
            image.len = u64::from(state.header.pages()) * u64::from(image.page_size);
            let log_len = engine.wal_len().map_err(|e| explain(&image.path, &e))?;
            // The length comes from shared memory. A false one could make the backup read terabytes of zeros.
            if !can_grow(image.len, main_len.saturating_add(log_len)) {
                return Err(image.log_damaged("it makes a database of more bytes than it and the file can have"));
            }
        }
        let header = image.read_header(&engine)?;
        image.engine = RwLock::new(Some(engine));
        Ok((image, header))
    }

    /// Reads the header from page 1, and takes the page size from it.
    fn read_header(&mut self, engine: &Engine) -> Result<SqliteHeader> {
        if self.len == 0 {
            return Ok(SqliteHeader::default());
        }
        // Without frames the page size is not known yet. EMPTY_PAGE_SIZE bytes are enough for the header, which is in
        // the first 100.
        let mut page = vec![0; self.page_size as usize];
        let in_log = self.frames.entries_from(1).next().filter(|&(number, _)| number == 1);
        match in_log {
            Some((_, frame)) => self.read_frames(engine, 1, frame, &mut page)?,
            None => self.read_main(engine, 0, &mut page)?,
        }
        let header = header::parse(&page, self.len).map_err(|detail| Error::source(&self.path, detail))?;
        // With frames, the log has said how large a page is, too. Pages of two sizes cannot be one image.
        if self.frames.entries_from(1).next().is_some() && header.facts.page_size != self.page_size {
            return Err(self.log_damaged("page 1 and the write-ahead log name different page sizes"));
        }
        self.page_size = header.facts.page_size;
        self.inspector = RwLock::new(Some(StructureInspector::new(&page, header.facts.page_count, INSPECTOR_BYTES_MAX)));
        Ok(header)
    }

    /// The root pages that the schema names. See [`super::engine::Engine::roots`].
    pub(super) fn roots(&self, header: &SqliteHeader) -> Option<Result<Vec<Root>, String>> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.roots(header.written_by)
    }

    /// The content of the tables, read through SQLite in the same transaction. `stop` is asked before each row.
    pub(super) fn content(&self, stop: &dyn Fn() -> bool) -> Outcome {
        match self.engine.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(engine) => engine.content(stop),
            None => Err(NoContent::Stopped),
        }
    }

    /// Ends the transaction and closes the connection. Reading is an error from then on.
    pub(super) fn close(&self) {
        let engine = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(engine);
    }

    /// What is wrong with the structure of the database. To be called once, after every page was read. `roots` come
    /// from [`super::engine::Engine::roots`].
    pub(super) fn inspect(&self, roots: Option<&[Root]>) -> Option<StructureReport> {
        let inspector = self.inspector.write().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(inspector.finish(roots))
    }

    fn log_damaged(&self, detail: &str) -> Error {
        Error::source(
            &self.path,
            format_args!(
                "{detail}: it was changed or replaced behind SQLite's back; open the database with its application, then try again"
            ),
        )
    }

    /// Fills the buffer from the main file, with zeros after the end of the file.
    fn read_main(&self, engine: &Engine, offset: u64, buffer: &mut [u8]) -> Result<()> {
        // The length of when the transaction began counts: a checkpoint may have made the file longer since, with pages
        // that the image takes from the log. At most the length of the buffer, so the cast keeps the value.
        let there = self.main_len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (file, hole) = buffer.split_at_mut(there);
        hole.fill(0);
        engine.read_main(offset, file).map_err(|e| explain(&self.path, &e))
    }

    /// Fills the buffer with the content of consecutive frames from `frame` on. They must be those of consecutive pages
    /// from `page` on.
    fn read_frames(&self, engine: &Engine, page: u32, frame: u32, buffer: &mut [u8]) -> Result<()> {
        // A run has at most FRAME_RUN_BYTES, or one page, so these lengths are small and the casts keep them.
        let mut raw = vec![0; buffer.len() / self.page_size as usize * frame_bytes(self.page_size) as usize];
        engine.read_wal(frame_offset(frame, self.page_size), &mut raw).map_err(|e| explain(&self.path, &e))?;
        let pages = buffer.chunks_exact_mut(self.page_size as usize);
        for ((number, to), from) in (page..).zip(pages).zip(raw.chunks_exact(frame_bytes(self.page_size) as usize)) {
            let (head, content) = from.split_at_checked(FRAME_HEADER_BYTES).unwrap_or_default();
            // Each reset of the log changes the salts, so a frame with other salts is a leftover of an earlier round.
            // This and the page number prove that the index has named the right frame.
            let its_page = head.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
            if its_page != Some(number) || head.get(8..16) != Some(&self.salts) {
                return Err(self.log_damaged("a frame of the write-ahead log is not the one that its index names"));
            }
            to.copy_from_slice(content);
        }
        Ok(())
    }

    /// The length of the run of entries that begins with `first` and goes on with `next`: consecutive pages in
    /// consecutive frames, which one read can get. At least 1, at most `pages_max`.
    fn run_of(&self, mut next: impl Iterator<Item = (u32, u32)>, first: (u32, u32), pages_max: usize) -> usize {
        // At most FRAME_RUN_BYTES / 512, so the cast keeps the value.
        let max = pages_max.min(FRAME_RUN_BYTES / self.page_size as usize).max(1);
        (1..max as u32).take_while(|&i| next.next() == Some((first.0.saturating_add(i), first.1.saturating_add(i)))).count() + 1
    }

    /// Fills the buffer with the pages from `offset` on. Both are whole pages of the image.
    fn read_pages(&self, engine: &Engine, offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        let page_size = u64::from(self.page_size);
        let mut at = offset;
        let mut entries = self.frames.entries_from(offset / page_size + 1).peekable();
        // Each turn reads one piece of the main file, up to the next page that the log has newer, and then one run of
        // frames.
        while !buffer.is_empty() {
            // Entries come in the order of pages and begin at `at`, so the difference is not negative.
            let to_log = entries.peek().map_or(u64::MAX, |&(page, _)| u64::from(page - 1) * page_size - at);
            // At most the length of the buffer, so the cast keeps the value.
            let from_main = to_log.min(buffer.len() as u64) as usize;
            let (main, rest) = buffer.split_at_mut(from_main);
            self.read_main(engine, at, main)?;
            at += from_main as u64;
            buffer = rest;
            let Some(first) = entries.peek().copied().filter(|_| !buffer.is_empty()) else { continue };
            let run = self.run_of(entries.clone().skip(1), first, buffer.len() / page_size as usize);
            let (log, rest) = buffer.split_at_mut_checked(run * page_size as usize).ok_or_else(|| self.misread())?;
            self.read_frames(engine, first.0, first.1, log)?;
            at += log.len() as u64;
            buffer = rest;
            entries.by_ref().take(run).for_each(drop);
        }
        Ok(())
    }

    /// Writes zeros to the part of the buffer, if any, that belongs to the lock-byte page. SQLite never writes that
    /// page, so its bytes are whatever the file system has there; zeros make the stream the same every time.
    fn clear_lock_page(&self, offset: u64, buffer: &mut [u8]) {
        let page_size = u64::from(self.page_size);
        let lock = PENDING_BYTE / page_size * page_size;
        // Clamped to the buffer, so both are at most its length and the casts keep them. Both are equal if the page is
        // elsewhere.
        let start = lock.clamp(offset, offset + buffer.len() as u64) - offset;
        let end = (lock + page_size).clamp(offset, offset + buffer.len() as u64) - offset;
        if let Some(part) = buffer.get_mut(start as usize..end as usize) {
            part.fill(0);
        }
    }

    fn misread(&self) -> Error {
        Error::InvalidArgument(format!("{}: pages must be read whole and within the image", self.path.display()))
    }
}

impl PageRead for Image {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn page_size(&self) -> u32 {
        self.page_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let page_size = u64::from(self.page_size);
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= self.len).ok_or_else(|| self.misread())?;
        // The end of the image need not be the end of a page: a main file without frames may have an odd length.
        if !offset.is_multiple_of(page_size) || (!end.is_multiple_of(page_size) && end != self.len) {
            return Err(self.misread());
        }
        let guard = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let engine = guard.as_ref().ok_or_else(|| Error::source(&self.path, "read after the capture had ended"))?;
        self.read_pages(engine, offset, buffer)?;
        self.clear_lock_page(offset, buffer);
        if let Some(inspector) = &*self.inspector.read().unwrap_or_else(PoisonError::into_inner) {
            inspector.pages(offset / page_size + 1, buffer);
        }
        Ok(())
    }
}
