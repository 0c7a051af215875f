//! Sets owner, mode, access control list, extended attributes and times of restored files.
//!
//! Guarantee: at no time can more users read or write a restored file than the original. It is created for its owner
//! alone. Then it gets, in this order: owner, `user.*` attributes, mode, access control list, capabilities. The owner
//! comes first because a change of owner clears capabilities and set-user-id bits. Until the list is set, and if it
//! cannot be set, the mode is [`FileMeta::mode_without_acl`]. A list that the new file has inherited from its directory
//! is removed before the mode is set, since the mode's group bits would activate it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};

use super::Placement;
use super::target::Named;
use crate::engine::attributes;
use crate::recorded::FileMeta;

/// How many bytes of the file to be restored are holes.
pub(in crate::engine) fn holes_of(meta: Option<&FileMeta>) -> u64 {
    meta.map_or(0, |meta| meta.holes)
}

/// Whether owner and group are those that were recorded.
struct Owned {
    user: bool,
    group: bool,
}

impl Placement<'_> {
    /// The attributes of an existing file. If its access control list cannot be read, the mode is reduced to the
    /// owner's rights.
    pub(in crate::engine) fn attributes_of(&self, place: &Named, metadata: &Metadata) -> FileMeta {
        attributes::seen(place.held(), metadata).unwrap_or_else(|e| {
            self.monitor.warn(&format!("{}: its extended attributes could not be read, so they are not kept: {e}", place.path.display()));
            attributes::narrow(metadata)
        })
    }

    /// Sets the attributes. Each that cannot be set is a warning, since the file's content matters more. Set-user-id
    /// and similar bits, and capabilities, are set only if `special_bits` allows them and owner and group are as
    /// recorded.
    pub(in crate::engine) fn apply_meta(&self, file: &File, path: &Path, meta: &FileMeta, special_bits: bool) {
        let owned = self.give_owner(file, path, meta);
        let is_as_recorded = owned.user && owned.group;
        let mut mode = meta.mode_without_acl();
        if !owned.group {
            mode = for_another_group(mode);
        }
        // An inherited list that cannot be removed may name any user, so only the owner keeps access.
        if !self.remove_inherited(file, path) {
            mode &= !0o077;
        }
        // Before the mode: setting these needs write permission, which a read-only file does not give its owner.
        self.set_attributes(file, path, meta, &owned, |name| name.starts_with(b"user."));
        let bits = if is_as_recorded && special_bits { 0o7777 } else { 0o777 };
        // The cast cannot lose bits: 12 bits are left, and `RawMode` has at least 16.
        self.attempt(path, "mode", rustix::fs::fchmod(file, Mode::from_raw_mode((mode & bits) as rustix::fs::RawMode)));
        self.set_attributes(file, path, meta, &owned, |name| name.starts_with(b"system."));
        self.set_attributes(file, path, meta, &owned, |name| name.starts_with(b"security.") && special_bits);
        self.attempt(path, "modification time", rustix::fs::futimens(file, &times(meta.mtime_ns)));
    }

    /// Sets owner and group as far as this process may, and returns which of them are as recorded then.
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
        // A user may change a file's group to one of the user's own groups.
        let group = before.group || change_owner(file, None, meta.gid).is_ok();
        let narrowed = !group && for_another_group(meta.mode_without_acl()) != meta.mode_without_acl();
        let note = if narrowed { ", and its group gets no more than others" } else { "" };
        let wanted = format!("{}:{}", meta.uid, meta.gid);
        self.monitor.warn(&format!("{}: its owner stays the present user{note}; only root can set it to {wanted}", path.display()));
        Owned { user: before.user, group }
    }

    /// Sets owner and time of a symbolic link. `link` is where it is now, `target` where it will be.
    pub(in crate::engine) fn dress_link(&self, link: &Named, target: &Path, meta: &FileMeta) {
        let path = link.held();
        use rustix::fs::{AtFlags, CWD};
        let is_other = std::fs::symlink_metadata(path).is_ok_and(|now| (now.uid(), now.gid()) != (meta.uid, meta.gid));
        // Only for root, and without a warning otherwise: a link's owner matters only for removing it from a directory
        // with the sticky bit.
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
        /// Removes the access control lists that a new file has inherited from its directory. Returns whether none is
        /// left.
        pub(in crate::engine) fn remove_inherited(&self, file: &File, path: &Path) -> bool {
            let removed = [ACL_ACCESS, ACL_DEFAULT].map(|name| match rustix::fs::fremovexattr(file, name) {
                // Only a directory has a default list. For a file some file systems answer with a permission error.
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                Err(_) if name == ACL_DEFAULT && !file.metadata().is_ok_and(|now| now.is_dir()) => Ok(()),
                Err(e) => Err(e),
            });
            let outcome = removed.into_iter().collect::<rustix::io::Result<()>>();
            self.attempt(path, "access control list", outcome);
            outcome.is_ok()
        }

        /// Sets the attributes whose names are wanted.
        pub(super) fn set_attributes(&self, file: &File, path: &Path, meta: &FileMeta, owned: &Owned, wanted: impl Fn(&[u8]) -> bool) {
            let is_wanted = |attribute: &&Attribute| Attribute::is_kept(&attribute.name) && wanted(&attribute.name);
            for Attribute { name, value } in meta.attributes.iter().take(ATTRIBUTES_MAX).filter(is_wanted) {
                let (is_list, is_capability) = (name.starts_with(b"system."), name == CAPABILITY);
                // A list's group entry and a capability would be for another group or owner than recorded.
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

/// Other systems have no such lists, and Linux's attributes mean nothing to them.
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

/// The mode for a file whose group is not the recorded one. Members of the new group counted as others before, and
/// members of the old group count as others now. So group and others both get only the rights that both had.
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

/// Whether this can be an owner. For the system call, all bits set means "do not change".
fn is_valid(id: u32) -> bool {
    id != u32::MAX
}

/// The times for `futimens`: this modification time, and no change of the access time.
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
