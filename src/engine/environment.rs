//! The environment variables and the user, as the caller passes them in. The library never reads its own environment.
//!
//! Guarantee: programs do not inherit icecore's variables, which may hold the passphrase. A throw-away server gets only
//! what it needs to start.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

/// The variables that a server needs to find its programs and libraries.
const SERVER_VARIABLES: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// The environment, as the caller has found it.
#[derive(Clone, Default)]
pub struct Environment {
    /// All variables. Those that begin with `PG` have the same meaning as for libpq. Programs inherit all but icecore's
    /// own.
    pub variables: BTreeMap<OsString, OsString>,
    /// The user that this process runs as: libpq's default for the role.
    pub os_user: Option<String>,
}

impl Environment {
    /// A variable as text, if it is set and not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.variables.get(OsStr::new(name)).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
    }

    /// A variable that names a file.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// A file in the user's home directory.
    pub(super) fn in_home(&self, name: &str) -> Option<PathBuf> {
        self.path("HOME").map(|home| home.join(name))
    }

    /// The directories of `PATH`.
    pub(super) fn search_path(&self) -> Vec<PathBuf> {
        self.variables.get(OsStr::new("PATH")).map(|path| std::env::split_paths(path).collect()).unwrap_or_default()
    }

    /// Sets a program's environment to these variables, without those that begin with `ICECORE_`: the passphrase may be
    /// among them.
    pub(super) fn give(&self, command: &mut Command) {
        let is_ours = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with("ICECORE_"));
        command.env_clear().envs(self.variables.iter().filter(|(name, _)| !is_ours(name)));
    }

    /// Sets a throw-away server's environment to what it needs to start, and nothing else. Code in a dump can read the
    /// server's variables, and users keep secrets in theirs.
    pub(crate) fn give_to_server(&self, command: &mut Command) {
        let needed = self.variables.iter().filter(|(name, _)| SERVER_VARIABLES.iter().any(|needed| name.as_os_str() == *needed));
        command.env_clear().envs(needed).env("TZ", "UTC").env("LC_ALL", "C");
    }
}

/// Does not show values, as some are secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("variables", &self.variables.len()).field("os_user", &self.os_user).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_gets_no_secrets() {
        let variables = ["PATH", "AWS_SECRET_ACCESS_KEY", "ICECORE_PASSWORD", "PGPASSWORD", "HOME", "SSH_AUTH_SOCK"]
            .map(|name| (name.into(), "value".into()));
        let environment = Environment { variables: variables.into(), os_user: None };
        let mut command = Command::new("true");
        environment.give_to_server(&mut command);
        let given: Vec<_> = command.get_envs().filter(|(_, value)| value.is_some()).map(|(name, _)| name.to_owned()).collect();
        assert_eq!(given, ["LC_ALL", "PATH", "TZ"]);
    }
}
