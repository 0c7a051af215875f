//! Environment variables, the names of host and user, and directories that depend on them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use icecore::engine::postgres::drill::Account;

use super::exit::Failure;
use super::location;

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The variable that names the repository.
const REPOSITORY: &str = "ICECORE_REPOSITORY";

/// The repository's directory: the argument, else `ICECORE_REPOSITORY`, else `.icecore`.
pub(crate) fn repository(argument: Option<&OsStr>) -> Result<PathBuf, Failure> {
    let named = argument.map(OsStr::to_os_string).or_else(|| variable(REPOSITORY)).unwrap_or_else(|| ".icecore".into());
    if named.is_empty() {
        return Err(Failure::usage("the repository's name is empty; give its directory"));
    }
    location::refuse_as_repository(&named)?;
    Ok(PathBuf::from(named))
}

/// For the message that there is no repository: why another place than the expected one was looked at.
pub(crate) fn why_there(argument: Option<&OsStr>) -> &'static str {
    let is_empty = std::env::var_os(REPOSITORY).is_some_and(|value| value.is_empty());
    if argument.is_none() && is_empty { ". ICECORE_REPOSITORY is set, but empty" } else { "" }
}

/// The directory of the local catalogs: `ICECORE_CACHE_DIR`, else the user's cache directory; `None` if no variable names one.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    if let Some(dir) = variable("ICECORE_CACHE_DIR") {
        return Some(PathBuf::from(dir));
    }
    // A relative path must be ignored: XDG Base Directory Specification, "Basics".
    if let Some(dir) = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        return Some(dir.join("icecore"));
    }
    let below_home = if cfg!(target_os = "macos") { "Library/Caches/icecore" } else { ".cache/icecore" };
    variable("HOME").map(|home| PathBuf::from(home).join(below_home))
}

/// The directory of temporary files: `TMPDIR`, else /tmp.
pub(crate) fn temporary_dir() -> PathBuf {
    variable("TMPDIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

/// The directory of servers that are only needed for a while: `TMPDIR`, else /var/tmp, which unlike /tmp is on a disk; a home directory may be closed to the user
/// that runs them.
pub(crate) fn server_dir() -> PathBuf {
    let disk = Path::new("/var/tmp");
    variable("TMPDIR").map_or_else(|| if disk.is_dir() { disk.to_path_buf() } else { "/tmp".into() }, PathBuf::from)
}

/// The account for a throw-away PostgreSQL server, if this process runs as root: PostgreSQL refuses to run as root. A dump can make its server
/// run programs, so an account without rights comes first. Otherwise it is the account of PostgreSQL's packages, which may own other data.
pub(crate) fn server_account() -> icecore::Result<Option<Account>> {
    const NAMES: [&str; 2] = ["nobody", "postgres"];
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let account = |wanted: &str| {
        let found = uzers::get_user_by_name(wanted).filter(|user| user.uid() != 0);
        found.map(|user| Account { name: wanted.to_owned(), uid: user.uid(), gid: user.primary_group_id() })
    };
    let none = || {
        let text = "PostgreSQL does not run as root, and there is no user nobody or postgres to run it: drill as another user, or name a server with --dsn";
        icecore::Error::NotDone { detail: text.to_owned() }
    };
    NAMES.into_iter().find_map(account).map(Some).ok_or_else(none)
}

/// This machine's name.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The user's name as the system has it, from wherever it keeps its accounts; else as a variable has it, else the number.
pub(crate) fn user() -> String {
    let uid = rustix::process::getuid().as_raw();
    name_of(uid).unwrap_or_else(|| {
        let named = variable("USER").or_else(|| variable("LOGNAME"));
        named.map_or_else(|| uid.to_string(), |name| name.to_string_lossy().into_owned())
    })
}

fn name_of(uid: u32) -> Option<String> {
    uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned())
}

/// All variables, for programs that the library runs.
pub(crate) fn everything() -> icecore::engine::Environment {
    icecore::engine::Environment { variables: std::env::vars_os().collect(), os_user: Some(account()) }
}

/// The name of the account that this process runs as. Variables may say something else.
fn account() -> String {
    name_of(rustix::process::geteuid().as_raw()).unwrap_or_else(user)
}
