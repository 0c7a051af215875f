//! Runs a program and ends it with all processes that it has started.
//!
//! The program leads a process group of its own, so that a shell's children end with the shell. To end it, it gets
//! SIGTERM first: PostgreSQL's programs then cancel what the server does for them. What is still there after
//! [`ENDING_MAX`] is killed.
//!
//! If icecore runs in the foreground of a terminal, the program stays in icecore's group: it may ask for a password
//! there, and Ctrl-C reaches both.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, test_kill_process_group, waitid};

use crate::error::{Error, Result};
use crate::progress::Monitor;

/// How long processes may take to end before they are killed.
const ENDING_MAX: Duration = Duration::from_secs(2);
/// The longest pause between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// How often a reader that waits for bytes checks whether to go on.
const LOOK_PIPE: Duration = Duration::from_millis(100);
/// How long a pipe may stay open without a byte after its program has ended with exit code 0. Another process that the
/// program has started holds it.
const HELD_MAX: Duration = Duration::from_secs(5);

/// A running program. Dropping it ends it and its group.
pub(crate) struct Program {
    child: Child,
    /// Whether it leads a process group of its own.
    leads: bool,
    watch: Arc<Watch>,
    /// The exit status, once it was waited for.
    status: Option<ExitStatus>,
    /// Whether `end` was called.
    has_ended: bool,
}

/// State that the program shares with the readers of its pipes.
struct Watch {
    pid: Option<Pid>,
    /// Readers give up.
    stop: AtomicBool,
    /// The program has ended with exit code 0, but its output has not ended.
    held: AtomicBool,
}

enum State {
    Running,
    EndedWell,
    Failed,
}

impl Watch {
    /// The program's state. It is not reaped here, so its process id stays its own.
    fn state(&self) -> State {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match self.pid.map(|pid| waitid(WaitId::Pid(pid), options)) {
            Some(Ok(None)) => State::Running,
            Some(Ok(Some(status))) if status.exit_status() != Some(0) => State::Failed,
            // If it was reaped already, `Program::wait` judges its status.
            _ => State::EndedWell,
        }
    }
}

impl Program {
    /// Starts a program.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        // In the foreground it stays in our group: a background group could not read a password from the terminal.
        let leads = !is_in_foreground();
        if leads {
            command.process_group(0);
        }
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let watch = Watch { pid, stop: AtomicBool::new(false), held: AtomicBool::new(false) };
        Ok(Program { child, leads, watch: Arc::new(watch), status: None, has_ended: false })
    }

    /// Its standard input, once.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, once. Reading fails if another process holds it open after the program has ended: see
    /// [`Program::is_held`].
    pub(crate) fn stdout(&mut self) -> Option<Pipe<ChildStdout>> {
        let input = self.child.stdout.take()?;
        Some(Pipe { input, watch: Arc::clone(&self.watch), patience: HELD_MAX, quiet_since: None })
    }

    /// Its standard error, once. It ends with the program. What other processes write there later is not read.
    pub(crate) fn stderr(&mut self) -> Option<Pipe<ChildStderr>> {
        let input = self.child.stderr.take()?;
        Some(Pipe { input, watch: Arc::clone(&self.watch), patience: Duration::ZERO, quiet_since: None })
    }

    /// Whether reading its output was given up because another process held it open.
    pub(crate) fn is_held(&self) -> bool {
        self.watch.held.load(Ordering::Acquire)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Source`] if it cannot be waited for.
    pub(crate) fn wait(&mut self, name: &str, monitor: &dyn Monitor) -> Result<ExitStatus> {
        let status = wait_for(monitor, || self.child.try_wait().transpose())?.map_err(|e| Error::source(name, e))?;
        self.status = Some(status);
        match monitor.cancelled() && !status.success() {
            // Ctrl-C on the terminal has ended the program too, so its failure is the user's stop.
            true => Err(Error::Cancelled),
            false => Ok(status),
        }
    }

    /// Ends the program and the rest of its group. If the program has already ended with exit code 0, the rest of its
    /// group may be meant to stay, and nothing is ended.
    pub(crate) fn end(&mut self) {
        self.watch.stop.store(true, Ordering::Release);
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let Some(pid) = self.watch.pid.filter(|_| !self.status.is_some_and(|status| status.success())) else { return };
        let signal = |signal| match self.leads {
            true => kill_process_group(pid, signal),
            false => kill_process(pid, signal),
        };
        let began = Instant::now();
        let until = |is_over: &mut dyn FnMut() -> bool| {
            while !is_over() && began.elapsed() < ENDING_MAX {
                std::thread::sleep(LOOK);
            }
        };
        if self.leads || self.status.is_none() {
            let _ = signal(Signal::TERM);
            // A suspended process acts on SIGTERM only when it runs again.
            let _ = signal(Signal::CONT);
        }
        // First the program itself, with time to end in order; then the rest of its group.
        if self.status.is_none() {
            until(&mut || !matches!(self.child.try_wait(), Ok(None)));
            if matches!(self.child.try_wait(), Ok(None)) {
                let _ = signal(Signal::KILL);
                let _ = self.child.wait();
            }
        }
        if self.leads {
            // As long as a process is in the group, no other group can get its number, so the signal below hits the
            // right one.
            until(&mut || test_kill_process_group(pid).is_err());
            if test_kill_process_group(pid).is_ok() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// Calls `ask` until there is an answer, with pauses that grow.
///
/// # Errors
/// [`Error::Cancelled`]
pub(crate) fn wait_for<T>(monitor: &dyn Monitor, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK);
    }
}

/// Whether this process is in the foreground of a terminal.
fn is_in_foreground() -> bool {
    let terminal = rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    let group = terminal.and_then(rustix::termios::tcgetpgrp);
    group.is_ok_and(|group| group == rustix::process::getpgrp())
}

/// The text of a failed exit status; `None` for success.
pub(crate) fn failure(status: ExitStatus) -> Option<String> {
    match (status.success(), status.code(), status.signal()) {
        (true, ..) => None,
        (_, Some(code), _) => Some(format!("failed with exit code {code}")),
        (_, _, Some(signal)) => Some(format!("was killed by signal {signal}")),
        _ => Some("failed".to_owned()),
    }
}

impl<R: AsFd> AsFd for Pipe<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }
}

/// One of a program's pipes. A read gives up when the program is ended, or when it has ended and nothing comes any
/// more.
pub(crate) struct Pipe<R> {
    input: R,
    watch: Arc<Watch>,
    /// How long to wait for bytes after the program has ended.
    patience: Duration,
    /// Since when nothing has come after the program's end.
    quiet_since: Option<Instant>,
}

impl<R: Read + AsFd> Read for Pipe<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut pause = Timespec::try_from(LOOK_PIPE).unwrap_or_default();
        loop {
            // Polling with a timeout and not just reading: a blocking read could not see that the program has ended.
            match poll(&mut [PollFd::new(&self.input, PollFlags::IN)], Some(&pause)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    self.quiet_since = None;
                    return self.input.read(buffer);
                }
                Err(e) => return Err(e.into()),
            }
            if self.watch.stop.load(Ordering::Acquire) {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            match self.watch.state() {
                State::Running => {}
                // Polls once more after the program's end: it may have written just before.
                _ if self.quiet_since.is_none() => {
                    self.quiet_since = Some(Instant::now());
                    pause = Timespec::default();
                    continue;
                }
                // The output of a failed program is not used, so it does not matter who holds the pipe.
                State::Failed => return Ok(0),
                State::EndedWell if self.patience.is_zero() => return Ok(0),
                // An error and not the end: bytes that are still in another process's buffer may be missing.
                State::EndedWell if self.quiet_since.is_some_and(|since| since.elapsed() >= self.patience) => {
                    self.watch.held.store(true, Ordering::Release);
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
                State::EndedWell => {}
            }
            pause = Timespec::try_from(LOOK_PIPE).unwrap_or_default();
        }
    }
}
