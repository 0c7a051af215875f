//! The last step of a restore: the new database takes its name, and the old one gets the name under which it is kept.
//!
//! Guarantee: both renamings are one transaction. A database with sessions in it cannot be renamed, so sessions are
//! ended first, if the user allows it; if they come back too often, nothing is renamed and the new database stays under
//! its temporary name. If the connection is lost during the commit, the outcome is looked up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::admin::Admin;
use super::preflight::some;
use super::{Names, sql};
use crate::engine::postgres::messages::explain;
use crate::error::{Error, Result};

/// How often renaming is tried while ended sessions come back. Each time the server waits up to five seconds for them
/// to go.
const ATTEMPTS: usize = 6;
/// How long to wait before sessions are ended again.
const PAUSE: Duration = Duration::from_millis(100);

/// Renames the old database, if there is one, and the new one, in one transaction. Returns the name under which the old
/// one is kept.
///
/// # Errors
/// [`Error::Busy`] if sessions stand in the way: then nothing was renamed, the new database is complete under its
/// temporary name, and the message says how to go on. With any other error nothing was renamed, unless the connection
/// broke during the commit and could not be made again: then the message says where to look.
pub(super) fn swap(admin: &mut Admin, names: &Names, disconnect: bool) -> Result<Option<String>> {
    admin.refresh()?;
    // No user has a reason to be in the new database. Programs that visit every database, such as monitoring,
    // reconnect.
    admin.end_sessions(&names.temporary)?;
    // Looked at again, since the preflight may be hours ago.
    let is_there = admin.exists(&names.target)?;
    if is_there && !names.may_replace {
        let detail = "a database of this name was made meanwhile: drop or rename it, or choose another name";
        return Err(Error::destination(admin.label(&names.target), detail));
    }
    let mut pairs = vec![(names.temporary.as_str(), names.target.as_str())];
    if is_there {
        // First, as the old database has to free the name.
        pairs.insert(0, (names.target.as_str(), names.kept.as_str()));
    }
    let kept = is_there.then(|| names.kept.clone());
    for _ in 0..if disconnect { ATTEMPTS } else { 1 } {
        let renamed = match disconnect {
            true => rename_against_sessions(admin, &pairs, names)?,
            false => admin.rename(&pairs),
        };
        match renamed {
            Ok(Ok(())) => return Ok(kept),
            Ok(Err(_in_use)) => {}
            // The server answered, so it did not commit.
            Err(error) if error.code().is_some() => {
                return Err(Error::destination(admin.label(&names.target), format!("cannot be renamed: {}", explain(&error))));
            }
            // No answer: the server may or may not have committed.
            Err(error) => return lost(admin, names, &explain(&error)).map(|()| kept),
        }
    }
    let sessions: Vec<String> = admin.sessions(&names.target)?.into_iter().map(|session| session.text).collect();
    let who = if sessions.is_empty() { "sessions".to_owned() } else { some(&sessions) };
    let renames: Vec<String> =
        pairs.iter().map(|(from, to)| format!("ALTER DATABASE {} RENAME TO {};", sql::quote(from), sql::quote(to))).collect();
    let detail = format!(
        "the databases could not be renamed because of {who}, so nothing was replaced; the new database is complete under the name {}: \
         end the sessions and run BEGIN; {} COMMIT; or drop it and restore again with --disconnect",
        names.temporary,
        renames.join(" ")
    );
    Err(Error::Busy { path: admin.label(&names.target).into(), detail })
}

/// Renames while a second connection keeps ending sessions. Ending them once before the renaming is not enough: a pool
/// reconnects within milliseconds. While the server waits in ALTER DATABASE for sessions to go, it holds a lock that
/// keeps new ones out.
fn rename_against_sessions(
    admin: &mut Admin,
    pairs: &[(&str, &str)],
    names: &Names,
) -> Result<Result<Result<(), postgres::error::SqlState>, postgres::Error>> {
    let mut other = admin.again()?;
    let is_over = AtomicBool::new(false);
    let renamed = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let ended = other.end_sessions(&names.target).and_then(|()| other.end_sessions(&names.temporary));
                if ended.is_err() {
                    return;
                }
                std::thread::sleep(PAUSE);
            }
        });
        let renamed = admin.rename(pairs);
        is_over.store(true, Ordering::Relaxed);
        renamed
    });
    Ok(renamed)
}

/// After a lost connection: was the renaming committed? Then the temporary name is gone.
fn lost(admin: &mut Admin, names: &Names, why: &str) -> Result<()> {
    let unknown = |e: Error| {
        let where_both =
            format!("look which of {}, {} and {} exist: each of them is a complete database", names.target, names.temporary, names.kept);
        Error::destination(
            &names.target,
            format!(
                "the connection was lost while the databases were renamed ({why}), and the outcome cannot be looked up ({e}); {where_both}"
            ),
        )
    };
    *admin = admin.again().map_err(unknown)?;
    match admin.exists(&names.temporary).map_err(unknown)? {
        false => Ok(()),
        true => Err(Error::destination(
            &names.target,
            format!("the connection was lost before the databases were renamed, so nothing was renamed: {why}"),
        )),
    }
}
