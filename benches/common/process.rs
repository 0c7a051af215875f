//! Processes that are measured from start to end.
//!
//! Keep the measuring process small: Linux counts the peak memory of the process that starts a program into that program's
//! `ru_maxrss` (the two share memory until the exec). So the benches make their corpora in children.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Result;

/// What one process cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From before the start to after the end.
    pub wall: Duration,
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// Most memory it had at once, bytes.
    pub peak_bytes: u64,
}

impl Cost {
    /// One process after the other.
    pub fn then(self, next: Cost) -> Cost {
        Cost { wall: self.wall + next.wall, cpu: self.cpu + next.cpu, peak_bytes: self.peak_bytes.max(next.peak_bytes) }
    }
}

/// Runs a command to its end and measures it. Returns what it wrote to stdout; its stderr goes to the file `log`.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the text has its stderr.
pub fn measure(command: &mut Command, log: &Path) -> Result<(Cost, Vec<u8>)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(log)?);
    let start = Instant::now();
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let mut output = Vec::new();
    child.stdout.take().ok_or("stdout is piped")?.read_to_end(&mut output)?;
    let (status, usage) = wait(child.id())?;
    let cost = Cost { wall: start.elapsed(), cpu: time(usage.ru_utime) + time(usage.ru_stime), peak_bytes: peak_bytes(&usage) };
    if status != 0 {
        return Err(format!("{command:?} failed (wait status {status}): {}", std::fs::read_to_string(log)?).into());
    }
    Ok((cost, output))
}

/// This bench again, with other arguments: for work that must not grow this process.
///
/// # Errors
/// When the path of this program is not known.
pub fn again(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--bench").args(args);
    Ok(command)
}

fn wait(pid: u32) -> Result<(i32, libc::rusage)> {
    let pid = libc::pid_t::try_from(pid)?;
    let mut status = 0;
    // SAFETY: rusage is a plain C structure for which all zero bytes are a value; wait4 writes only to the two places it is given, and
    // the child is ours and not waited for anywhere else.
    let (usage, result) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let result = loop {
            let result = libc::wait4(pid, &raw mut status, 0, &raw mut usage);
            if result != -1 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                break result;
            }
        };
        (usage, result)
    };
    if result == pid { Ok((status, usage)) } else { Err(std::io::Error::last_os_error().into()) }
}

fn time(value: libc::timeval) -> Duration {
    Duration::from_secs(value.tv_sec.unsigned_abs()) + Duration::from_micros(value.tv_usec as u64)
}

fn peak_bytes(usage: &libc::rusage) -> u64 {
    // Linux counts kilobytes, macOS bytes (getrusage(2) of both).
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    usage.ru_maxrss.unsigned_abs() * unit
}
