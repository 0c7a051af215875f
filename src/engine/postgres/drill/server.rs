//! A PostgreSQL server that is there for one drill.
//!
//! It listens on nothing but a Unix socket in its own directory, which only its user may enter, so it needs no password. It does not sync: what it holds is a copy.
//! A shell keeps it: it makes the cluster, is told the number of the server's process, and as soon as the pipe to it is closed, which also happens when this
//! process is killed, it stops the server and removes its directory. The server itself is started from here, confined, before any code of a dump comes to it.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::confined;
use crate::engine::postgres::{Connection, Conninfo};
use crate::engine::{Environment, child};
use crate::error::{Error, Result};
use crate::fs::beneath::{self, Dir};
use crate::fs::disk::RealDisk;
use crate::progress::Monitor;

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
/// What is said where that may be why it does not start.
const CONFINED: &str = "it reads only what lies beside its programs, in /usr and the like, as the code in a dump is not to reach more; a script named `postgres` \
                        in --pg-bin starts one that is not kept from anything";
/// The database that every server has.
const HOME: &str = "postgres";

/// Makes the cluster. It reads the number of the server's process from its input, and removes everything at the end of its input. If this process is killed before
/// it has told the number, the server ends by itself when it finds its directory gone.
const KEEPER: &str = r#"
trap '' HUP INT TERM
dir=$1 bin=$2 user=$3 server=
if "$bin/initdb" -D "$dir/data" -U "$user" --auth=trust --no-sync -E UTF8 --locale=C </dev/null >/dev/null; then
    : >"$dir/made"
fi
exec 2>/dev/null
read -r server
cat >/dev/null
tries=0
while [ -n "$server" ] && kill -QUIT "$server"; do
    # Code in a dump may have stopped it: such a process takes no other signal.
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || kill -KILL "$server"
    sleep 0.1 || sleep 1
done
rm -rf "$dir"
"#;
/// What the keeper makes in the directory when there is a cluster.
const MADE: &str = "made";
/// The server's settings. The socket's directory is told from the data directory on, so that it needs no quotes. Publications are restored without a warning only
/// where logical decoding is possible.
const SETTINGS: [&str; 11] = [
    "unix_socket_directories=..",
    "port=5432",
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "autovacuum=off",
    "wal_level=logical",
    "max_wal_size=4GB",
    "log_min_error_statement=panic",
    // In its own directory, as it is kept from /dev/shm.
    "dynamic_shared_memory_type=mmap",
];

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
    /// Whether the code of a dump is kept from everything else; see [`confined`].
    pub(super) is_confined: bool,
    keeper: Child,
    server: Option<Child>,
    /// Closed to stop it.
    pipe: Option<ChildStdin>,
    /// What the program that runs says; ends with it.
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
        let startup = Startup { bin, superuser, account, environment, monitor, began: Instant::now() };
        let made = socket_dir(&dir).and_then(|socket| Ok((startup.keeper(&dir)?, socket)));
        let (mut keeper, socket) = made.inspect_err(|_| {
            let _ = std::fs::remove_dir(&dir);
        })?;
        let (pipe, messages) = (keeper.stdin.take(), collect(&mut keeper)?);
        let conninfo = Conninfo::local(&socket, PORT, superuser, HOME);
        let mut server = ThrowAway { dir, conninfo, is_confined: false, keeper, server: None, pipe, messages: Some(messages) };
        startup.wait(&mut server, |server| {
            match server.messages.as_ref().is_some_and(JoinHandle::is_finished) && server.dir.join(MADE).exists() {
                true => Ok(()),
                false => Err("there is no cluster".to_owned()),
            }
        })?;
        startup.server(&mut server)?;
        startup.wait(&mut server, |server| match server.dir.join(SOCKET).exists().then(|| Connection::open(&server.conninfo)) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("it does not listen".to_owned()),
        })?;
        Ok(server)
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

/// How a server is started.
struct Startup<'s> {
    bin: &'s Path,
    superuser: &'s str,
    account: Option<&'s Account>,
    environment: &'s Environment,
    monitor: &'s dyn Monitor,
    began: Instant,
}

impl Startup<'_> {
    fn keeper(&self, dir: &Path) -> Result<Child> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER, "sh"]).arg(dir).arg(self.bin).arg(self.superuser).stdin(Stdio::piped());
        self.prepare(&mut command, dir);
        command.spawn().map_err(|e| self.cannot_start(dir, &e))
    }

    /// Starts the server itself, and tells the keeper of it.
    fn server(&self, server: &mut ThrowAway) -> Result<()> {
        let program = self.bin.join("postgres");
        let mut command = Command::new(&program);
        command.arg("-D").arg(server.dir.join("data")).stdin(Stdio::null());
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        self.prepare(&mut command, &server.dir);
        let (child, is_confined) = confined::spawn(&mut command, &program, &server.dir).map_err(|e| self.cannot_start(&server.dir, &e))?;
        let child = server.server.insert(child);
        server.is_confined = is_confined;
        server.messages = Some(collect(child)?);
        let told = server.pipe.as_mut().map_or(Ok(()), |pipe| writeln!(pipe, "{}", child.id()));
        told.map_err(|e| self.cannot_start(&server.dir, &e))
    }

    /// Where it is, nothing but its own directory has to be readable. Ctrl-C is for us: we tell it when to stop.
    fn prepare(&self, command: &mut Command, dir: &Path) {
        self.environment.give_to_server(command);
        command.current_dir(dir).process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(account) = self.account {
            // With the user the standard library also drops the supplementary groups.
            command.uid(account.uid).gid(account.gid);
        }
    }

    fn cannot_start(&self, dir: &Path, error: &std::io::Error) -> Error {
        Error::destination(dir, format!("no server can be started there: {error}{}", advice(self.account)))
    }

    /// Waits until this is so. What is said meanwhile says why it never will be.
    fn wait(&self, server: &mut ThrowAway, is_so: impl Fn(&ThrowAway) -> std::result::Result<(), String>) -> Result<()> {
        loop {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            let has_ended = server.messages.as_ref().is_some_and(JoinHandle::is_finished);
            let Err(failed) = is_so(server) else { return Ok(()) };
            if has_ended {
                let said = server.messages.take().and_then(|messages| messages.join().ok()).unwrap_or_default();
                let advice = match said.contains("ermission denied") {
                    true if server.is_confined => format!("{}\n{CONFINED}", advice(self.account)),
                    true => advice(self.account),
                    false => String::new(),
                };
                return Err(Error::source("postgres", format!("the throw-away server does not start: {}{advice}", said.trim_end())));
            }
            if self.began.elapsed() > START_MAX {
                let text = format!("the throw-away server was not there after {} s: {failed}", START_MAX.as_secs());
                return Err(Error::source("postgres", text));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Collects what a program says, by a thread.
fn collect(child: &mut Child) -> Result<JoinHandle<String>> {
    let stderr = child.stderr.take();
    let thread = std::thread::Builder::new().name("messages".to_owned()).spawn(move || stderr.map(child::collect).unwrap_or_default());
    thread.map_err(|e| Error::source("postgres", e))
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        self.pipe = None;
        // The keeper stops the server, whose number is free only when it was waited for.
        if let Some(server) = &mut self.server {
            let _ = server.wait();
        }
        let _ = self.keeper.wait();
        // The keeper may not be allowed to change the directory above.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn make_dir(above: &Path, account: Option<&Account>) -> Result<PathBuf> {
    let failed = |e: std::io::Error| Error::destination(above, format!("no directory for a server can be made there: {e}"));
    let (above, _) = Dir::find_or_make(&RealDisk, above).map_err(failed)?;
    let above = above.path().to_path_buf();
    if let Some(account) = account {
        // Root reaches the server by a path: somebody who can rename a directory on the way could put a server of theirs there, and get the whole database.
        beneath::refuse_changeable(&above, &[account.uid])
            .map_err(|e| failed(std::io::Error::new(e.kind(), format!("{e}; --staging names another one"))))?;
    }
    // The socket's path has to be short.
    let dir = tempfile::Builder::new()
        .prefix("icecore-drill-")
        .rand_bytes(8)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(&above)
        .map_err(failed)?
        .keep();
    if let Some(account) = account
        && let Err(e) = lchown(&dir, Some(account.uid), Some(account.gid))
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
