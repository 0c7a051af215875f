//! Sums up the content of databases in a thread of its own, inside their read transactions, while their pages are read.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::capture::CapturedFile;
use super::content::NoContent;
use super::image::Image;
use crate::format::snapshot::TableContent;

/// Bytes of databases in WAL mode up to which content is summed up unless asked for: about 7 ms of one core for each MiB of rows of 300
/// bytes (`cargo bench --bench drill`). Nobody waits for it, but a checkpoint may have to leave more in the log meanwhile.
const AUTO_WAL_BYTES: u64 = 64 << 20;

/// The same in rollback-journal mode, where writers wait for it: some 30 ms.
const AUTO_ROLLBACK_BYTES: u64 = 4 << 20;

/// When to sum up the content of databases at their capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentWhen {
    /// As long as it is cheap: databases up to 64 MiB together in WAL mode, up to 4 MiB where writers have to wait for it.
    #[default]
    Auto,
    /// Whatever it takes.
    Always,
    /// Not at all.
    Never,
}

/// What a database's tables held, or why that is not known.
pub(super) type Outcome = Result<Vec<TableContent>, NoContent>;

/// The work in progress. Dropped, it stops.
pub(super) struct ContentJob {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<HashMap<usize, Outcome>>>,
}

impl ContentJob {
    /// Begins with these databases, in this order; what is unchanged needs no work.
    pub(super) fn start<'f>(files: impl Iterator<Item = &'f CapturedFile>, when: ContentWhen) -> Self {
        let (mut wal, mut rollback) = (0, 0);
        let mut chosen: Vec<(usize, Arc<Image>)> = Vec::new();
        for (number, file) in files.enumerate() {
            let Some(image) = file.image_to_sum_up() else { continue };
            let (sum, max) = if file.blocks_writers() { (&mut rollback, AUTO_ROLLBACK_BYTES) } else { (&mut wal, AUTO_WAL_BYTES) };
            *sum += file.bytes_to_read();
            let wanted = match when {
                ContentWhen::Auto => *sum <= max,
                ContentWhen::Always => true,
                ContentWhen::Never => false,
            };
            chosen.extend(wanted.then_some((number, image)));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let work = move || {
            let stopped = || asked.load(Ordering::Relaxed);
            chosen.into_iter().map(|(number, image)| (number, image.content(&stopped))).collect()
        };
        // Without a thread there are no numbers, which is no reason to fail.
        let thread = std::thread::Builder::new().name("content".to_owned()).spawn(work).ok();
        ContentJob { stop, thread }
    }

    /// Waits for the outcomes, by the number of the database.
    pub(super) fn finish(mut self) -> HashMap<usize, Outcome> {
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for ContentJob {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it found is not wanted any more.
            let _ = thread.join();
        }
    }
}
