//! Decides what is left out of the trees because the user or icecore wants it so. It is counted. A snapshot without it
//! is still complete.

use std::io::Read;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::body;
use super::sides::SIDES;
use crate::engine::sqlite::MAGIC;
use crate::error::{Error, Result};

/// What is stored of trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Patterns of names that are left out, by the rules of a `.gitignore` in each given directory. The last pattern
    /// that matches decides. `!` takes a name back in, but nothing inside a directory that is left out can be taken
    /// back in. A path that was given itself is never left out.
    pub exclude: Vec<String>,
    /// Leave out everything on other file systems than that of the given path. A mount point is stored as an empty
    /// directory.
    pub one_file_system: bool,
    /// Leave out the content of directories below the given ones that have a `CACHEDIR.TAG`
    /// (<https://bford.info/cachedir/>), except the tag.
    pub exclude_caches: bool,
    /// Store extended attributes and access control lists. If lists are not stored, the stored mode gives nobody more
    /// rights than mode and list gave together.
    pub xattrs: bool,
}

impl Default for Selection {
    fn default() -> Self {
        Selection { exclude: Vec::new(), one_file_system: false, exclude_caches: false, xattrs: true }
    }
}

impl Selection {
    /// The selection as facts of the snapshot. Empty if everything is stored.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let exclude = (!self.exclude.is_empty()).then(|| ("exclude", self.exclude.join("\n")));
        let flags = [("one-file-system", self.one_file_system), ("exclude-caches", self.exclude_caches), ("no-xattrs", !self.xattrs)];
        let flags = flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name, "yes".to_owned()));
        exclude.into_iter().chain(flags).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// How many entries were left out, and why. A directory counts once, together with everything in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// By [`Selection::exclude`].
    pub excluded: u64,
    /// Because earlier restores have kept them (`NAME.pre_restore.TIME`), or have left them when they were killed.
    pub of_restores: u64,
    /// By [`Selection::one_file_system`].
    pub other_file_systems: u64,
    /// By [`Selection::exclude_caches`].
    pub caches: u64,
    /// FIFOs, sockets and devices, which have no content of their own.
    pub special: u64,
}

/// Names of files that restores keep beside those that they replace (also of side files of databases), and of files
/// that killed restores, exports and reports leave.
const OF_RESTORES: [&str; 4] = [
    "*.pre_restore.[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]T[0-9][0-9][0-9][0-9][0-9][0-9]Z*",
    ".*.icecore-restore-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]*",
    ".*.icecore-export-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]*",
    ".icecore-??????.tmp",
];

/// The name of the file from which the patterns above seem to come. Tells them from the user's patterns.
const OWN: &str = "icecore";

/// The name of a cache directory's tag (<https://bford.info/cachedir/>).
pub const CACHE_TAG: &str = "CACHEDIR.TAG";
/// The beginning of the tag.
const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Why something is left out by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Excluded,
    OfRestores,
}

/// Decides by names.
#[derive(Debug)]
pub(super) struct Patterns(Gitignore);

impl Patterns {
    /// The user's patterns after icecore's own, so that the user's decide.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an invalid pattern, or one that can match nothing.
    pub(super) fn new(patterns: &[String]) -> Result<Self> {
        if let Some(pattern) = patterns.iter().find(|pattern| matches_nothing(pattern)) {
            let why = "names begin at the directory that is backed up and never have . or .. in them";
            return Err(Error::InvalidArgument(format!(
                "the pattern {pattern:?} matches nothing: {why}; write /NAME for what lies at its top"
            )));
        }
        // Names are matched relative to the path that was given.
        let mut builder = GitignoreBuilder::new("");
        let own = OF_RESTORES.into_iter().map(|pattern| (pattern, Some(PathBuf::from(OWN))));
        for (pattern, from) in own.chain(patterns.iter().map(|pattern| (pattern.as_str(), None))) {
            builder.add_line(from, pattern).map_err(|e| Error::InvalidArgument(format!("{pattern:?} is not a valid pattern: {e}")))?;
        }
        Ok(Patterns(builder.build().map_err(|e| Error::InvalidArgument(format!("the patterns cannot be used: {e}")))?))
    }

    /// Why a path is left out. It is relative to the given one.
    pub(super) fn left_out(&self, relative: &Path, is_dir: bool) -> Option<Reason> {
        match self.0.matched(relative, is_dir) {
            Match::Ignore(glob) if glob.from() == Some(Path::new(OWN)) => Some(Reason::OfRestores),
            Match::Ignore(_) => Some(Reason::Excluded),
            Match::None | Match::Whitelist(_) => None,
        }
    }

    /// Why a side file is left out: because its database is. Restored without its database, it could be taken for the
    /// log of another one.
    pub(super) fn side_of_left_out(&self, relative: &Path, path: &Path) -> Option<Reason> {
        let base = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            let base = SIDES.iter().find_map(|side| name.strip_suffix(side)).filter(|base| !base.is_empty())?;
            Some(path.with_file_name(base))
        };
        let reason = self.left_out(&base(relative)?, false)?;
        // Only beside a real database: `notes-wal` beside a text file `notes` is an ordinary file.
        begins_with(&base(path)?, MAGIC).then_some(reason)
    }
}

/// Whether no name can match this pattern. Nobody writes such a pattern on purpose, and everything that it was meant
/// for would be backed up.
fn matches_nothing(pattern: &str) -> bool {
    let names = pattern.strip_prefix('!').unwrap_or(pattern).trim_end();
    !pattern.starts_with('#')
        && !names.is_empty()
        && (names.split('/').any(|part| part == "." || part == "..") || names.chars().all(|c| c == '/'))
}

/// Whether a directory has the tag of a cache directory.
pub(super) fn is_cache(dir: &Path) -> bool {
    begins_with(&dir.join(CACHE_TAG), TAG)
}

/// Whether a regular file begins with these bytes.
fn begins_with(path: &Path, beginning: &[u8]) -> bool {
    let mut start = Vec::new();
    let read = body::open(path).and_then(|file| match file.metadata()?.is_file() {
        true => file.take(beginning.len() as u64).read_to_end(&mut start),
        false => Ok(0),
    });
    read.is_ok() && start == beginning
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_match_nothing_are_refused() {
        for pattern in ["./d", "../e", "/", "//", "a/../b", "!./d", "d/.", ".."] {
            let error = Patterns::new(&[pattern.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("matches nothing") && error.contains(pattern), "{error}");
        }
        for pattern in ["", "  ", "# ./d", ".d", "..d", "d/.x", "*", "/d", "!d", "a//b"] {
            Patterns::new(&[pattern.to_owned()]).unwrap();
        }
    }

    #[test]
    fn patterns_follow_the_rules_of_gitignore() {
        let patterns = ["*.log", "!keep.log", "/top", "cache/", "a/**/z", "\\#x", "# a comment", "sp ace  "].map(str::to_owned);
        let patterns = Patterns::new(&patterns).unwrap();
        let out = |path: &str, is_dir| patterns.left_out(Path::new(path), is_dir);
        for (path, is_dir) in [("x.log", false), ("d/x.log", true), ("top", false), ("cache", true), ("b/cache", true), ("a/z", false)] {
            assert_eq!(out(path, is_dir), Some(Reason::Excluded), "{path}");
        }
        for (path, is_dir) in [("a/b/c/z", false), ("#x", false), ("sp ace", false)] {
            assert_eq!(out(path, is_dir), Some(Reason::Excluded), "{path}");
        }
        for (path, is_dir) in [("keep.log", false), ("d/top", false), ("cache", false), ("b/a/z", false), ("# a comment", false)] {
            assert_eq!(out(path, is_dir), None, "{path}");
        }
        assert!(Patterns::new(&["a{b".to_owned()]).is_err());
    }

    #[test]
    fn what_restores_keep_is_known_by_name() {
        let own = Patterns::new(&[]).unwrap();
        let out = |path: &str| own.left_out(Path::new(path), false);
        for name in [
            "a.db.pre_restore.20261123T031500Z",
            "d/a.db.pre_restore.20261123T031500Z.2-wal",
            ".a.icecore-restore-01ba23cd45ef6789",
            "d/.brain.icecore-export-01ba23cd45ef6789",
            ".icecore-aZ01bc.tmp",
        ] {
            assert_eq!(out(name), Some(Reason::OfRestores), "{name}");
        }
        for name in [
            "a.db.pre_restore",
            "a.pre_restore.txt",
            "pre_restore.20261123T031500Z",
            "a.icecore-restore-notes",
            ".icecore-restore-x",
            "a.icecore-export-1",
            "icecore.tmp",
        ] {
            assert_eq!(out(name), None, "{name}");
        }
        let wanted = Patterns::new(&["!*.pre_restore.*".to_owned()]).unwrap();
        assert_eq!(wanted.left_out(Path::new("a.db.pre_restore.20261123T031500Z"), false), None);
    }
}
