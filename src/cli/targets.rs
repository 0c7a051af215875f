//! Parses arguments of the form `NAME=FILE` and `NAME=DEST`.
//! Paths need not be UTF-8. A path with a `=` can always be given, with `./` before it. A stream's name may hold a `=`:
//! it relies on the caller to say which names exist.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use icecore::Error;

use super::exit::Failure;

/// A database to back up: the stream's name and the file. The first `=` divides them, but only if no `/` stands before it; without one
/// the name is that of the file.
pub(crate) fn database(argument: &OsStr) -> Result<(String, PathBuf), Failure> {
    let bytes = argument.as_bytes();
    let split = bytes.iter().position(|&c| c == b'=').map(|at| (bytes.get(..at), bytes.get(at + 1..)));
    if let Some((Some(name), Some(file))) = split
        && !name.contains(&b'/')
    {
        let shown = argument.to_string_lossy();
        let name = std::str::from_utf8(name).map_err(|_| Failure::usage(format!("{shown}: the name before `=` is not UTF-8")))?;
        if name.is_empty() || file.is_empty() {
            return Err(Failure::usage(format!("{shown}: a name and a file are needed: NAME=FILE; or ./{shown} if that is the file")));
        }
        return Ok((name.to_owned(), PathBuf::from(OsStr::from_bytes(file))));
    }
    let path = Path::new(argument);
    refuse_slash(path)?;
    let name = path.file_name().and_then(OsStr::to_str);
    match name {
        Some(name) => Ok((name.to_owned(), path.to_path_buf())),
        None => Err(Failure::usage(format!("{}: its name cannot name a stream; give one: NAME=FILE", path.display()))),
    }
}

/// A path to back up, with its name if one is given as for [`database`].
pub(crate) fn tree(argument: &OsStr) -> Result<(Option<String>, PathBuf), Failure> {
    let bytes = argument.as_bytes();
    let is_named = bytes.iter().find(|c| matches!(c, b'=' | b'/')) == Some(&b'=');
    match is_named {
        true => database(argument).map(|(name, path)| (Some(name), path)),
        false => refuse_slash(Path::new(argument)).map(|()| (None, PathBuf::from(argument))),
    }
}

/// Says why `a/b=c.db` is taken as a path, if there is no such file: the user may have meant a name.
fn refuse_slash(path: &Path) -> Result<(), Failure> {
    let bytes = path.as_os_str().as_bytes();
    let has_name = bytes
        .iter()
        .position(|&c| c == b'=')
        .is_some_and(|at| bytes.get(..at).is_some_and(|name| !name.starts_with(b"/") && !name.starts_with(b".")));
    match has_name && std::fs::symlink_metadata(path).is_err() {
        true => Err(Failure::usage(format!("{}: no such file, and a name before `=` cannot have a `/` in it", path.display()))),
        false => Ok(()),
    }
}

/// A stream to restore, and where to. A stream's name may hold a `=` itself: the first `=` counts whose left side is the name of a
/// stream; the first of all if there is none such.
pub(crate) fn target(argument: &OsString, is_stream: impl Fn(&[u8]) -> bool) -> icecore::Result<(Vec<u8>, PathBuf)> {
    let bytes = argument.as_bytes();
    let splits: Vec<(&[u8], &[u8])> = bytes
        .iter()
        .enumerate()
        .filter(|(_, c)| **c == b'=')
        .filter_map(|(at, _)| Some((bytes.get(..at)?, bytes.get(at + 1..)?)))
        .collect();
    let chosen = splits.iter().find(|(name, _)| is_stream(name)).or(splits.first());
    match chosen {
        Some((name, dest)) if !name.is_empty() && !dest.is_empty() => Ok((name.to_vec(), PathBuf::from(OsStr::from_bytes(dest)))),
        _ => Err(Error::InvalidArgument(format!(
            "{}: say which file it goes to: NAME=DEST, or --to DIR for all",
            argument.to_string_lossy()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases() {
        let named = |text: &str| database(OsStr::new(text)).map(|(name, path)| format!("{name} {}", path.display())).ok();
        assert_eq!(named("memory.db").as_deref(), Some("memory.db memory.db"));
        assert_eq!(named("/a/memory.db").as_deref(), Some("memory.db /a/memory.db"));
        assert_eq!(named("x=/a/b=c.db").as_deref(), Some("x /a/b=c.db"));
        assert_eq!(named("a=b.db").as_deref(), Some("a b.db"));
        assert_eq!(named("./a=b.db").as_deref(), Some("a=b.db ./a=b.db"));
        assert!(database(OsStr::new("a/b=c.db")).is_err_and(|e| e.message.contains("cannot have a `/`")));
        for wrong in ["=x.db", "x=", "=", "..", "/"] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
        assert!(database(OsStr::from_bytes(b"\xff.db")).is_err_and(|e| e.message.contains("NAME=FILE")));
        assert_eq!(database(OsStr::from_bytes(b"x=\xff.db")).map(|(name, _)| name), Ok("x".to_owned()));
    }

    #[test]
    fn trees() {
        let named = |text: &str| tree(OsStr::new(text)).map(|(name, path)| (name, path.to_string_lossy().into_owned())).ok();
        assert_eq!(named("/a/data"), Some((None, "/a/data".to_owned())));
        assert_eq!(named("x=/a/data"), Some((Some("x".to_owned()), "/a/data".to_owned())));
        assert_eq!(named("./a=b"), Some((None, "./a=b".to_owned())));
        assert_eq!(named("=b"), None);
        let odd = OsStr::from_bytes(b"\xff");
        assert_eq!(tree(odd), Ok((None, PathBuf::from(odd))));
    }

    #[test]
    fn targets() {
        let streams: [&[u8]; 2] = [b"a", b"a=b"];
        let target = |text: &str, streams: &[&[u8]]| target(&text.into(), |name| streams.contains(&name)).ok();
        assert_eq!(target("a=x", &streams), Some((b"a".to_vec(), "x".into())));
        assert_eq!(target("a=b=x", &streams[1..]), Some((b"a=b".to_vec(), "x".into())));
        assert_eq!(target("c=d=x", &streams), Some((b"c".to_vec(), "d=x".into())));
        for wrong in ["a", "a=", "=x"] {
            assert_eq!(target(wrong, &streams), None, "{wrong}");
        }
    }
}
