//! Places that users name: directories, and what looks like one but is the address of a server or a bucket.

use std::ffi::OsStr;
use std::path::Path;

use super::exit::Failure;

/// Schemes of addresses that other backup programs take.
const SCHEMES: [&str; 18] = [
    "azure", "b2", "file", "ftp", "gdrive", "gs", "http", "https", "nfs", "rclone", "rest", "s3", "sftp", "smb", "ssh", "swift", "webdav",
    "webdavs",
];

/// Refuses the address of a server or a bucket in the place of a repository: `s3:bucket/x`, `s3://bucket/x`, `user@host:/x`. It would become a
/// directory of that name. A directory that is there is taken, and so is any name with a `/` before the first colon.
pub(crate) fn refuse_as_repository(text: &OsStr) -> Result<(), Failure> {
    match scheme_of(text) {
        Some(_) => Err(Failure::usage(format!(
            "{0} looks like the address of a server or a bucket. Repositories are kept in directories; object storage is not supported yet. For a \
             directory of that name write ./{0}",
            text.to_string_lossy()
        ))),
        None => Ok(()),
    }
}

/// Refuses an address where files are written to or read from. Here names with a colon are usual, so only known schemes and `://` make an address.
pub(crate) fn refuse_as_directory(option: &str, path: &Path) -> Result<(), Failure> {
    let text = path.to_string_lossy();
    let is_address = |scheme: String| SCHEMES.contains(&scheme.as_str()) || scheme.contains('@') || text.contains("://");
    match scheme_of(path.as_os_str()).is_some_and(is_address) {
        true => Err(Failure::usage(format!(
            "{option}: {text} looks like the address of a server or a bucket, and a directory is needed. For a directory of that name write ./{text}"
        ))),
        false => Ok(()),
    }
}

/// What stands before the first colon, in lower case, if the text may be an address and no such path exists. One letter is a Windows drive.
fn scheme_of(text: &OsStr) -> Option<String> {
    let shown = text.to_string_lossy();
    let (scheme, _) = shown.split_once(':')?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "+.-_@".contains(c);
    let is_scheme = scheme.len() > 1 && scheme.chars().all(fits) && std::fs::symlink_metadata(text).is_err();
    is_scheme.then(|| scheme.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for address in
            ["s3://bucket/x", "s3:bucket/x", "file:///x", "gs+x://y", "root@host:/x", "sftp:host:/x", "rest:http://host", "nas:backup"]
        {
            assert!(refuse_as_repository(OsStr::new(address)).is_err(), "{address}");
        }
        for path in ["./s3://bucket", "/a://b", "a/b", "://x", "c:/x", "a:b", "dir/s3:x", "plain"] {
            assert_eq!(refuse_as_repository(OsStr::new(path)), Ok(()), "{path}");
        }
        for address in ["s3:bucket/x", "SFTP:host:/x", "root@host:/x", "odd://x"] {
            assert!(refuse_as_directory("--to", Path::new(address)).is_err(), "{address}");
        }
        for path in ["./s3:x", "at-12:30", "2026-11-30T12:00", "nas:x", "/s3:x"] {
            assert_eq!(refuse_as_directory("--to", Path::new(path)), Ok(()), "{path}");
        }
    }
}
