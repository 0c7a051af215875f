//! Reads libpq's service file and password file, as libpq does.
//!
//! Guarantee: a password file that others may read is ignored. An unknown setting of a service is an error, so that
//! none is silently left out. Both files must be plain files of UTF-8 text with at most 4 MiB.
//! Relies on the directories that distributions compile into libpq, because a program cannot ask libpq for them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Target, invalid, is_known};
use crate::engine::Environment;
use crate::error::{Error, Result};

/// The socket directory that distributions compile into libpq. In the password file it is called `localhost`.
pub(super) const DEBIAN_SOCKET_DIR: &str = "/var/run/postgresql";
/// Directories in which distributions keep the system's service file.
const SYSTEM_DIRS: [&str; 3] = ["/etc/postgresql-common", "/etc", "/etc/sysconfig/pgsql"];
/// Most bytes of either file.
const FILE_BYTES_MAX: u64 = 4 << 20;

fn read(path: &Path) -> Result<Zeroizing<String>> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::source(path, e))?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(Error::source(path, format!("cannot be used: it is not a plain file, or has more than {FILE_BYTES_MAX} bytes")));
    }
    let bytes = Zeroizing::new(std::fs::read(path).map_err(|e| Error::source(path, e))?);
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Error::source(path, "is not UTF-8")),
    }
}

/// The settings of a service: in the user's file if it has that, else in the system's.
pub(super) fn service(name: &str, environment: &Environment) -> Result<Vec<(String, String)>> {
    let own = environment.path("PGSERVICEFILE").or_else(|| environment.in_home(".pg_service.conf"));
    let system = match environment.path("PGSYSCONFDIR") {
        Some(dir) => vec![dir.join("pg_service.conf")],
        None => SYSTEM_DIRS.iter().map(|dir| Path::new(dir).join("pg_service.conf")).collect(),
    };
    for path in own.into_iter().chain(system).filter(|path| path.exists()) {
        if let Some(settings) = in_file(&path, name)? {
            return Ok(settings);
        }
    }
    invalid(format!(
        "the service {name:?} is not in the user's or the system's service file (~/.pg_service.conf, PGSERVICEFILE, PGSYSCONFDIR)"
    ))
}

fn in_file(path: &Path, name: &str) -> Result<Option<Vec<(String, String)>>> {
    let text = read(path)?;
    let heading = format!("[{name}]");
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    let mut found: Option<Vec<(String, String)>> = None;
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            if found.is_some() {
                break;
            }
            found = (line == heading).then(Vec::new);
            continue;
        }
        let Some(settings) = &mut found else { continue };
        match line.split_once('=') {
            Some(("service", _)) => return Err(Error::source(path, format!("line {number}: a service in a service"))),
            Some((key, value)) if is_known(key) => settings.push((key.to_owned(), value.to_owned())),
            _ => return Err(Error::source(path, format!("line {number}: not a known setting"))),
        }
    }
    // As in libpq, the caller uses the first of several values.
    Ok(found)
}

/// Where passwords are looked for.
pub(super) struct Passwords<'e> {
    pub(super) given: Option<PathBuf>,
    pub(super) environment: &'e Environment,
}

impl Passwords<'_> {
    /// The password of the first line that fits.
    pub(super) fn find(&self, target: &Target, database: &str, user: &str) -> Result<Option<Zeroizing<String>>> {
        let Some(path) = self.given.clone().or_else(|| self.environment.in_home(".pgpass")) else { return Ok(None) };
        let Ok(metadata) = std::fs::metadata(&path) else { return Ok(None) };
        // libpq ignores a password file that others can read, and anything that is not a file.
        if !metadata.is_file() || metadata.permissions().mode() & 0o077 != 0 {
            return Ok(None);
        }
        let is_default_socket = target.host == DEBIAN_SOCKET_DIR && target.hostaddr.is_none();
        let host = if is_default_socket { "localhost" } else { &target.host };
        let port = target.port.to_string();
        let wanted = [host, port.as_str(), database, user];
        let text = read(&path)?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(lines.map(fields).find_map(|fields| match fields.as_slice() {
            [host, port, database, user, password] => {
                let fits = [host, port, database, user].iter().zip(wanted).all(|(field, wanted)| *field == "*" || **field == *wanted);
                fits.then(|| Zeroizing::new(password.clone()))
            }
            _ => None,
        }))
    }
}

/// The five fields of a line. A backslash escapes `:` and itself.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let is_last = fields.len() == 5;
        match (c, fields.last_mut()) {
            (':', _) if !is_last => fields.push(String::new()),
            ('\\', Some(field)) => field.extend(chars.next()),
            (c, Some(field)) => field.push(c),
            _ => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::fields;

    #[test]
    fn a_line_of_the_password_file() {
        assert_eq!(fields(r"h\:1:5432:*:u:p:w\\d"), ["h:1", "5432", "*", "u", r"p:w\d"]);
        assert_eq!(fields("h:1"), ["h", "1"]);
    }
}
