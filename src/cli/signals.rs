//! SIGINT and SIGTERM ask the library to stop; the second one ends the program at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// A flag that is set by the first signal.
pub(crate) fn watch() -> std::io::Result<Arc<AtomicBool>> {
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset here, and sets it below.
        flag::register_conditional_default(signal, Arc::clone(&cancelled))?;
        flag::register(signal, Arc::clone(&cancelled))?;
    }
    Ok(cancelled)
}
