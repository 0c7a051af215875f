//! The new database takes its name.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::admin::Admin;
use super::preflight::some;
use super::{Names, sql};
use crate::engine::postgres::messages::explain;
use crate::error::{Error, Result};

/// How often renaming is tried while sessions come back that were ended. Each time the server waits up to five seconds for them to go.
const ATTEMPTS: usize = 6;
/// How long to wait before sessions are ended again.
const PAUSE: Duration = Duration::from_millis(100);

/// Renames the old database, if there is one, and the new one, in one transaction. Gives the name under which the old one is kept.
///
/// # Errors
/// [`Error::Busy`] if sessions stand in the way: then nothing was renamed, the new database is whole under its temporary name, and the message says how to go
/// on. Any other error: nothing was renamed, or, if the connection was lost, that has to be looked at.
pub(super) fn swap(admin: &mut Admin, names: &Names, disconnect: bool) -> Result<Option<String>> {
    admin.refresh()?;
    // Nobody has a reason to be in the new one; what looks at every database, as monitoring does, comes back.
    admin.end_sessions(&names.temporary)?;
    let is_there = admin.exists(&names.target)?;
    if is_there && !names.may_replace {
        let detail = "a database of this name was made meanwhile: drop or rename it, or choose another name";
        return Err(Error::destination(admin.label(&names.target), detail));
    }
    let mut pairs = vec![(names.temporary.as_str(), names.target.as_str())];
    if is_there {
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
            Err(error) if error.code().is_some() => {
                return Err(Error::destination(admin.label(&names.target), format!("cannot be renamed: {}", explain(&error))));
            }
            Err(error) => return lost(admin, names, &explain(&error)).map(|()| kept),
        }
    }
    let sessions: Vec<String> = admin.sessions(&names.target)?.into_iter().map(|session| session.text).collect();
    let who = if sessions.is_empty() { "sessions".to_owned() } else { some(&sessions) };
    let renames: Vec<String> =
        pairs.iter().map(|(from, to)| format!("ALTER DATABASE {} RENAME TO {};", sql::quote(from), sql::quote(to))).collect();
    let detail = format!(
        "{who} stood in the way of the last step, so nothing was replaced; the new database is whole and verified as {}: end the sessions, then \
         BEGIN; {} COMMIT; or drop it and restore again with --disconnect",
        names.temporary,
        renames.join(" ")
    );
    Err(Error::Busy { path: admin.label(&names.target).into(), detail })
}

/// Renames while another session ends whatever is connected: once renaming has begun nobody can come back until it is over.
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

/// The connection was lost in the middle: asks what has happened.
fn lost(admin: &mut Admin, names: &Names, why: &str) -> Result<()> {
    let unknown = |e: Error| {
        let where_both =
            format!("look at {}, {} and {}: each is whole under the name that it has", names.target, names.temporary, names.kept);
        Error::destination(&names.target, format!("the connection was lost while renaming ({why}) and again after it ({e}); {where_both}"))
    };
    *admin = admin.again().map_err(unknown)?;
    match admin.exists(&names.temporary).map_err(unknown)? {
        false => Ok(()),
        true => Err(Error::destination(&names.target, format!("the connection was lost while renaming, and nothing was renamed: {why}"))),
    }
}
