//! Sums up the content of databases in a thread of its own, inside their read transactions, while their pages are read.

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

/// Bytes of databases in WAL mode up to which content is summed up unless asked for: about 7 ms of one core for each MiB of rows of 300
/// bytes (`cargo bench --bench drill`). Nobody waits for it, but a checkpoint may have to leave more in the log meanwhile.
const AUTO_WAL_BYTES: u64 = 64 << 20;

/// The same in rollback-journal mode, where writers wait for it: some 30 ms.
const AUTO_ROLLBACK_BYTES: u64 = 4 << 20;

/// How often it is asked whether to go on waiting.
const LOOK: Duration = Duration::from_millis(50);

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

/// What of the databases of one capture is summed up: [`ContentWhen`], and how much there was so far.
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

    /// Counts a database of the capture; its image, if it is to be summed up.
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

/// What a database's tables held, or why that is not known.
pub(in crate::engine) type Outcome = Result<Vec<TableContent>, NoContent>;

/// The work in progress. Dropped, it stops.
pub(in crate::engine) struct ContentJob {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    outcomes: Receiver<HashMap<usize, Outcome>>,
}

impl ContentJob {
    /// Begins with these databases, in this order; what is unchanged needs no work.
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
            // Nobody waits for what is not wanted any more.
            let _ = sender.send(found);
        };
        // Without a thread there are no numbers, which is no reason to fail.
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
                // Dropping this stops the thread.
                Err(RecvTimeoutError::Timeout) if monitor.cancelled() => return Err(Error::Cancelled),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break HashMap::new(),
            }
        };
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        ended.map(|()| found).map_err(|panic| Error::panicked("summing up tables", panic))
    }
}

/// Puts into the report what a database's tables held, or why that is not known.
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
            // What it found is not wanted any more.
            let _ = thread.join();
        }
    }
}
