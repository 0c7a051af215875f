//! Interrupts blocking work when the user asks to stop, such as a statement that runs on a server.
//!
//! Guarantee: the thread that watches for the stop ends with the work, even if the work panics.
//! Relies on the caller: `stop` may be called repeatedly, and must make the work end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::progress::Monitor;

/// How often the monitor is asked whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Does this work. When the user asks to stop, `stop` is called repeatedly until the work has ended. It may have no
/// effect at first, if the work is between two statements.
pub(in crate::engine) fn stoppable<T>(monitor: &dyn Monitor, stop: impl Fn() + Send + Sync, work: impl FnOnce() -> T) -> T {
    let has_ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !has_ended.load(Ordering::Acquire) {
                if monitor.cancelled() {
                    stop();
                }
                std::thread::park_timeout(LOOK);
            }
        });
        // Ends the watcher even if the work panics. Else the scope would wait for it forever.
        let _end = End(&has_ended, watcher.thread().clone());
        work()
    })
}

struct End<'e>(&'e AtomicBool, std::thread::Thread);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        self.1.unpark();
    }
}
