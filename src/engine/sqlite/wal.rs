//! Reads the wal-index and finds the newest frame of each page in the write-ahead log
//! (<https://sqlite.org/walformat.html>, section 2).
//!
//! The wal-index is shared memory (the `-shm` file) that other processes change at any time. It is read with atomics,
//! and in the orders that SQLite itself relies on; the reasons are beside each step. `mod.rs` says why the image that
//! results is right.
//!
//! Any user who can write the `-shm` file can put anything into it or cut it short. So every number is checked before
//! it is used, and the frames themselves are checked when they are read (`image.rs`). A wrong index gives an error,
//! never wrong pages.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::engine::{Engine, EngineResult, SHM_REGION_BYTES};

/// Bytes before the first frame of the log.
pub(super) const WAL_HEADER_BYTES: u64 = 32;
/// Bytes before the page in each frame: page number, size after commit, two salts, two checksums.
pub(super) const FRAME_HEADER_BYTES: usize = 24;

/// The only version of the wal-index that exists.
const WAL_INDEX_VERSION: u32 = 3_007_000;
/// 32-bit words in one copy of the wal-index header.
const HEADER_WORDS: usize = 12;
/// The word after both copies of the header: how many frames a checkpoint has written to the main file.
const BACKFILL_WORD: usize = 2 * HEADER_WORDS;
/// The word where the page numbers start in the first region: after both header copies and the checkpoint information,
/// 136 bytes.
const FIRST_PAGES_WORD: usize = 34;
/// Page numbers in a region. The rest of a region is a hash table, which is not used here.
const REGION_PAGES: u32 = 4096;
/// Page numbers in the first region.
const FIRST_REGION_PAGES: u32 = REGION_PAGES - FIRST_PAGES_WORD as u32;

// A region: 4 bytes for each page number, and 2 for each entry of the hash table, which has twice as many.
const _: () = assert!(SHM_REGION_BYTES == REGION_PAGES as usize * 4 + 2 * REGION_PAGES as usize * 2);

/// A valid header of the wal-index, in this machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalHeader([u32; HEADER_WORDS]);

impl WalHeader {
    /// The header, if its two copies are equal and valid.
    fn from_copies(first: [u32; HEADER_WORDS], second: [u32; HEADER_WORDS]) -> Option<Self> {
        let [version, _, _, format, _, _, _, _, _, _, sum_1, sum_2] = first;
        let [is_init, ..] = format.to_ne_bytes();
        // Different copies mean that a writer is between the two. A wrong checksum means that we saw a part of one.
        let good = first == second && version == WAL_INDEX_VERSION && is_init == 1 && checksum(&first) == (sum_1, sum_2);
        let header = Self(first);
        // Without frames the index may not know the page size yet.
        let size_fits = header.page_size() >= 512 && header.page_size().is_power_of_two();
        (good && (size_fits || header.frames() == 0)).then_some(header)
    }

    /// Bytes in a page. 65,536 does not fit 16 bits and is stored as 1.
    pub(super) fn page_size(&self) -> u32 {
        let [_, _, _, format, ..] = self.0;
        let [_, _, low, high] = format.to_ne_bytes();
        match u32::from(u16::from_ne_bytes([low, high])) {
            1 => 65_536,
            bytes => bytes,
        }
    }

    /// The last committed frame, counted from 1; 0 if there is none.
    pub(super) fn frames(&self) -> u32 {
        let [_, _, _, _, frames, ..] = self.0;
        frames
    }

    /// Pages in the database after the last commit.
    pub(super) fn pages(&self) -> u32 {
        let [_, _, _, _, _, pages, ..] = self.0;
        pages
    }

    /// The salts as they stand in the log's header and in each of its frames.
    pub(super) fn salts(&self) -> [u8; 8] {
        let [_, _, _, _, _, _, _, _, salt_1, salt_2, ..] = self.0;
        let ([a, b, c, d], [e, f, g, h]) = (salt_1.to_ne_bytes(), salt_2.to_ne_bytes());
        [a, b, c, d, e, f, g, h]
    }
}

/// The checksum over all words of a header except the last two, which hold it (sqlite3.c: walChecksumBytes). It uses
/// this machine's byte order.
fn checksum(words: &[u32; HEADER_WORDS]) -> (u32, u32) {
    let (pairs, _) = words.as_chunks::<2>();
    pairs.iter().take(HEADER_WORDS / 2 - 1).fold((0u32, 0u32), |(s1, s2), &[a, b]| {
        let s1 = s1.wrapping_add(a).wrapping_add(s2);
        (s1, s2.wrapping_add(b).wrapping_add(s1))
    })
}

/// One copy of the header, which starts at this word.
fn copy_words(region: &[AtomicU32], start: usize) -> Option<[u32; HEADER_WORDS]> {
    let words = region.get(start..start + HEADER_WORDS)?;
    let mut copy = [0; HEADER_WORDS];
    copy.iter_mut().zip(words).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
    Some(copy)
}

/// The header as it is now. `None` if there is no index, or if a writer is changing the header at this moment.
pub(super) fn read_header(engine: &Engine) -> EngineResult<Option<WalHeader>> {
    let Some(region) = engine.shm_region(0)? else { return Ok(None) };
    // Writers store the second copy first, so readers must load the first copy first: if both are equal, no write came
    // in between. The fences keep processor and compiler from changing that order (sqlite3.c: walIndexTryHdr).
    fence(Ordering::SeqCst);
    let first = copy_words(region, 0);
    fence(Ordering::SeqCst);
    let second = copy_words(region, HEADER_WORDS);
    fence(Ordering::SeqCst);
    Ok(first.zip(second).and_then(|(first, second)| WalHeader::from_copies(first, second)))
}

/// What a read transaction sees of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalState {
    /// The header that the transaction works with.
    pub(super) header: WalHeader,
    /// Frames that a checkpoint has written to the main file: their pages can be read there.
    pub(super) backfilled: u32,
}

/// Reads the number of backfilled frames, and *then* the header. The caller compares the header with the one from
/// before its transaction.
///
/// In this order an unchanged header proves that no checkpoint that knew frames after it has set the number. Such a
/// checkpoint may raise the number and leave out a page that has a later frame. The page's older frame would then count
/// as backfilled and not be read from the log, while the main file has an even older page (sqlite3.c: walTryBeginRead).
pub(super) fn read_state(engine: &Engine) -> EngineResult<Option<WalState>> {
    let Some(region) = engine.shm_region(0)? else { return Ok(None) };
    let backfilled = region.get(BACKFILL_WORD).map_or(0, |word| word.load(Ordering::Relaxed));
    fence(Ordering::SeqCst);
    Ok(read_header(engine)?.map(|header| WalState { header, backfilled }))
}

/// Why the map of frames cannot be made.
#[derive(Debug)]
pub(super) enum MapError {
    /// SQLite could not give the shared memory.
    Engine(rusqlite::Error),
    /// The log or its index contradicts the header.
    Damaged(&'static str),
}

impl From<rusqlite::Error> for MapError {
    fn from(error: rusqlite::Error) -> Self {
        MapError::Engine(error)
    }
}

/// Somebody has made the file of the index shorter.
const CUT: &str = "the wal-index was cut short while it was read";

/// The pages whose content is in the log, in order, each with its last frame: `page << 32 | frame`, 8 bytes for each
/// page.
#[derive(Debug, Default)]
pub(super) struct FrameMap(Vec<u64>);

impl FrameMap {
    /// Collects the frames after the backfilled ones, up to the last one of the transaction.
    pub(super) fn build(engine: &Engine, state: &WalState) -> std::result::Result<Self, MapError> {
        let (frames, pages) = (state.header.frames(), state.header.pages());
        // The transaction began with this index. If a part of it was lost since then, even the header may be zeros that
        // replaced it.
        if engine.is_cut() {
            return Err(MapError::Damaged(CUT));
        }
        // Everything is in the main file: the log is not needed.
        if state.backfilled >= frames {
            return Ok(Self::default());
        }
        // The number of frames comes from shared memory. So look whether the log has that many before memory is
        // allocated for them.
        if engine.wal_len()? < frame_offset(frames, state.header.page_size()).saturating_add(frame_bytes(state.header.page_size())) {
            return Err(MapError::Damaged("the write-ahead log is shorter than its index says"));
        }
        let mut map = Vec::with_capacity((frames - state.backfilled) as usize);
        let mut frame = state.backfilled + 1;
        // Each turn takes all page numbers of one region from `frame` on. No writer can change them: our read lock
        // keeps the log from being reset, and later commits append.
        while frame <= frames {
            let (region, word) = place_of(frame);
            let numbers = engine.shm_region(region)?.and_then(|words| words.get(word..REGION_PAGES as usize));
            let numbers = numbers.ok_or(MapError::Damaged("the wal-index is shorter than its header says"))?;
            for number in numbers.iter().take((frames - frame + 1) as usize) {
                match number.load(Ordering::Relaxed) {
                    0 => return Err(MapError::Damaged("the wal-index names no page for a frame")),
                    page if page <= pages => map.push(u64::from(page) << 32 | u64::from(frame)),
                    // A later commit has made the database smaller, and the page is not in it any more.
                    _ => {}
                }
                frame += 1;
            }
        }
        // Pages of the index that were lost meanwhile were read as zeros. That may have gone unnoticed above, so ask
        // once more.
        if engine.is_cut() {
            return Err(MapError::Damaged(CUT));
        }
        // Sorting by page and then by frame brings the entries of a page together, the newest last.
        map.sort_unstable();
        keep_last_frames(&mut map);
        // The map lives as long as the capture, and a long log has many frames of few pages.
        map.shrink_to_fit();
        Ok(Self(map))
    }

    /// The entries (page, frame) from this page on, in order. Pages are counted from 1.
    pub(super) fn entries_from(&self, page: u64) -> impl Iterator<Item = (u32, u32)> + Clone + '_ {
        let start = self.0.partition_point(|&entry| entry >> 32 < page);
        // The casts cut an entry into its halves.
        self.0.get(start..).unwrap_or_default().iter().map(|&entry| ((entry >> 32) as u32, entry as u32))
    }
}

/// Keeps the last entry of each page. The entries of a page stand together, in rising order of frames.
fn keep_last_frames(map: &mut Vec<u64>) {
    map.dedup_by(|next, kept| {
        let same = *next >> 32 == *kept >> 32;
        if same {
            *kept = *next;
        }
        same
    });
}

/// The region that holds the page number of a frame, and the word in that region. Frames are counted from 1.
fn place_of(frame: u32) -> (u32, usize) {
    debug_assert!(frame > 0);
    let index = frame - 1;
    match index.checked_sub(FIRST_REGION_PAGES) {
        None => (0, FIRST_PAGES_WORD + index as usize),
        Some(rest) => (1 + rest / REGION_PAGES, (rest % REGION_PAGES) as usize),
    }
}

/// Bytes of a frame with its header.
pub(super) fn frame_bytes(page_size: u32) -> u64 {
    FRAME_HEADER_BYTES as u64 + u64::from(page_size)
}

/// The byte of the log where a frame starts.
pub(super) fn frame_offset(frame: u32, page_size: u32) -> u64 {
    WAL_HEADER_BYTES + u64::from(frame.saturating_sub(1)) * frame_bytes(page_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(frames: u32, size: u16) -> [u32; HEADER_WORDS] {
        let [low, high] = size.to_ne_bytes();
        let mut words = [WAL_INDEX_VERSION, 0, 7, u32::from_ne_bytes([1, 0, low, high]), frames, 9, 0, 0, 3, 4, 0, 0];
        let (sum_1, sum_2) = checksum(&words);
        (words[10], words[11]) = (sum_1, sum_2);
        words
    }

    #[test]
    fn a_header_needs_two_equal_valid_copies() {
        let good = header(5, 4096);
        assert_eq!(WalHeader::from_copies(good, good).map(|h| (h.frames(), h.pages(), h.page_size())), Some((5, 9, 4096)));
        assert_eq!(WalHeader::from_copies(header(5, 1), header(5, 1)).map(|h| h.page_size()), Some(65_536));
        assert_eq!(WalHeader::from_copies(good, header(6, 4096)), None);
        for word in 0..HEADER_WORDS {
            let mut bad = good;
            bad.iter_mut().skip(word).take(1).for_each(|word| *word ^= 1);
            assert_eq!(WalHeader::from_copies(bad, bad), None, "word {word}");
        }
        assert_eq!(WalHeader::from_copies(header(5, 4097), header(5, 4097)), None);
        assert_eq!(WalHeader::from_copies(header(5, 256), header(5, 256)), None);
        assert!(WalHeader::from_copies(header(0, 0), header(0, 0)).is_some());
    }

    #[test]
    fn frames_are_found_where_sqlite_puts_them() {
        assert_eq!(place_of(1), (0, 34));
        assert_eq!(place_of(4062), (0, 4095));
        assert_eq!(place_of(4063), (1, 0));
        assert_eq!(place_of(4062 + 4096), (1, 4095));
        assert_eq!(place_of(4062 + 4097), (2, 0));
        assert_eq!(frame_offset(1, 4096), 32);
        assert_eq!(frame_offset(3, 512), 32 + 2 * 536);
    }

    #[test]
    fn the_last_frame_of_a_page_counts() {
        let mut map = vec![1 << 32 | 2, 1 << 32 | 5, 1 << 32 | 9, 4 << 32 | 3];
        keep_last_frames(&mut map);
        assert_eq!(map, [1 << 32 | 9, 4 << 32 | 3]);
    }
}
