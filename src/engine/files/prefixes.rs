//! Chooses the prefixes of names, by which entries of several roots are told apart.
//!
//! The result depends on the set of paths and given names only, not on their order: the same source must have the same
//! names each time, or every stream would look new.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::walk::Root;
use crate::error::{Error, Result};

/// Gives each root its prefix: the name that was given with it, else the last part of its path, or as many of its last
/// parts as are needed to tell it from the others. A single directory without a given name keeps an empty prefix.
pub(super) fn name_roots(roots: &mut [Root], given: &[Option<Vec<u8>>]) -> Result<()> {
    if let ([only], [None]) = (&*roots, given)
        && only.is_dir
    {
        return Ok(());
    }
    let mut parts = vec![1; roots.len()];
    // Each turn makes all clashing prefixes longer by one part. It ends, because paths have a finite number of parts.
    loop {
        for ((root, given), &parts) in roots.iter_mut().zip(given).zip(&parts) {
            root.prefix = match given {
                Some(name) => name.clone(),
                None => last_parts(&root.path, parts)?,
            };
        }
        let clashing = clashing(roots);
        let mut grown = false;
        for ((root, given), parts) in roots.iter().zip(given).zip(&mut parts) {
            if given.is_none() && clashing.contains(root.prefix.as_slice()) && *parts < names_in(&root.path) {
                *parts += 1;
                grown = true;
            }
        }
        if clashing.is_empty() {
            return Ok(());
        }
        if !grown {
            return Err(refusal(roots, &clashing));
        }
    }
}

/// The prefixes that clash: two roots have the same one, or one lies in the other. Both of each pair are in the set.
fn clashing(roots: &[Root]) -> HashSet<Vec<u8>> {
    let mut names: Vec<&[u8]> = roots.iter().map(|root| root.prefix.as_slice()).collect();
    // Sorted by their parts, so a name comes directly after one that it lies in, or after others that lie in that, too.
    names.sort_by(|a, b| a.split(|&c| c == b'/').cmp(b.split(|&c| c == b'/')));
    let mut clashing = HashSet::new();
    let mut outer: Option<&[u8]> = None;
    for name in names {
        match outer.filter(|outer| is_in(name, outer)) {
            Some(outer) => clashing.extend([outer.to_vec(), name.to_vec()]),
            None => outer = Some(name),
        }
    }
    clashing
}

/// Whether a name equals another one or lies in it.
fn is_in(name: &[u8], outer: &[u8]) -> bool {
    name.strip_prefix(outer).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

fn refusal(roots: &[Root], clashing: &HashSet<Vec<u8>>) -> Error {
    let paths: Vec<String> =
        roots.iter().filter(|root| clashing.contains(&root.prefix)).map(|root| root.path.display().to_string()).collect();
    Error::InvalidArgument(format!("{} would have the same name in the snapshot; give other names: NAME=PATH", paths.join(" and ")))
}

fn names_in(path: &Path) -> usize {
    path.components().filter(|part| matches!(part, Component::Normal(_))).count()
}

fn last_parts(path: &Path, count: usize) -> Result<Vec<u8>> {
    let names: Vec<&[u8]> =
        path.components().filter(|part| matches!(part, Component::Normal(_))).map(|part| part.as_os_str().as_bytes()).collect();
    match names.get(names.len().saturating_sub(count)..) {
        Some(last) if !last.is_empty() => Ok(last.join(&b'/')),
        _ => Err(Error::InvalidArgument("/ has no name; give one: NAME=/".to_owned())),
    }
}
