//! Sums up the content of databases in a thread, inside their read transactions, while their pages are read by others.
//!
//! It is done only as far as it is cheap, unless asked for. A capture without the numbers is complete; a drill then has
//! less to compare. So nothing that goes wrong here makes a capture fail, except a panic.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::capture::CapturedFile;
use super::content::NoContent;
use super::image::Image;
use crate::engine::CaptureReport;
use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::recorded::TableContent;

/// Databases in WAL mode are summed up without being asked for up to this many bytes together. A MiB of rows of 300
/// bytes takes one core about 7 ms (`cargo bench --bench drill`). Nobody waits for it, but meanwhile a checkpoint may
/// have to leave more in the log.
const AUTO_WAL_BYTES: u64 = 64 << 20;

/// The same in rollback-journal mode, where writers wait for it, about 30 ms.
const AUTO_ROLLBACK_BYTES: u64 = 4 << 20;

/// How often to look whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(50);

/// When to sum up the content of databases at their capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentWhen {
    /// As long as it is cheap: databases up to 64 MiB together in WAL mode, and up to 4 MiB where writers must wait for
    /// it.
    #[default]
    Auto,
    /// Always, however long it takes.
    Always,
    /// Never.
    Never,
}

/// Decides which databases of a capture are summed up: by [`ContentWhen`], and by the bytes that were seen so far.
#[derive(Debug)]
pub(in crate::engine) struct ContentBudget {
    when: ContentWhen,
    wal_bytes: u64,
    rollback_bytes: u64,
}

impl ContentBudget {
    pub(in crate::engine) fn new(when: ContentWhen) -> Self {
        ContentBudget { when, wal_bytes: 0, rollback_bytes: 0 }
    }

    /// Counts a database of the capture. Gives its image if it shall be summed up.
    fn take(&mut self, file: &CapturedFile) -> Option<Arc<Image>> {
        let image = file.image_to_sum_up()?;
        let (sum, max) = match file.blocks_writers() {
            true => (&mut self.rollback_bytes, AUTO_ROLLBACK_BYTES),
            false => (&mut self.wal_bytes, AUTO_WAL_BYTES),
        };
        *sum += file.bytes_to_read();
        let wanted = match self.when {
            ContentWhen::Auto => *sum <= max,
            ContentWhen::Always => true,
            ContentWhen::Never => false,
        };
        wanted.then_some(image)
    }
}

/// The content of a database's tables, or why it is not known.
pub(in crate::engine) type Outcome = Result<Vec<TableContent>, NoContent>;

/// The work in progress. Dropping it stops the work.
pub(in crate::engine) struct ContentJob {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    outcomes: Receiver<HashMap<usize, Outcome>>,
}

impl ContentJob {
    /// Begins to sum up these databases, in this order. Unchanged ones need no work.
    pub(in crate::engine) fn start<'f>(files: impl Iterator<Item = &'f CapturedFile>, budget: &mut ContentBudget) -> Self {
        let chosen = files.enumerate().filter_map(|(number, file)| budget.take(file).map(|image| (number, image)));
        let chosen: Vec<(usize, Arc<Image>)> = chosen.collect();
        let (sender, outcomes) = sync_channel(1);
        if chosen.is_empty() {
            return ContentJob { stop: Arc::default(), thread: None, outcomes };
        }
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let work = move || {
            let stopped = || asked.load(Ordering::Relaxed);
            let found = chosen.into_iter().map(|(number, image)| (number, image.content(&stopped))).collect();
            // If nobody waits any more, the result is not wanted.
            let _ = sender.send(found);
        };
        // If no thread can be started, there are no numbers. That is not a reason to fail.
        let thread = std::thread::Builder::new().name("content".to_owned()).spawn(work).ok();
        ContentJob { stop, thread, outcomes }
    }

    /// Whether there is something to wait for.
    pub(in crate::engine) fn is_working(&self) -> bool {
        self.thread.is_some()
    }

    /// Waits for the outcomes, by the number of the database.
    ///
    /// # Errors
    /// [`Error::Bug`] if the thread panicked; [`Error::Cancelled`].
    pub(in crate::engine) fn finish(mut self, monitor: &dyn Monitor) -> Result<HashMap<usize, Outcome>> {
        if self.thread.is_none() {
            return Ok(HashMap::new());
        }
        let found = loop {
            match self.outcomes.recv_timeout(LOOK) {
                Ok(found) => break found,
                // Returning drops `self`, which stops the thread.
                Err(RecvTimeoutError::Timeout) if monitor.cancelled() => return Err(Error::Cancelled),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break HashMap::new(),
            }
        };
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        ended.map(|()| found).map_err(|panic| Error::panicked("summing up tables", panic))
    }
}

/// Puts the content of a database's tables into the report, or why it is not known.
pub(in crate::engine) fn report_content(report: &mut CaptureReport, name: &[u8], file: &CapturedFile, outcome: Outcome) {
    match outcome {
        Ok(tables) => drop(report.contents.insert(name.to_vec(), tables)),
        Err(NoContent::Damaged(detail)) => report.flags.push(file.content_damage(&detail).about(name)),
        Err(NoContent::Unreadable(detail)) => {
            report.facts.push(("content".to_owned(), format!("not recorded of {}: {detail}", String::from_utf8_lossy(name))));
        }
        Err(NoContent::Stopped) => {}
    }
}

impl Drop for ContentJob {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic is ignored here: its result is not wanted any more. `finish` reports panics.
            let _ = thread.join();
        }
    }
}
