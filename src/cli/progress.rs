//! Progress on standard error: one line that is drawn again and again.
//!
//! It is shown only on a terminal, and only for work that lasts longer than half a second. Warnings go through here too, so that they do not
//! mix with the line.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use icecore::progress::Monitor;

use super::output::{self, Output};

/// Work that ends earlier shows no progress.
const QUIET_AT_FIRST: Duration = Duration::from_millis(500);
/// The time between two drawings.
const INTERVAL: Duration = Duration::from_millis(200);
/// The longest line: it fits terminals of 80 columns.
const COLUMNS_MAX: usize = 79;
/// Takes the cursor to the start of the line and clears it (ECMA-48, EL).
const CLEAR: &str = "\r\x1b[K";

/// Shows what the library reports, until it is dropped.
pub(crate) struct Progress {
    shared: Arc<Shared>,
    drawer: Option<JoinHandle<()>>,
}

struct Shared {
    output: Output,
    cancelled: Arc<AtomicBool>,
    /// Bytes done in the current phase.
    done: AtomicU64,
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    sink: Box<dyn Write + Send>,
    phase: Option<Phase>,
    /// The item that is being read, if the source names it.
    item: String,
    /// Whether the line with progress is on the screen.
    drawn: bool,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Phase {
    name: &'static str,
    total_bytes: Option<u64>,
    since: Instant,
}

impl Progress {
    pub(crate) fn start(output: &Output, cancelled: Arc<AtomicBool>) -> Self {
        let mut progress = Self::on(Box::new(io::stderr()), output, cancelled);
        if io::stderr().is_terminal() && !output.quiet && !output.json && !output.verbose {
            let shared = Arc::clone(&progress.shared);
            // If no thread can be started, the work goes on without progress.
            progress.drawer = std::thread::Builder::new().name("progress".into()).spawn(move || shared.draw_until_ended()).ok();
        }
        progress
    }

    fn on(sink: Box<dyn Write + Send>, output: &Output, cancelled: Arc<AtomicBool>) -> Self {
        let state = Mutex::new(State { sink, phase: None, item: String::new(), drawn: false, ended: false });
        let shared = Shared { output: *output, cancelled, done: AtomicU64::new(0), state, ended: Condvar::new() };
        Progress { shared: Arc::new(shared), drawer: None }
    }
}

impl Progress {
    /// A function that takes the name of the item that is being read.
    pub(crate) fn on_item(&self) -> Arc<dyn Fn(&str) + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        Arc::new(move |item| item.clone_into(&mut shared.state().item))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.ended = true;
            state.clear();
        }
        self.shared.ended.notify_all();
        if let Some(drawer) = self.drawer.take() {
            let _ = drawer.join();
        }
    }
}

impl Monitor for Progress {
    fn phase(&self, name: &'static str, total_bytes: Option<u64>) {
        let mut state = self.shared.state();
        self.shared.done.store(0, Ordering::Relaxed);
        state.item.clear();
        state.phase = Some(Phase { name, total_bytes, since: Instant::now() });
        if self.shared.output.verbose && !self.shared.output.json {
            let total = total_bytes.map_or_else(String::new, |total| format!(" {}", output::bytes(total)));
            state.line(&format!("{name}{total}"));
        }
    }

    fn advance(&self, bytes: u64) {
        self.shared.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn warn(&self, message: &str) {
        let line = self.shared.output.warning_line(message);
        self.shared.state().line(&line);
    }

    fn cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw_until_ended(&self) {
        let mut state = self.state();
        let mut wait = QUIET_AT_FIRST;
        loop {
            let (guard, _) = self.ended.wait_timeout_while(state, wait, |s| !s.ended).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if state.ended {
                return;
            }
            state.draw(self.done.load(Ordering::Relaxed));
            wait = INTERVAL;
        }
    }
}

/// Errors of writing are ignored: then nobody sees the progress.
impl State {
    fn draw(&mut self, done: u64) {
        if let Some(phase) = self.phase {
            let text = line(phase.name, done, phase.total_bytes, phase.since.elapsed());
            let text = with_item(text, &self.item);
            let _ = write!(self.sink, "{CLEAR}{text}").and_then(|()| self.sink.flush());
            self.drawn = true;
        }
    }

    fn clear(&mut self) {
        if self.drawn {
            let _ = write!(self.sink, "{CLEAR}").and_then(|()| self.sink.flush());
            self.drawn = false;
        }
    }

    fn line(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(self.sink, "{text}").and_then(|()| self.sink.flush());
    }
}

/// The line: phase, bytes, rate, time left; less than 80 columns.
fn line(phase: &str, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    if done == 0 {
        return format!("{phase} ...");
    }
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = done as f64 / seconds;
    let rate_text = output::bytes(rate as u64);
    match total.filter(|total| *total > 0) {
        // Work after the last byte of a phase is not counted.
        Some(total) if done >= total => format!("{phase} {}, finishing ...", output::bytes(total)),
        Some(total) => {
            let percent = u128::from(done) * 100 / u128::from(total);
            let left = output::duration((total - done) as f64 / rate * 1000.0);
            format!("{phase} {} of {} ({percent} %), {rate_text}/s, {left} left", output::bytes(done), output::bytes(total))
        }
        None => format!("{phase} {}, {rate_text}/s", output::bytes(done)),
    }
}

/// Adds as much of the item's name as fits.
fn with_item(line: String, item: &str) -> String {
    let room = COLUMNS_MAX.saturating_sub(line.len() + 2);
    let shown: String = output::printable(&item.replace('\n', " ")).chars().take(room).collect();
    if shown.is_empty() { line } else { format!("{line}, {shown}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn progress(screen: &Screen) -> Progress {
        let output =
            Output { json: false, quiet: false, verbose: false, screen: Default::default(), stderr_colors: false, stderr_width: None };
        Progress::on(Box::new(screen.clone()), &output, Arc::default())
    }

    #[test]
    fn the_line() {
        let second = Duration::from_secs(1);
        assert_eq!(line("reading", 0, Some(10), second), "reading ...");
        assert_eq!(line("reading", 1 << 20, Some(4 << 20), second), "reading 1.0 MiB of 4.0 MiB (25 %), 1.0 MiB/s, 3.0 s left");
        assert_eq!(line("checking", 1 << 20, None, 2 * second), "checking 1.0 MiB, 512.0 KiB/s");
        assert_eq!(line("reading", 9, Some(4), second), "reading 4 B, finishing ...");
        assert!(line("checking records", u64::MAX - 1, Some(u64::MAX), second).len() < 80);
    }

    #[test]
    fn an_item_is_shown_as_far_as_it_fits() {
        assert_eq!(with_item("reading 1 B".into(), "public.t\n\u{7}"), "reading 1 B, public.t \\u{7}");
        assert_eq!(with_item("reading 1 B".into(), ""), "reading 1 B");
        assert_eq!(with_item("reading 1 B".into(), &"x".repeat(500)).len(), COLUMNS_MAX);
    }

    #[test]
    fn a_warning_stands_on_a_line_of_its_own() {
        let screen = Screen::default();
        let progress = progress(&screen);
        progress.phase("reading", Some(100));
        progress.shared.state().draw(0);
        progress.warn("careful");
        progress.shared.state().draw(0);
        drop(progress);
        assert_eq!(screen.text(), format!("{CLEAR}reading ...{CLEAR}warning: careful\n{CLEAR}reading ...{CLEAR}"));
    }

    #[test]
    fn nothing_is_cleared_where_nothing_was_drawn() {
        let screen = Screen::default();
        drop(progress(&screen));
        let other = progress(&screen);
        other.warn("a\u{7}b");
        drop(other);
        assert_eq!(screen.text(), "warning: a\\u{7}b\n");
    }

    #[test]
    fn the_thread_draws_and_ends() {
        let screen = Screen::default();
        let mut progress = progress(&screen);
        progress.phase("reading", None);
        let shared = Arc::clone(&progress.shared);
        progress.drawer = Some(std::thread::spawn(move || shared.draw_until_ended()));
        while screen.text().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(progress);
        let text = screen.text();
        assert!(text.starts_with(&format!("{CLEAR}reading ...")) && text.ends_with(CLEAR), "{text:?}");
    }
}
