//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

/// Far longer than anything that is waited for takes.
pub const LIMIT: Duration = Duration::from_secs(300);

/// Waits until this is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
