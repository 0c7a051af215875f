//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

/// Much longer than any wait in a passing test.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Waits until the condition holds.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
