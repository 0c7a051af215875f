//! The real prune, made to stop between any two of its calls.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use icecore::ops::prune::{PruneOptions, PruneReport, prune};
use icecore::progress::Silent;
use icecore::store::backend::{Backend, ObjectKey, ObjectKind};

use crate::hook::{Call, Fate, Hooked};

/// A grace time that separates the clocks of the steps, nanoseconds.
const GRACE: i64 = 1_000_000_000_000;
/// Far longer than a step takes.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Before any backup of the tests.
const EARLY: i64 = 10_000_000_000;

/// Everything that is of no use goes.
pub fn options(grace_ns: i64, now_ns: i64) -> PruneOptions {
    PruneOptions { grace_ns, now_ns, host: "test".into(), unused_max_permille: 0, repack_bytes_max: None }
}

/// With a grace time of zero, through a catalog in this directory.
pub fn prune_now(backend: Arc<dyn Backend>, cache: PathBuf) -> icecore::Result<PruneReport> {
    let repo = crate::support::open_backend(backend, cache, 1)?;
    prune(&repo, &options(0, 1 << 60), &Silent)
}

/// Whether an error is one that a prune may end with when others work beside it.
pub fn is_expected(error: &icecore::Error) -> bool {
    matches!(error, icecore::Error::Stale { .. }) || error.to_string().contains("was not forgotten")
}

/// A prune that is run step by step: mark, look, delete, unmark.
pub struct Prune {
    backend: Arc<dyn Backend>,
    cache: PathBuf,
    /// Takes all pending records that are there when it marks for those of dead writers: one run with a grace time of zero. Else three runs, each a
    /// grace time after the other, and to these writers are alive.
    expire: bool,
    running: Option<Running>,
    /// Ended before its last step.
    failed: bool,
    pub deleted: u64,
}

struct Running {
    gate: Arc<Gate>,
    thread: JoinHandle<icecore::Result<PruneReport>>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Up to which step it may go.
    step: usize,
    /// Has written tombstones, and so listing pending records is looking.
    marked: bool,
    parked: bool,
    finished: bool,
    killed: bool,
}

/// The step that a call belongs to.
fn step_of(call: Call, marked: bool) -> usize {
    match call {
        Call::Delete(ObjectKey::Pack(_) | ObjectKey::Pending { .. }) => 2,
        Call::Delete(ObjectKey::Tombstone(_)) => 3,
        Call::List(ObjectKind::Pending) if marked => 1,
        _ => 0,
    }
}

impl Gate {
    fn pass(&self, call: Call) -> Fate {
        let mut state = self.state.lock().unwrap();
        state.marked |= matches!(call, Call::Write(ObjectKey::Tombstone(_)));
        let step = step_of(call, state.marked);
        while step > state.step && !state.killed {
            state.parked = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap();
        }
        if state.killed { Fate::Fail(ErrorKind::BrokenPipe) } else { Fate::Proceed }
    }

    fn go_to(&self, step: usize) {
        let mut state = self.state.lock().unwrap();
        (state.step, state.parked) = (step, false);
        self.changed.notify_all();
        let (reached, timeout) = self.changed.wait_timeout_while(state, WAIT_MAX, |state| !state.parked && !state.finished).unwrap();
        assert!(!timeout.timed_out(), "it never came to step {step}");
        drop(reached);
    }
}

impl Prune {
    pub fn new(backend: Arc<dyn Backend>, cache: PathBuf, expire: bool) -> Self {
        Prune { backend, cache, expire, running: None, failed: false, deleted: 0 }
    }

    /// Runs one of the four steps.
    pub fn step(&mut self, number: usize) {
        match (self.expire, number) {
            (true, 0) => self.start(options(0, 1 << 60)),
            (false, 0) => self.start(options(GRACE, EARLY)),
            (false, 1) => {
                self.go_to(9);
                self.start(options(GRACE, EARLY + GRACE));
                self.go_to(1);
            }
            (false, 3) => {
                self.go_to(9);
                self.start(options(GRACE, EARLY + 2 * GRACE));
                self.go_to(9);
            }
            _ => self.go_to(number),
        }
        if number == 3 {
            self.go_to(9);
        }
    }

    fn start(&mut self, options: PruneOptions) {
        let gate = Arc::new(Gate::default());
        let (guard, at_the_end, backend, cache) = (gate.clone(), gate.clone(), self.backend.clone(), self.cache.clone());
        let thread = std::thread::spawn(move || {
            let hooked = Hooked::new(backend, move |_, call| guard.pass(call));
            let result = crate::support::open_backend(Arc::new(hooked), cache, 1).and_then(|repo| prune(&repo, &options, &Silent));
            at_the_end.state.lock().unwrap().finished = true;
            at_the_end.changed.notify_all();
            result
        });
        self.running = Some(Running { gate, thread });
        self.go_to(0);
    }

    fn go_to(&mut self, step: usize) {
        let Some(running) = &self.running else { return };
        running.gate.go_to(step);
        if running.gate.state.lock().unwrap().finished {
            self.end();
        }
    }

    fn end(&mut self) {
        let Some(Running { gate, thread }) = self.running.take() else { return };
        let killed = gate.state.lock().unwrap().killed;
        match thread.join().unwrap() {
            Ok(report) => self.deleted += report.deleted,
            Err(error) => {
                assert!(killed || is_expected(&error), "{error}");
                self.failed = true;
            }
        }
    }

    /// It dies where it stands, if it has not ended.
    pub fn kill(&mut self) {
        if let Some(running) = &self.running {
            running.gate.state.lock().unwrap().killed = true;
            running.gate.changed.notify_all();
        }
        self.end();
    }
}

impl Drop for Prune {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.kill();
        }
    }
}
