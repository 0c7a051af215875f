//! A PostgreSQL server that is thrown away: no TCP port, no syncs, everything in one temporary directory.

use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::Result;
use crate::common::tool::find;

/// Where Debian has the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// The user that a server runs as when this program is root: PostgreSQL refuses to run as root.
const USER: &str = "postgres";

/// A running server. It ends with this value.
pub struct Server {
    bin: PathBuf,
    dir: tempfile::TempDir,
    /// Where the cluster is.
    data: PathBuf,
    /// Of [`USER`], when this program is root.
    uid: Option<u32>,
}

impl Server {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// When there is no PostgreSQL, or what its programs say.
    pub fn start(bin: Option<PathBuf>) -> Result<Self> {
        let server = Self::make(bin)?;
        server.boot("")?;
        Ok(server)
    }

    /// Makes a cluster that does not run yet.
    ///
    /// # Errors
    /// When there is no PostgreSQL, or what its programs say.
    pub fn make(bin: Option<PathBuf>) -> Result<Self> {
        // Not below the bench's own directory: that may be closed to the user, and too long a path for a socket.
        let dir = tempfile::Builder::new().prefix("icecore-pg").tempdir()?;
        let uid = if rustix::process::geteuid().is_root() { Some(number_of_user()?) } else { None };
        if let Some(uid) = uid {
            chown(dir.path(), Some(uid), None)?;
        }
        let data = dir.path().join("data");
        let server = Server { bin: bin.or_else(newest_bin).unwrap_or_default(), dir, data, uid };
        let init = ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "--username", USER, "-D"];
        run(server.owned("initdb").args(init).arg(&server.data), "")?;
        Ok(server)
    }

    /// Starts it, with `more` options of `postgres` behind those of every bench.
    ///
    /// # Errors
    /// What pg_ctl says.
    pub fn boot(&self, more: &str) -> Result<()> {
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c full_page_writes=off -c autovacuum=off -c shared_buffers=64MB {more}",
            self.dir().display()
        );
        let mut command = self.owned("pg_ctl");
        command.args(["-w", "-l"]).arg(self.dir().join("log")).arg("-D").arg(&self.data).args(["-o", &options, "start"]);
        run(&mut command, "")
    }

    /// Stops it, as pg_ctl's `mode` says.
    ///
    /// # Errors
    /// What pg_ctl says.
    pub fn stop(&self, mode: &str) -> Result<()> {
        run(self.owned("pg_ctl").args(["-w", "-m", mode, "-D"]).arg(&self.data).arg("stop"), "")
    }

    /// From the next start on it is of the cluster in another directory.
    pub fn move_to(&mut self, data: PathBuf) {
        self.data = data;
    }

    /// Its own directory, which its user may write to.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where PostgreSQL's programs are; empty if on PATH.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// A program, of PostgreSQL or with a path, as the user of the cluster's files.
    pub fn owned(&self, name: impl AsRef<Path>) -> Command {
        let program = self.bin.join(name);
        let mut command = match self.uid {
            Some(uid) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={uid}")).args(["--regid", USER, "--clear-groups"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir(self.dir());
        command
    }

    /// A program that talks to the server.
    pub fn client(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("PGHOST", self.dir()).env("PGUSER", USER).env("PGDATABASE", USER);
        command
    }

    /// The database that those work on.
    pub fn dsn(&self) -> String {
        format!("host={} user={USER} dbname={USER}", self.dir().display())
    }

    /// Runs statements, or what psql reads as such.
    ///
    /// # Errors
    /// What psql says.
    pub fn sql(&self, text: &str) -> Result<()> {
        run(self.client("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]), text)
    }

    /// What a query gives, as text.
    ///
    /// # Errors
    /// What psql says.
    pub fn ask(&self, query: &str) -> Result<String> {
        let output = self.client("psql").args(["-X", "-q", "-A", "-t", "-c", query]).stdin(Stdio::null()).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?),
            false => Err(format!("{query}: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that never ran, or was stopped, has none.
        if self.data.join("postmaster.pid").exists()
            && let Err(error) = self.stop("immediate")
        {
            eprintln!("the server may still run: {error}");
        }
    }
}

/// Runs a command with this input to its end.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the text has what it wrote to stderr.
pub fn run(command: &mut Command, input: &str) -> Result<()> {
    // A server would keep a pipe open that it inherits, so its output goes to a file.
    let mut log = tempfile::tempfile()?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log.try_clone()?);
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let status = child.wait()?;
    if !status.success() {
        let mut text = String::new();
        std::io::Seek::rewind(&mut log)?;
        std::io::Read::read_to_string(&mut log, &mut text)?;
        return Err(format!("{command:?} failed ({status}): {text}").into());
    }
    Ok(fed?)
}

/// Whether there are programs that make a server.
pub fn is_installed() -> bool {
    newest_bin().is_some() || find("initdb", None).is_some()
}

/// The newest version that Debian's packages have put there.
fn newest_bin() -> Option<PathBuf> {
    let version = |path: &Path| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let bins = std::fs::read_dir(DEBIAN).ok()?.flatten().map(|entry| entry.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").is_file()).max_by_key(|bin| version(bin))
}

fn number_of_user() -> Result<u32> {
    let output = Command::new("id").args(["-u", USER]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| format!("there is no user {USER} to run a server as").into())
}
