//! Runs checks in several threads and ends them when the user asks to stop.
//!
//! Guarantee: results come in the order of the jobs, and a panic in a job becomes an error. No thread is left running.
//! Relies on the caller: a blocked job must end soon after `interrupt` is called, or when it sees its flag set.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::progress::Monitor;

/// How often the monitor is asked whether to stop.
const POLL: Duration = Duration::from_millis(50);

/// Runs all jobs and returns their results in order. When the user asks to stop, the jobs' flag is set, and `interrupt`
/// is called repeatedly until no job runs any more. Once is not enough: a job may begin a new query after the first
/// call.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Bug`] if a job has panicked.
pub(crate) fn in_threads<J: Sync, R: Send>(
    threads: usize,
    jobs: &[J],
    monitor: &dyn Monitor,
    run: impl Fn(&J, &AtomicBool) -> R + Sync,
    mut interrupt: impl FnMut(),
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let done: Mutex<BTreeMap<usize, R>> = Mutex::new(BTreeMap::new());
    // Each worker takes the next job until none is left or the user asks to stop. Results go by the job's number, since
    // they come in any order.
    let worker = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number).filter(|_| !stop.load(Ordering::Relaxed)) else { return };
            let result = run(job, &stop);
            done.lock().unwrap_or_else(PoisonError::into_inner).insert(number, result);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.clamp(1, jobs.len().max(1))).map(|_| scope.spawn(worker)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            if monitor.cancelled() {
                stop.store(true, Ordering::Relaxed);
                interrupt();
            }
            std::thread::sleep(POLL);
        }
        // Joined by hand: the scope would turn a panic of a worker into one of this thread.
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|panic| Error::panicked("checking", panic)))
    })?;
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Cancelled);
    }
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect())
}
