//! A PostgreSQL server that is there for one drill.
//!
//! It listens on nothing but a Unix socket in its own directory, which only its user may enter, so it needs no password. It does not sync: what it holds is a copy.
//! A shell keeps it: as soon as the pipe to that shell is closed, which also happens when this process is killed, the server is stopped and its
//! directory removed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::progress::Monitor;
use crate::source::postgres::{Connection, Conninfo};
use crate::source::{Environment, child};

/// What a socket's path may have at most: `sun_path` is 104 bytes on macOS and the BSDs, 108 on Linux, with its end.
const SOCKET_PATH_MAX: usize = 103;
/// The number in the socket's name; nobody else has one in that directory.
const PORT: u16 = 5432;
/// The socket's name: `UNIXSOCK_PATH` in PostgreSQL's sources.
const SOCKET: &str = ".s.PGSQL.5432";
/// How long making and starting a server may take. It takes seconds; a machine that needs this long will not finish a drill.
const START_MAX: Duration = Duration::from_secs(300);
/// How often is looked whether it answers.
const LOOK: Duration = Duration::from_millis(20);
/// The database that every server has.
const HOME: &str = "postgres";

/// Makes and starts the server, waits for the end of its input, and removes all of it. The socket's directory is told from the data directory on, so that it needs
/// no quotes. Publications are restored without a warning only where logical decoding is possible.
const KEEPER: &str = r#"
trap '' HUP INT TERM
dir=$1 bin=$2 user=$3 server=
if "$bin/initdb" -D "$dir/data" -U "$user" --auth=trust --no-sync -E UTF8 --locale=C </dev/null >/dev/null; then
    "$bin/postgres" -D "$dir/data" -c unix_socket_directories=.. -c port=5432 -c listen_addresses= -c fsync=off -c full_page_writes=off \
        -c synchronous_commit=off -c autovacuum=off -c wal_level=logical -c max_wal_size=4GB -c log_min_error_statement=panic </dev/null >/dev/null &
    server=$!
fi
exec 2>/dev/null
cat >/dev/null
while [ -n "$server" ] && kill -QUIT "$server"; do sleep 0.1 || sleep 1; done
rm -rf "$dir"
"#;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
}

/// A running server. It is stopped and removed when this is dropped.
pub(super) struct ThrowAway {
    pub(super) dir: PathBuf,
    /// How to connect to it as its superuser.
    pub(super) conninfo: Conninfo,
    keeper: Child,
    /// Closed to stop it.
    pipe: Option<ChildStdin>,
    /// Ends with the server.
    messages: Option<JoinHandle<String>>,
}

impl ThrowAway {
    /// Makes one below a directory with the programs in `bin`, as that account if one is given, and waits until it answers.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if no server can be in that directory; [`Error::Destination`] if it cannot be made there; [`Error::Source`], with what the programs
    /// said, if it does not start; [`Error::Cancelled`].
    pub(super) fn start(
        bin: &Path,
        superuser: &str,
        above: &Path,
        account: Option<&Account>,
        environment: &Environment,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        monitor.phase("starting a server", None);
        let dir = make_dir(above, account)?;
        let made = match socket_dir(&dir) {
            Ok(socket) => Self::spawn(&dir, bin, superuser, account, environment).map(|keeper| (keeper, socket)),
            Err(error) => Err(error),
        };
        let (mut keeper, socket) = made.inspect_err(|_| {
            let _ = std::fs::remove_dir(&dir);
        })?;
        let (pipe, stderr) = (keeper.stdin.take(), keeper.stderr.take());
        let conninfo = Conninfo::local(&socket, PORT, superuser, HOME);
        let mut server = ThrowAway { dir, conninfo, keeper, pipe, messages: None };
        let collect = move || stderr.map(child::collect).unwrap_or_default();
        let thread = std::thread::Builder::new().name("messages".to_owned()).spawn(collect);
        server.messages = Some(thread.map_err(|e| Error::source("postgres", e))?);
        server.wait(account, monitor)?;
        Ok(server)
    }

    fn spawn(dir: &Path, bin: &Path, superuser: &str, account: Option<&Account>, environment: &Environment) -> Result<Child> {
        let mut command = Command::new("/bin/sh");
        environment.give_to_server(&mut command);
        command.args(["-c", KEEPER, "sh"]).arg(dir).arg(bin).arg(superuser);
        // Where it is, nothing but its own directory has to be readable. Ctrl-C is for us: we tell it when to stop.
        command.current_dir(dir).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(account) = account {
            // With the user the standard library also drops the supplementary groups.
            command.uid(account.uid).gid(account.gid);
        }
        spawn_without_new_rights(&mut command)
            .map_err(|e| Error::destination(dir, format!("no server can be started there: {e}{}", advice(account))))
    }

    fn wait(&mut self, account: Option<&Account>, monitor: &dyn Monitor) -> Result<()> {
        let began = Instant::now();
        loop {
            if monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            if self.messages.as_ref().is_some_and(JoinHandle::is_finished) {
                let said = self.messages.take().and_then(|messages| messages.join().ok()).unwrap_or_default();
                let advice = if said.contains("ermission denied") { advice(account) } else { String::new() };
                return Err(Error::source("postgres", format!("the throw-away server does not start: {}{advice}", said.trim_end())));
            }
            let failed = match self.dir.join(SOCKET).exists().then(|| Connection::open(&self.conninfo)) {
                Some(Ok(_)) => return Ok(()),
                Some(Err(error)) => error.to_string(),
                None => "it does not listen".to_owned(),
            };
            if began.elapsed() > START_MAX {
                let text = format!("the throw-away server was not there after {} s: {failed}", START_MAX.as_secs());
                return Err(Error::source("postgres", text));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Stops and removes it.
    pub(super) fn end(self, monitor: &dyn Monitor) {
        let dir = self.dir.clone();
        drop(self);
        if dir.exists() {
            monitor.warn(&format!("{}, where the throw-away server was, could not be removed", dir.display()));
        }
    }
}

/// A dump can have programs run (`COPY ... TO PROGRAM`). None of them gets more rights than the server has, by sudo or the like. What a thread gives up, its
/// children do not have either.
#[cfg(target_os = "linux")]
fn spawn_without_new_rights(command: &mut Command) -> std::io::Result<Child> {
    let spawned = std::thread::scope(|scope| {
        let spawning = scope.spawn(|| {
            rustix::thread::set_no_new_privs(true)?;
            command.spawn()
        });
        spawning.join()
    });
    spawned.unwrap_or_else(|_| Err(std::io::Error::other("the thread that starts it has ended")))
}

/// Elsewhere there is no such thing.
#[cfg(not(target_os = "linux"))]
fn spawn_without_new_rights(command: &mut Command) -> std::io::Result<Child> {
    command.spawn()
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.keeper.wait();
        // The keeper may not be allowed to change the directory above.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn make_dir(above: &Path, account: Option<&Account>) -> Result<PathBuf> {
    let failed = |e: std::io::Error| Error::destination(above, format!("no directory for a server can be made there: {e}"));
    std::fs::create_dir_all(above).map_err(failed)?;
    let above = above.canonicalize().map_err(failed)?;
    // The socket's path has to be short.
    let dir = tempfile::Builder::new()
        .prefix("icecore-drill-")
        .rand_bytes(8)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(&above)
        .map_err(failed)?
        .keep();
    if let Some(account) = account
        && let Err(e) = chown(&dir, Some(account.uid), Some(account.gid))
    {
        let _ = std::fs::remove_dir(&dir);
        return Err(Error::destination(&dir, format!("cannot be given to user {}: {e}", account.name)));
    }
    Ok(dir)
}

/// The directory as text that can stand for a host: libpq takes a comma for the end of one.
fn socket_dir(dir: &Path) -> Result<String> {
    let text = dir.to_str().filter(|text| !text.contains(',') && text.len() + 1 + SOCKET.len() <= SOCKET_PATH_MAX);
    let cannot = || {
        let room = SOCKET_PATH_MAX - SOCKET.len() - 1;
        let text = format!(
            "{}: no server can listen there, as the path is longer than {room} bytes or has a comma; name another directory to stage in",
            dir.display()
        );
        Error::InvalidArgument(text)
    };
    text.map(str::to_owned).ok_or_else(cannot)
}

fn advice(account: Option<&Account>) -> String {
    account.map_or_else(String::new, |account| {
        format!("\nthe server runs as user {}, who has to be able to enter the directories above and run the programs", account.name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_no_socket_can_have_are_refused() {
        assert_eq!(socket_dir(Path::new("/var/tmp/x")).ok().as_deref(), Some("/var/tmp/x"));
        for path in [format!("/{}", "x".repeat(89)), "/a,b".to_owned()] {
            assert!(socket_dir(Path::new(&path)).is_err(), "{path}");
        }
        assert!(socket_dir(Path::new(&format!("/{}", "x".repeat(88)))).is_ok());
    }
}
