//! Finds PostgreSQL's own programs and prepares to run them.
//!
//! pg_dump must be at least as new as the server, and its archives must be of a version that icecore parses. Programs
//! get the connection and the session's settings only by environment variables, so no password is in an argument list.
//! Variables of libpq that the user has set are removed, since they are resolved already (`conninfo`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::conninfo::Conninfo;
use super::settings::Purpose;
use crate::engine::Environment;
use crate::error::{Error, Result};

/// The directory in which Debian's packages have the programs of each version.
const DEBIAN_DIR: &str = "/usr/lib/postgresql";
/// The first major version of `pg_dump` with all options that are used here.
const MAJOR_MIN: u32 = 13;
/// The last major version whose archives are parsed.
const MAJOR_MAX: u32 = 18;

/// Major versions with the first minor version that fixes CVE-2024-7348: pg_dump no longer reads a view that was put in
/// a table's place. Later major versions all have the fix.
const WITHOUT_VIEWS: [(u32, u32); 4] = [(13, 16), (14, 13), (15, 8), (16, 4)];

/// The programs that a throw-away server needs.
const SERVER_PROGRAMS: [&str; 4] = ["initdb", "postgres", "pg_restore", "pg_dump"];

/// The programs of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The directory that they are in.
    pub bin: PathBuf,
    /// The version by `pg_dump --version`: `15.18`.
    pub version: String,
    /// Its major version.
    pub major: u32,
}

impl Tools {
    /// Finds programs that can dump a server of this `server_version_num`. If `bin` is given, only that directory
    /// counts; else the first directory on `PATH`, and then the lowest version in Debian's directories, that is as new
    /// as the server.
    ///
    /// # Errors
    /// [`Error::Source`] if there are none. The message says what was found and what to install.
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

    /// Finds programs that create and run a server of this major version or a later one, and load dumps into it. It
    /// looks in the places of [`Tools::find`].
    ///
    /// # Errors
    /// [`Error::Source`] if there are none. The message says what was found and what to install.
    pub fn find_server(bin: Option<&Path>, environment: &Environment, major: u32) -> Result<Self> {
        let wanted = major.max(MAJOR_MIN);
        Self::search(bin, environment, wanted, &SERVER_PROGRAMS).map_err(|seen| {
            let detail = format!(
                "a throw-away server needs {} of PostgreSQL {wanted} to {MAJOR_MAX}, but {seen}; install them (Debian and Ubuntu: \
                 postgresql-{wanted}), \
                 name their directory with --pg-bin, or name a server to restore into with --dsn",
                SERVER_PROGRAMS.join(", ")
            );
            Error::source("postgres", detail)
        })
    }

    /// The first directory with all these programs in a fitting version.
    ///
    /// # Errors
    /// A text that says what was found.
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
        // Checking first is much cheaper than failing to start a program, and PATH has many directories.
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

    /// If these programs lack the fix of CVE-2024-7348: the first minor version that has it.
    pub(super) fn lacking_fix(&self) -> Option<String> {
        let (major, first) = WITHOUT_VIEWS.into_iter().find(|(major, _)| *major == self.major)?;
        let minor: Option<u32> = self.version.split('.').nth(1).and_then(|text| text.parse().ok());
        minor.is_none_or(|minor| minor < first).then(|| format!("{major}.{first}"))
    }

    /// A program that reads a database. `conninfo` should be that of an open connection to the same database, so that
    /// it has the session's settings. Variables of libpq and of icecore are not passed on.
    pub fn command(&self, program: &str, environment: &Environment, conninfo: &Conninfo) -> Command {
        let mut command = self.connecting(program, environment, conninfo, Purpose::Dump);
        // Times are written in the session's time zone, and rows are compared as text.
        command.env("PGTZ", "UTC");
        command
    }

    /// psql. It connects in the same way and looks names up only where no user can create any.
    pub(super) fn psql(&self, environment: &Environment, conninfo: &Conninfo) -> Command {
        self.connecting("psql", environment, conninfo, Purpose::Ask)
    }

    /// A program that loads a database. Its time zone is not set: materialized views are computed as in a session of
    /// the database, which may have a setting of its own.
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
        // Messages in English: they are kept in records, and advice is chosen by their words.
        command.env("LC_MESSAGES", "C").env_remove("LC_ALL").env_remove("LANGUAGE");
        command
    }
}

/// The directories to look in, the best first.
fn places(bin: Option<&Path>, environment: &Environment) -> Vec<PathBuf> {
    if let Some(bin) = bin {
        return vec![bin.to_path_buf()];
    }
    let mut versions: Vec<u32> = std::fs::read_dir(DEBIAN_DIR)
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    versions.sort_unstable();
    // Not /usr/bin on Debian: pg_dump there is a script that chooses a version by its own rules.
    let debian = versions.into_iter().map(|version| Path::new(DEBIAN_DIR).join(version.to_string()).join("bin"));
    environment.search_path().into_iter().filter(|dir| !dir.as_os_str().is_empty() && !is_debian_script(dir)).chain(debian).collect()
}

/// Whether `pg_dump` in this directory is the script of postgresql-client-common. It runs a program of one of Debian's
/// directories.
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
