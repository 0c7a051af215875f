//! Work that hears nothing of the user's wish to stop unless it is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::progress::Monitor;

/// How often it is asked whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Does this work. When the user asks to stop, `stop` is called again and again until the work has ended.
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
        // Also if the work panics: nobody would end the watcher.
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
