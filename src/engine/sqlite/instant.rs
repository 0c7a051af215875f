//! Opens read transactions on several databases so that all see one instant.
//!
//! - Rollback-journal mode: the shared lock freezes a database; nobody commits until it is let go. So those come first.
//! - WAL mode: read all wal-index headers, open all transactions, read all headers again. SQLite itself takes an unchanged header as
//!   proof that nothing was committed (and every commit changes it: it counts them). If none moved, then each transaction
//!   sees exactly its header, and all were current together in between.
//!
//! After [`TRIES`] attempts that failed because somebody committed, writers are locked out while the transactions are opened, for at most
//! [`LOCK_TRIES`] times [`LOCK_PAUSE`]; that writes nothing.

use std::path::PathBuf;
use std::time::Duration;

use super::engine::Engine;
use super::explain::{explain, is_busy};
use super::open::{in_pieces, open_locker};
use super::wal::{WalState, read_header, read_state};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// Attempts before writers are locked out.
const TRIES: u32 = 20;
/// Attempts that may fail because a second database is locked while a first one is held.
const BUSY_TRIES: u32 = 50;
/// How long to wait for a database while others are held; short, because a writer of several may wait for one that we hold.
const WAIT_WHILE_HOLDING: Duration = Duration::from_millis(20);
/// Attempts to get the write locks of all databases; with the pause between them 100 ms.
const LOCK_TRIES: u32 = 400;
/// Pause between those attempts.
const LOCK_PAUSE: Duration = Duration::from_micros(250);
/// Attempts to open the transactions while writers are locked out.
const LOCKED_TRIES: u32 = 3;

/// Whether all databases were captured as of one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instant {
    /// Nobody committed while the transactions were opened.
    Proven,
    /// Writers were locked out meanwhile.
    Locked,
    /// Each database is consistent, but they may be of different instants.
    None,
}

/// One database that is to be read.
pub(super) struct Member {
    pub(super) path: PathBuf,
    pub(super) engine: Engine,
    /// Device and inode: the order in which write locks are taken.
    pub(super) file_id: (u64, u64),
    /// What the open transaction sees of the write-ahead log, if there is one.
    pub(super) state: Option<WalState>,
}

impl Member {
    fn is_wal(&self) -> Result<bool> {
        self.engine.in_wal_mode().map_err(|e| explain(&self.path, &e))
    }

    /// `Some` if the transaction is open, `None` if somebody else's lock is in the way.
    fn begin(&self, wait: Duration, monitor: &dyn Monitor) -> Result<Option<()>> {
        match in_pieces(&self.engine, wait, monitor, || self.engine.begin()) {
            Ok(()) => Ok(Some(())),
            Err(e) if is_busy(&e) && monitor.cancelled() => Err(Error::Cancelled),
            Err(e) if is_busy(&e) => Ok(None),
            Err(e) => Err(explain(&self.path, &e)),
        }
    }

    fn busy(&self) -> Error {
        let detail = "locked by another process (a long write, or locking_mode=exclusive); try again, or with a longer busy timeout";
        Error::Busy { path: self.path.clone(), detail: detail.to_owned() }
    }
}

/// How an attempt ended. All transactions are open only after `Together`.
enum Attempt {
    Together,
    /// Somebody committed meanwhile.
    Moved,
    /// This one is locked; whether it was waited for as long as allowed.
    Busy {
        index: usize,
        waited: bool,
    },
}

/// Opens a read transaction on each.
pub(super) fn open_together(members: &mut [Member], busy_timeout: Duration, monitor: &dyn Monitor) -> Result<Instant> {
    if settle(members, busy_timeout, monitor)? {
        return Ok(Instant::Proven);
    }
    if let Some(lockers) = lock_writers(members)? {
        for _ in 0..LOCKED_TRIES {
            if matches!(attempt(members, 0, Duration::ZERO, monitor)?, Attempt::Together) {
                drop(lockers);
                return Ok(Instant::Locked);
            }
        }
    }
    let alone = members.len() == 1;
    for member in members {
        if alone || !settle(std::slice::from_mut(member), busy_timeout, monitor)? {
            let detail = "written to without pause, so that no instant could be found, and its writers could not be held; try again";
            return Err(Error::Busy { path: member.path.clone(), detail: detail.to_owned() });
        }
    }
    Ok(Instant::None)
}

/// Tries until nobody commits meanwhile; `false` if somebody always does.
fn settle(members: &mut [Member], busy_timeout: Duration, monitor: &dyn Monitor) -> Result<bool> {
    let (mut moved, mut busy, mut first) = (0, 0, 0);
    while moved < TRIES {
        if monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        match attempt(members, first, busy_timeout, monitor)? {
            Attempt::Together => return Ok(true),
            Attempt::Moved => moved += 1,
            Attempt::Busy { index, waited } => {
                busy += 1;
                if let Some(member) = members.get(index).filter(|_| waited || busy == BUSY_TRIES) {
                    return Err(member.busy());
                }
                // Next time wait for this one with nothing held.
                first = index;
            }
        }
    }
    Ok(false)
}

/// Begins all transactions, that of `first` before the others of its kind.
fn attempt(members: &mut [Member], first: usize, wait: Duration, monitor: &dyn Monitor) -> Result<Attempt> {
    members.iter().for_each(|member| member.engine.end());
    let outcome = attempt_all(members, first, wait, monitor)?;
    if !matches!(outcome, Attempt::Together) {
        members.iter().for_each(|member| member.engine.end());
    }
    Ok(outcome)
}

fn attempt_all(members: &mut [Member], first: usize, wait: Duration, monitor: &dyn Monitor) -> Result<Attempt> {
    let mut order: Vec<(usize, &mut Member)> = members.iter_mut().enumerate().collect();
    order.rotate_left(first);
    let mut wait_next = wait;
    let (mut with_log, mut plain) = (Vec::new(), Vec::new());
    for entry in order {
        if entry.1.is_wal()? { with_log.push(entry) } else { plain.push(entry) }
    }
    for (index, member) in plain {
        if member.begin(wait_next, monitor)?.is_none() {
            return Ok(Attempt::Busy { index, waited: wait_next == wait });
        }
        if member.is_wal()? {
            return Ok(Attempt::Moved);
        }
        member.state = None;
        wait_next = wait.min(WAIT_WHILE_HOLDING);
    }
    let mut before = Vec::with_capacity(with_log.len());
    for (_, member) in &with_log {
        before.push(read_header(&member.engine).map_err(|e| explain(&member.path, &e))?);
    }
    for (index, member) in &with_log {
        if member.begin(wait_next, monitor)?.is_none() {
            return Ok(Attempt::Busy { index: *index, waited: wait_next == wait });
        }
    }
    for ((_, member), before) in with_log.into_iter().zip(before) {
        member.state = read_state(&member.engine).map_err(|e| explain(&member.path, &e))?;
        if before.is_none() || member.state.map(|state| state.header) != before {
            return Ok(Attempt::Moved);
        }
    }
    Ok(Attempt::Together)
}

/// Keeps everybody from committing to the databases in WAL mode; the others are frozen by reading. `None` if that cannot be had in time.
fn lock_writers(members: &[Member]) -> Result<Option<Vec<Engine>>> {
    let mut sorted = Vec::new();
    for member in members {
        if member.is_wal()? {
            sorted.push(member);
        }
    }
    // One order for everybody, so that two captures cannot wait for each other.
    sorted.sort_by_key(|member| member.file_id);
    let opened: Result<Vec<Engine>, rusqlite::Error> = sorted.iter().map(|member| open_locker(&member.path)).collect();
    // A locker is not needed for a consistent image, so its failure is no error.
    let Ok(lockers) = opened else { return Ok(None) };
    let mut tries_left = LOCK_TRIES;
    for locker in &lockers {
        while locker.is_readonly() || locker.begin_immediate().is_err() {
            if tries_left == 0 || locker.is_readonly() {
                return Ok(None);
            }
            tries_left -= 1;
            std::thread::sleep(LOCK_PAUSE);
        }
    }
    Ok(Some(lockers))
}
