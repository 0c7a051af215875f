//! Does the same work on many objects, with several threads.
//! The first failure, or a request to stop, ends the work of all threads: they take no further objects, and it is
//! returned.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result, joined};
use crate::progress::Monitor;

/// Calls `each` for each item. Ends early at the first failure, or when the user asks to stop.
pub(crate) fn each_in_threads<T: Sync>(
    threads: usize,
    all: &[T],
    monitor: &dyn Monitor,
    each: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = if monitor.cancelled() { Err(Error::Cancelled) } else { each(one) };
            // Moves the shared position to the end, so that the other threads find no more work.
            done.inspect_err(|_| next.store(all.len(), Ordering::Relaxed))?;
        }
        Ok(())
    };
    let threads = threads.min(all.len());
    if threads <= 1 {
        return work();
    }
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| joined("working on one of many", handle.join())).collect()
    });
    results.into_iter().collect()
}
