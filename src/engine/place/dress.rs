//! Owner, mode, access control list, extended attributes and times of what is put in place.
//!
//! A restored file is never open to more than it was, also while it is being restored. It is made for its owner alone, and gets first its owner, then
//! its `user.*` attributes, its mode, its list and its capabilities: a change of owner takes capabilities and set-user-id bits away. Until the list is set, and if it
//! cannot be, the mode is the one of [`FileMeta::mode_without_acl`]. A list that the new file has inherited from its directory is removed first: the
//! mode's group bits would open it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};

use super::Placement;
use super::target::Named;
use crate::engine::attributes;
use crate::recorded::FileMeta;

/// The bytes of a file that is to be restored which take no space.
pub(in crate::engine) fn holes_of(meta: Option<&FileMeta>) -> u64 {
    meta.map_or(0, |meta| meta.holes)
}

/// Whether owner and group are those that were recorded.
struct Owned {
    user: bool,
    group: bool,
}

impl Placement<'_> {
    /// The attributes of what lies at a path. If its access control list cannot be read, they are for its owner alone.
    pub(in crate::engine) fn attributes_of(&self, place: &Named, metadata: &Metadata) -> FileMeta {
        attributes::seen(place.held(), metadata).unwrap_or_else(|e| {
            self.monitor.warn(&format!("{}: its extended attributes could not be read, so they are not kept: {e}", place.path.display()));
            attributes::narrow(metadata)
        })
    }

    /// Applies what can be applied. What cannot be is a warning: the bytes matter more. Set-user-id and similar bits, and capabilities, are set only
    /// where `special_bits` allows them and the owner is as recorded.
    pub(in crate::engine) fn apply_meta(&self, file: &File, path: &Path, meta: &FileMeta, special_bits: bool) {
        let owned = self.give_owner(file, path, meta);
        let is_as_recorded = owned.user && owned.group;
        let mut mode = meta.mode_without_acl();
        if !owned.group {
            mode = for_another_group(mode);
        }
        if !self.remove_inherited(file, path) {
            mode &= !0o077;
        }
        // While the owner may still write: these ask for it, on files that nobody may write to.
        self.set_attributes(file, path, meta, &owned, |name| name.starts_with(b"user."));
        let bits = if is_as_recorded && special_bits { 0o7777 } else { 0o777 };
        self.attempt(path, "mode", rustix::fs::fchmod(file, Mode::from_raw_mode((mode & bits) as rustix::fs::RawMode)));
        self.set_attributes(file, path, meta, &owned, |name| name.starts_with(b"system."));
        self.set_attributes(file, path, meta, &owned, |name| name.starts_with(b"security.") && special_bits);
        self.attempt(path, "modification time", rustix::fs::futimens(file, &times(meta.mtime_ns)));
    }

    fn give_owner(&self, file: &File, path: &Path, meta: &FileMeta) -> Owned {
        let now = || file.metadata().map(|now| Owned { user: now.uid() == meta.uid, group: now.gid() == meta.gid });
        let before = now().unwrap_or(Owned { user: false, group: false });
        if before.user && before.group {
            return before;
        }
        if rustix::process::geteuid().is_root() {
            self.attempt(path, "owner", change_owner(file, Some(meta.uid), meta.gid));
            return now().unwrap_or(before);
        }
        // Whoever is in the group may give it the file.
        let group = before.group || change_owner(file, None, meta.gid).is_ok();
        let narrowed = !group && for_another_group(meta.mode_without_acl()) != meta.mode_without_acl();
        let note = if narrowed { ", and its group gets no more than others" } else { "" };
        let wanted = format!("{}:{}", meta.uid, meta.gid);
        self.monitor.warn(&format!("{}: its owner stays the present user{note}; only root can set it to {wanted}", path.display()));
        Owned { user: before.user, group }
    }

    /// Applies what can be applied to a symbolic link at `path`, which is to be at `target`.
    pub(in crate::engine) fn dress_link(&self, link: &Named, target: &Path, meta: &FileMeta) {
        let path = link.held();
        use rustix::fs::{AtFlags, CWD};
        let is_other = std::fs::symlink_metadata(path).is_ok_and(|now| (now.uid(), now.gid()) != (meta.uid, meta.gid));
        // The owner of a link only says who may remove it from a directory with the sticky bit; to others it is not worth a warning.
        if is_other && rustix::process::geteuid().is_root() {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            let outcome = match is_valid(meta.uid) && is_valid(meta.gid) {
                true => rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW),
                false => Err(rustix::io::Errno::INVAL),
            };
            self.attempt(target, "owner", outcome);
        }
        let outcome = rustix::fs::utimensat(CWD, path, &times(meta.mtime_ns), AtFlags::SYMLINK_NOFOLLOW);
        self.attempt(target, "modification time", outcome);
    }

    fn attempt(&self, path: &Path, what: &str, outcome: rustix::io::Result<()>) {
        if let Err(e) = outcome {
            self.monitor.warn(&format!("{}: its {what} could not be set: {e}", path.display()));
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use crate::recorded::{ACL_ACCESS, ACL_DEFAULT, ATTRIBUTE_LEN_MAX, ATTRIBUTES_MAX, Attribute, CAPABILITY};
    use rustix::fs::XattrFlags;
    use rustix::io::Errno;

    impl Placement<'_> {
        /// Removes the lists that a new file has from its directory; whether there is none any more.
        pub(in crate::engine) fn remove_inherited(&self, file: &File, path: &Path) -> bool {
            let removed = [ACL_ACCESS, ACL_DEFAULT].map(|name| match rustix::fs::fremovexattr(file, name) {
                // A file has no list for new files: some file systems say so as if it were not allowed.
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                Err(_) if name == ACL_DEFAULT && !file.metadata().is_ok_and(|now| now.is_dir()) => Ok(()),
                Err(e) => Err(e),
            });
            let outcome = removed.into_iter().collect::<rustix::io::Result<()>>();
            self.attempt(path, "access control list", outcome);
            outcome.is_ok()
        }

        /// Sets those of the attributes of which the name is wanted.
        pub(super) fn set_attributes(&self, file: &File, path: &Path, meta: &FileMeta, owned: &Owned, wanted: impl Fn(&[u8]) -> bool) {
            let is_wanted = |attribute: &&Attribute| Attribute::is_kept(&attribute.name) && wanted(&attribute.name);
            for Attribute { name, value } in meta.attributes.iter().take(ATTRIBUTES_MAX).filter(is_wanted) {
                let (is_list, is_capability) = (name.starts_with(b"system."), name == CAPABILITY);
                let set = match () {
                    () if is_list && !owned.group => Err(io::Error::other("its group is another one")),
                    () if is_capability && !(owned.user && owned.group) => Err(io::Error::other("its owner is another one")),
                    () if value.len() > ATTRIBUTE_LEN_MAX => Err(io::Error::other("it is too long")),
                    () => rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()).map_err(io::Error::from),
                };
                let Err(e) = set else { continue };
                let text = match is_list {
                    true => format!("its access control list could not be set, so its mode gives no more than that list did: {e}"),
                    false => format!("its extended attribute {} could not be set: {e}", String::from_utf8_lossy(name).escape_debug()),
                };
                self.monitor.warn(&format!("{}: {text}", path.display()));
            }
        }
    }
}

/// Elsewhere there are no such lists, and the attributes of Linux mean nothing.
#[cfg(not(target_os = "linux"))]
impl Placement<'_> {
    fn remove_inherited(&self, _file: &File, _path: &Path) -> bool {
        true
    }

    fn set_attributes(&self, _file: &File, path: &Path, meta: &FileMeta, _owned: &Owned, wanted: impl Fn(&[u8]) -> bool) {
        if meta.attributes.iter().any(|attribute| wanted(&attribute.name)) {
            let e = io::Error::from(io::ErrorKind::Unsupported);
            self.monitor.warn(&format!("{}: its extended attributes could not be set: {e}", path.display()));
        }
    }
}

/// What a mode becomes when the file gets another group than the recorded one. Its members were others before, and those of the old group are others
/// now: so both get what both had.
fn for_another_group(mode: u32) -> u32 {
    let shared = mode >> 3 & mode & 0o7;
    mode & !0o077 | shared << 3 | shared
}

fn change_owner(file: &File, uid: Option<u32>, gid: u32) -> rustix::io::Result<()> {
    if !uid.is_none_or(is_valid) || !is_valid(gid) {
        return Err(rustix::io::Errno::INVAL);
    }
    rustix::fs::fchown(file, uid.map(Uid::from_raw), Some(Gid::from_raw(gid)))
}

/// All bits set means "leave as it is" to the system call, and is no valid owner.
fn is_valid(id: u32) -> bool {
    id != u32::MAX
}

/// For `futimens`: this modification time; the access time stays.
fn times(mtime_ns: i64) -> Timestamps {
    let mtime = Timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) as _ };
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ }, last_modification: mtime }
}

#[cfg(test)]
mod tests {
    use super::for_another_group;

    #[test]
    fn another_group_gets_what_others_had() {
        let cases = [(0o640, 0o600), (0o644, 0o644), (0o664, 0o644), (0o604, 0o600), (0o6755, 0o6755), (0o775, 0o755)];
        for (before, after) in cases {
            assert_eq!(for_another_group(before), after, "{before:o}");
        }
    }
}
