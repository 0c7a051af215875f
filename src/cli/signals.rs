//! SIGINT, SIGTERM, SIGHUP and SIGQUIT ask the library to stop; the second one ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};

/// A flag that is set by the first signal.
pub(crate) fn watch() -> std::io::Result<Arc<AtomicBool>> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let ignored = ignored();
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
        // Signals that `nohup` or a shell has set to be ignored stay ignored.
        if matches!(signal, SIGHUP | SIGQUIT) && ignored & (1 << (signal - 1)) != 0 {
            continue;
        }
        let flag = Arc::clone(&cancelled);
        // One swap decides who was first: two signals can be handled at the same moment by two threads, and one of them must end the program.
        let action = move || {
            if flag.swap(true, Ordering::SeqCst) {
                // This fails only for a signal that cannot be caught.
                let _ = low_level::emulate_default_handler(signal);
            }
        };
        // SAFETY: an atomic swap and `emulate_default_handler` are all that it does, and both may be called in a signal handler.
        unsafe { low_level::register(signal, action) }?;
    }
    // With a handler, a file that exceeds its size limit gives a failed write, which is cleaned up. Without one the signal ends the program.
    // Programs that are started do not inherit the handler.
    flag::register(SIGXFSZ, Arc::default())?;
    Ok(cancelled)
}

/// The signals that the process ignores since its start; bit 0 is signal 1 (proc_pid_status(5)). Only Linux says this; elsewhere it is none.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
