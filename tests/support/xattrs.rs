//! Extended attributes and access control lists in tests. Where a file system has none, what needs them says so and is left out.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};

pub const ACCESS: &str = "system.posix_acl_access";
pub const DEFAULT: &str = "system.posix_acl_default";
pub const CAPABILITY: &str = "security.capability";

/// A list: bits of the owner, of the user 12345, of the owning group, of the mask and of others.
pub fn acl(owner: u16, user: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    let entries = [(0x01, owner, u32::MAX), (0x02, user, 12345), (0x04, group, u32::MAX), (0x10, mask, u32::MAX), (0x20, other, u32::MAX)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in entries {
        let (tag, bits): (u16, u16) = (tag, bits);
        bytes.extend([&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    bytes
}

/// `cap_net_raw+ep`.
pub fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|e| panic!("{name} of {}: {e}", path.display()));
}

/// Whether attributes of this name can be set in this directory.
pub fn are_there(dir: &Path, name: &str, value: &[u8]) -> bool {
    let probe = dir.join(".probe");
    std::fs::write(&probe, "").unwrap();
    let set = lsetxattr(&probe, name, value, XattrFlags::empty());
    std::fs::remove_file(&probe).unwrap();
    if let Err(e) = set {
        eprintln!("{name} cannot be set in {}: {e}; what needs it is left out", dir.display());
    }
    set.is_ok()
}

/// All that a path has, itself, but for what the system sets on its own.
pub fn of(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 65_536];
    let len = llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(|name| String::from_utf8(name.to_vec()).unwrap());
    let value = |name: &str| {
        let mut value = vec![0; 65_536];
        let len = lgetxattr(path, name, &mut value[..]).unwrap();
        value[..len].to_vec()
    };
    names.filter(|name| name != "security.selinux").map(|name| (name.clone(), value(&name))).collect()
}
