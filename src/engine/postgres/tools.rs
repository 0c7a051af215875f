//! PostgreSQL's own programs: which ones fit a server, and how they are run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::conninfo::Conninfo;
use super::settings::Purpose;
use crate::engine::Environment;
use crate::error::{Error, Result};

/// Where Debian's packages put each version's programs.
const DEBIAN_DIR: &str = "/usr/lib/postgresql";
/// The first major version with everything that is asked of `pg_dump` here.
const MAJOR_MIN: u32 = 13;
/// The last major version whose archives are known.
const MAJOR_MAX: u32 = 18;

/// The first minor versions whose pg_dump reads no view that has taken a table's place, by major version (CVE-2024-7348). Later ones all do so.
const WITHOUT_VIEWS: [(u32, u32); 4] = [(13, 16), (14, 13), (15, 8), (16, 4)];

/// What a server of one's own takes.
const SERVER_PROGRAMS: [&str; 4] = ["initdb", "postgres", "pg_restore", "pg_dump"];

/// The programs of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The directory that they are in.
    pub bin: PathBuf,
    /// What `pg_dump --version` says: `15.18`.
    pub version: String,
    /// Its major version.
    pub major: u32,
}

impl Tools {
    /// Finds programs that can dump a server of this `server_version_num`: in `bin` and nowhere else if that is given; else the first on
    /// `PATH` or in Debian's directories that is as new as the server, taking the lowest version there.
    ///
    /// # Errors
    /// [`Error::Source`] if there are none, with what was found and what would help.
    pub fn find(bin: Option<&Path>, environment: &Environment, server_version: u32) -> Result<Self> {
        let wanted = (server_version / 10_000).max(MAJOR_MIN);
        Self::search(bin, environment, wanted, &["pg_dump"]).map_err(|seen| {
            let place =
                if bin.is_some() { "give another directory with --pg-bin" } else { "install one, or name its directory with --pg-bin" };
            let detail = format!(
                "the server is PostgreSQL {}, so pg_dump {wanted} to {MAJOR_MAX} is needed, but {seen}; {place} \
                 (Debian and Ubuntu: postgresql-client-{wanted})",
                server_version / 10_000
            );
            Error::source("pg_dump", detail)
        })
    }

    /// Finds programs that make and run a server of this major version or a later one, and load dumps into it: in `bin` and nowhere else if that is given;
    /// else in the places of [`Tools::find`].
    ///
    /// # Errors
    /// [`Error::Source`] if there are none, with what was found and what would help.
    pub fn find_server(bin: Option<&Path>, environment: &Environment, major: u32) -> Result<Self> {
        let wanted = major.max(MAJOR_MIN);
        Self::search(bin, environment, wanted, &SERVER_PROGRAMS).map_err(|seen| {
            let detail = format!(
                "a throw-away server takes {} of PostgreSQL {wanted} to {MAJOR_MAX}, but {seen}; install them (Debian and Ubuntu: postgresql-{wanted}), \
                 name their directory with --pg-bin, or name a server to restore into with --dsn",
                SERVER_PROGRAMS.join(", ")
            );
            Error::source("postgres", detail)
        })
    }

    /// The first that has all of these programs; else what was found.
    fn search(bin: Option<&Path>, environment: &Environment, major: u32, programs: &[&str]) -> Result<Self, String> {
        let mut found = Vec::new();
        for dir in places(bin, environment) {
            let Some(tools) = Self::in_dir(&dir) else { continue };
            let lacking: Vec<&str> = programs.iter().copied().filter(|program| !dir.join(program).exists()).collect();
            if lacking.is_empty() && (major..=MAJOR_MAX).contains(&tools.major) {
                return Ok(tools);
            }
            let without = if lacking.is_empty() { String::new() } else { format!(" without {}", lacking.join(", ")) };
            found.push(format!("{} in {}{without}", tools.version, tools.bin.display()));
        }
        Err(if found.is_empty() { "none was found".to_owned() } else { format!("found only {}", found.join(", ")) })
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        let program = dir.join("pg_dump");
        // To look is much cheaper than to fail to start it, in each directory of PATH.
        if !program.is_file() {
            return None;
        }
        let output = Command::new(&program).arg("--version").env_clear().stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        // pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
        let version = text.strip_prefix("pg_dump (PostgreSQL) ")?.split_whitespace().next()?.to_owned();
        let major = version.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()?;
        Some(Tools { bin: dir.to_path_buf(), version, major })
    }

    /// The first version of this major one with the mending of CVE-2024-7348, if these programs lack it.
    pub(super) fn lacking_fix(&self) -> Option<String> {
        let (major, first) = WITHOUT_VIEWS.into_iter().find(|(major, _)| *major == self.major)?;
        let minor: Option<u32> = self.version.split('.').nth(1).and_then(|text| text.parse().ok());
        minor.is_none_or(|minor| minor < first).then(|| format!("{major}.{first}"))
    }

    /// A program that reads a database, and will connect as `conninfo` says, which should be that of an open connection to the same database. What it inherits
    /// has nothing of libpq's or icecore's own variables.
    pub fn command(&self, program: &str, environment: &Environment, conninfo: &Conninfo) -> Command {
        let mut command = self.connecting(program, environment, conninfo, Purpose::Dump);
        // Rows have times in the session's time zone, and rows are compared.
        command.env("PGTZ", "UTC");
        command
    }

    /// psql, which connects in the same way, and looks names up where no user can make any.
    pub(super) fn psql(&self, environment: &Environment, conninfo: &Conninfo) -> Command {
        self.connecting("psql", environment, conninfo, Purpose::Ask)
    }

    /// The same for one that loads a database. Materialized views are computed as in a session of the database itself, whose settings may name a time zone.
    pub(crate) fn loader(&self, program: &str, environment: &Environment, conninfo: &Conninfo) -> Command {
        self.connecting(program, environment, conninfo, Purpose::Load)
    }

    fn connecting(&self, program: &str, environment: &Environment, conninfo: &Conninfo, purpose: Purpose) -> Command {
        let mut command = Command::new(self.bin.join(program));
        environment.give(&mut command);
        for name in environment.variables.keys().filter(|name| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.envs(conninfo.variables(purpose)).stdin(Stdio::null());
        // Messages are kept in records and looked at by people who speak other languages.
        command.env("LC_MESSAGES", "C").env_remove("LC_ALL").env_remove("LANGUAGE");
        command
    }
}

/// Directories to look in, each once, best first.
fn places(bin: Option<&Path>, environment: &Environment) -> Vec<PathBuf> {
    if let Some(bin) = bin {
        return vec![bin.to_path_buf()];
    }
    let mut versions: Vec<u32> = std::fs::read_dir(DEBIAN_DIR)
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    versions.sort_unstable();
    // Debian's /usr/bin/pg_dump is a script that chooses a version by other rules than ours.
    let debian = versions.into_iter().map(|version| Path::new(DEBIAN_DIR).join(version.to_string()).join("bin"));
    environment.search_path().into_iter().filter(|dir| !dir.as_os_str().is_empty() && !is_debian_script(dir)).chain(debian).collect()
}

/// Whether `pg_dump` there is the script of postgresql-client-common, which runs one of Debian's directories' programs.
fn is_debian_script(dir: &Path) -> bool {
    std::fs::canonicalize(dir.join("pg_dump")).is_ok_and(|path| path.file_name().is_some_and(|name| name == "pg_wrapper"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_programs_are_known() {
        let lacking = |version: &str, major: u32| Tools { bin: PathBuf::new(), version: version.to_owned(), major }.lacking_fix();
        for (version, major, fix) in [("13.15", 13, "13.16"), ("15.7", 15, "15.8"), ("16rc1", 16, "16.4"), ("16.3", 16, "16.4")] {
            assert_eq!(lacking(version, major).as_deref(), Some(fix), "{version}");
        }
        assert!(
            [("13.16", 13), ("15.18", 15), ("17.0", 17), ("18.4", 18)]
                .into_iter()
                .all(|(version, major)| lacking(version, major).is_none())
        );
    }
}
