//! A PostgreSQL server that exists for one drill.
//!
//! It listens only on a Unix socket in its own directory, which only its user may enter, so it needs no password. It
//! does not sync, as it only holds a copy.
//!
//! A shell process, the keeper, runs `initdb` and later removes everything. It waits at the end of a pipe. When the
//! pipe is closed, also because this process was killed, the keeper stops the server and removes the directory. The
//! server itself is started by this process, confined (`confined`), before it gets any code of a dump.

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

/// Longest path of a socket: `sun_path` has 104 bytes on macOS and the BSDs and 108 on Linux, with the terminating
/// zero.
const SOCKET_PATH_MAX: usize = 103;
/// The number in the socket's name. No other server has a socket in that directory.
const PORT: u16 = 5432;
/// The socket's name: `UNIXSOCK_PATH` in PostgreSQL's sources.
const SOCKET: &str = ".s.PGSQL.5432";
/// How long creating and starting a server may take. It usually takes seconds; a machine that needs longer than this
/// would not finish a drill.
const START_MAX: Duration = Duration::from_secs(300);
/// How often this process looks whether the server answers.
const LOOK: Duration = Duration::from_millis(20);
/// Advice for a confined server that does not start and speaks of permissions.
const CONFINED: &str = "the server may read only its own programs, /usr and similar directories, so that code in a dump cannot reach more; to \
                        start it without this limit, put a script named `postgres` that runs it into the directory of --pg-bin";
/// The database that every server has.
const HOME: &str = "postgres";

/// The keeper's script. It creates the cluster, then reads the server's process id from its input, and stops the server
/// and removes everything at the end of its input. If this process is killed before it has written the id, the server
/// ends by itself when it finds its directory gone.
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
/// The file that the keeper creates when the cluster is complete.
const MADE: &str = "made";
/// The server's settings. The socket's directory is relative to the data directory, so that it needs no quotes. Without
/// `wal_level=logical` each publication would give a warning.
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
    // Shared memory in the server's own directory: a confined server may not use /dev/shm.
    "dynamic_shared_memory_type=mmap",
];

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// The id of its group.
    pub gid: u32,
}

/// A running server. Dropping it stops the server and removes its directory.
pub(super) struct ThrowAway {
    pub(super) dir: PathBuf,
    /// How to connect to it as its superuser.
    pub(super) conninfo: Conninfo,
    /// Whether code of a dump is confined; see [`confined`].
    pub(super) is_confined: bool,
    keeper: Child,
    server: Option<Child>,
    /// The keeper's input. Closing it stops the server.
    pipe: Option<ChildStdin>,
    /// The standard error of the program that is running: first of the keeper, then of the server. The thread ends with
    /// the program.
    messages: Option<JoinHandle<String>>,
}

impl ThrowAway {
    /// Creates a server below the directory `above`, with the programs in `bin`, and waits until it answers. It runs as
    /// `account`, if one is given.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a server cannot listen in that directory; [`Error::Destination`] if it cannot be
    /// created there; [`Error::Source`] with the programs' messages if it does not start; [`Error::Cancelled`].
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
        // The keeper closes its standard error when initdb has ended. If the file is missing then, initdb has failed.
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

    /// Stops and removes the server. A warning names the directory if it is left.
    pub(super) fn end(self, monitor: &dyn Monitor) {
        let dir = self.dir.clone();
        drop(self);
        if dir.exists() {
            monitor.warn(&format!("the directory of the throw-away server could not be removed; remove it by hand: {}", dir.display()));
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

    /// Starts the server itself and gives its process id to the keeper.
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

    /// Sets what both programs need. They run in the server's directory, since they may not be able to read the current
    /// one. They get a process group of their own, so that Ctrl-C reaches only this process, which then stops them in
    /// order.
    fn prepare(&self, command: &mut Command, dir: &Path) {
        self.environment.give_to_server(command);
        command.current_dir(dir).process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(account) = self.account {
            // Setting the user makes the standard library drop the supplementary groups too.
            command.uid(account.uid).gid(account.gid);
        }
    }

    fn cannot_start(&self, dir: &Path, error: &std::io::Error) -> Error {
        Error::destination(dir, format!("a server cannot be started there: {error}{}", advice(self.account)))
    }

    /// Waits until `is_so` holds. If the running program ends before that, its messages become the error.
    fn wait(&self, server: &mut ThrowAway, is_so: impl Fn(&ThrowAway) -> std::result::Result<(), String>) -> Result<()> {
        loop {
            if self.monitor.cancelled() {
                return Err(Error::Cancelled);
            }
            // Looked at before `is_so`: a program that ends between the two has had its chance to make it true.
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
                let text = format!("the throw-away server was not ready after {} s: {failed}", START_MAX.as_secs());
                return Err(Error::source("postgres", text));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Collects a program's standard error in a thread.
fn collect(child: &mut Child) -> Result<JoinHandle<String>> {
    let stderr = child.stderr.take();
    let thread = std::thread::Builder::new().name("messages".to_owned()).spawn(move || stderr.map(child::collect).unwrap_or_default());
    thread.map_err(|e| Error::source("postgres", e))
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        self.pipe = None;
        // The keeper kills the server. The server must be waited for first: until then its process id exists, and the
        // keeper keeps trying.
        if let Some(server) = &mut self.server {
            let _ = server.wait();
        }
        let _ = self.keeper.wait();
        // The keeper runs as the account, and cannot remove the directory itself from one that belongs to root.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Creates the server's directory. Only its user may enter it.
fn make_dir(above: &Path, account: Option<&Account>) -> Result<PathBuf> {
    let failed = |e: std::io::Error| Error::destination(above, format!("the directory for a server cannot be created there: {e}"));
    let (above, _) = Dir::find_or_make(&RealDisk, above).map_err(failed)?;
    let above = above.path().to_path_buf();
    if let Some(account) = account {
        // Root connects to the server by the path of its socket. A user who can rename a directory on that path could
        // put a server of their own there, and would get the whole dump.
        beneath::refuse_changeable(&above, &[account.uid])
            .map_err(|e| failed(std::io::Error::new(e.kind(), format!("{e}; choose another directory with --staging"))))?;
    }
    // A short name, as the socket's path has to be short.
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

/// The directory as the text of a host. It may have no comma, as libpq takes that for the start of the next host.
fn socket_dir(dir: &Path) -> Result<String> {
    let text = dir.to_str().filter(|text| !text.contains(',') && text.len() + 1 + SOCKET.len() <= SOCKET_PATH_MAX);
    let cannot = || {
        let room = SOCKET_PATH_MAX - SOCKET.len() - 1;
        let text = format!(
            "{}: a server cannot listen there: the path is longer than {room} bytes, has a comma or is not UTF-8; \
             choose another directory with --staging",
            dir.display()
        );
        Error::InvalidArgument(text)
    };
    text.map(str::to_owned).ok_or_else(cannot)
}

fn advice(account: Option<&Account>) -> String {
    account.map_or_else(String::new, |account| {
        format!("\nthe server runs as user {}, who must be able to enter all directories above it and run its programs", account.name)
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
