//! Opens read transactions on several databases so that all of them see one instant.
//!
//! - Rollback-journal mode: the shared lock freezes a database. Nobody commits until it is released. So these databases
//!   come first.
//! - WAL mode: read all wal-index headers, open all transactions, read all headers again. SQLite itself takes an
//!   unchanged header as proof that nothing was committed: the header has a counter that every commit changes. If no
//!   header has changed, each transaction sees exactly its header, and all headers were current at the same time in
//!   between.
//!
//! If somebody commits meanwhile, it is tried again. After [`TRIES`] such attempts writers are locked out while the
//! transactions are opened, by write locks that write nothing. Waiting for these locks takes at most [`LOCK_TRIES`]
//! times [`LOCK_PAUSE`].
//!
//! If that fails, too, each database is still consistent by itself, and the snapshot is flagged.

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
/// Attempts that may fail because a second database is locked while we hold a first one.
const BUSY_TRIES: u32 = 50;
/// How long to wait for a database while we hold others. Short, because a writer of several databases may wait for one
/// that we hold.
const WAIT_WHILE_HOLDING: Duration = Duration::from_millis(20);
/// Attempts to get the write locks of all databases. With the pauses between them these take 100 ms.
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

/// One of the databases that are read together.
pub(super) struct Member {
    pub(super) path: PathBuf,
    pub(super) engine: Engine,
    /// Device and inode. They give the order in which write locks are taken.
    pub(super) file_id: (u64, u64),
    /// What the open transaction sees of the write-ahead log, if there is one.
    pub(super) state: Option<WalState>,
}

impl Member {
    fn is_wal(&self) -> Result<bool> {
        self.engine.in_wal_mode().map_err(|e| explain(&self.path, &e))
    }

    /// Opens the transaction. Gives `None` if somebody else's lock is in the way for all of `wait`.
    fn begin(&self, wait: Duration, monitor: &dyn Monitor) -> Result<Option<()>> {
        match in_pieces(&self.engine, wait, monitor, || self.engine.begin()) {
            Ok(()) => Ok(Some(())),
            Err(e) if is_busy(&e) && monitor.cancelled() => Err(Error::Cancelled),
            Err(e) if is_busy(&e) => Ok(None),
            Err(e) => Err(explain(&self.path, &e)),
        }
    }

    fn busy(&self) -> Error {
        let detail = "locked by another process (a long write, or locking_mode=exclusive); try again, or with a longer --busy-timeout";
        Error::Busy { path: self.path.clone(), detail: detail.to_owned() }
    }
}

/// How an attempt ended.
enum Attempt {
    /// All transactions are open and see one instant. After the other outcomes none is open.
    Together,
    /// Somebody committed meanwhile.
    Moved,
    /// The database with this index is locked. `waited`: whether we have waited for it as long as allowed.
    Busy { index: usize, waited: bool },
}

/// Opens a read transaction on each database, and says how well they fit together.
pub(super) fn open_together(members: &mut [Member], busy_timeout: Duration, monitor: &dyn Monitor) -> Result<Instant> {
    if settle(members, busy_timeout, monitor)? {
        return Ok(Instant::Proven);
    }
    if let Some(lockers) = lock_writers(members)? {
        // Nobody commits to a WAL database now. An attempt can still fail, for example because another database is locked.
        for _ in 0..LOCKED_TRIES {
            if matches!(attempt(members, 0, Duration::ZERO, monitor)?, Attempt::Together) {
                // The transactions are open, so writers may go on at once.
                drop(lockers);
                return Ok(Instant::Locked);
            }
        }
    }
    // Settle for an instant of each database by itself. With one database there is nothing else to try: it has failed
    // above.
    let alone = members.len() == 1;
    for member in members {
        if alone || !settle(std::slice::from_mut(member), busy_timeout, monitor)? {
            let detail = "its writers commit without pause and could not be held off, so there is no consistent instant to read; try again";
            return Err(Error::Busy { path: member.path.clone(), detail: detail.to_owned() });
        }
    }
    Ok(Instant::None)
}

/// Tries until nobody commits during an attempt. Gives `false` if somebody has committed during each of [`TRIES`]
/// attempts.
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
                // Next time begin with this one, so that we hold nothing while we wait for it: its writer may wait for
                // one that we hold.
                first = index;
            }
        }
    }
    Ok(false)
}

/// Makes one attempt to open all transactions. `first` is the index of the database to begin with, among those of its
/// journal mode.
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
        // Somebody has switched it to WAL mode since the look above. The next attempt treats it as such.
        if member.is_wal()? {
            return Ok(Attempt::Moved);
        }
        member.state = None;
        // From now on we hold a lock.
        wait_next = wait.min(WAIT_WHILE_HOLDING);
    }
    // The headers are read before any WAL transaction is opened, and after all of them are. Whatever is the same both
    // times was current during all of the time in between, so there is an instant that all transactions see.
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

/// Takes the write locks of the databases in WAL mode, so that nobody can commit to them. The others are frozen by
/// reading. Gives `None` if the locks cannot be had in time.
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
    // The image is consistent without them. So it is not an error if they cannot be opened.
    let Ok(lockers) = opened else { return Ok(None) };
    let mut tries_left = LOCK_TRIES;
    for locker in &lockers {
        // A connection that may only read cannot take a write lock, however often it is tried.
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
