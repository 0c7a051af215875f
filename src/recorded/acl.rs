//! Access control lists as Linux stores them: <https://man7.org/linux/man-pages/man5/acl.5.html>, and `linux/posix_acl_xattr.h` for the bytes.
//!
//! With such a list, the group bits of a file's mode are the list's mask: the upper bound for all entries except those
//! of the owner and of others. So the mode alone says less than the list, and often gives the owning group more.
//! [`narrowed`] computes a mode that is safe without the list.

/// The version at the start of a list (POSIX_ACL_XATTR_VERSION).
const VERSION: u32 = 2;

/// Length of an entry: 2 bytes for its tag, 2 for its permission bits, 4 for an id.
const ENTRY_LEN: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Read, write and execute.
const ALL: u32 = 0o7;

/// The rights in a list that matter for a mode.
struct Classes {
    /// The rights of the owning group.
    group: u32,
    /// The rights of others.
    other: u32,
    /// The rights that all named users have.
    users: u32,
    /// The rights that all named groups have.
    groups: u32,
}

/// The mode for a file that had this mode and this list and now gets the mode alone. Nobody gets more rights than
/// before. The owning group and others get what the list gave them, but no more than any user or group named in it had:
/// without the list, a named user counts as one of the group or of the others. If the list cannot be parsed, only the
/// owner's bits stay.
pub fn narrowed(mode: u32, acl: &[u8]) -> u32 {
    let (group, other) = match classes(acl) {
        Some(classes) => (classes.group & classes.users, classes.other & classes.users & classes.groups),
        None => (0, 0),
    };
    mode & (!0o077 | group << 3 | other)
}

/// Parses a list. `None` if it has another version, an entry of an unknown kind or an incomplete one, or lacks an entry
/// that every list has.
fn classes(acl: &[u8]) -> Option<Classes> {
    let (version, entries) = acl.split_first_chunk()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    // A list without a mask entry has no upper bound.
    let (entries, rest) = entries.as_chunks::<ENTRY_LEN>();
    let (mut group, mut other, mut mask) = (None, None, ALL);
    let (mut users, mut groups) = (ALL, ALL);
    for [tag, tag_high, bits, bits_high, ..] in entries {
        let bits = u32::from(u16::from_le_bytes([*bits, *bits_high]));
        match u16::from_le_bytes([*tag, *tag_high]) {
            USER_OBJ => {}
            USER => users &= bits,
            GROUP_OBJ => group = Some(bits),
            GROUP => groups &= bits,
            MASK => mask = bits,
            OTHER => other = Some(bits),
            _ => return None,
        }
    }
    let (group, other) = group.zip(other).filter(|_| rest.is_empty())?;
    // The mask bounds named users, named groups and the owning group, but not others.
    Some(Classes { group: group & mask & ALL, other: other & ALL, users: users & mask, groups: groups & mask })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, bits) in entries {
            bytes.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
            bytes.extend(7u32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn nobody_gets_more_than_the_list_gave() {
        type Case = (&'static [(u16, u16)], u32, u32);
        let cases: [Case; 8] = [
            // The mask shows as the group's bits, though the group has nothing.
            (&[(USER_OBJ, 6), (USER, 6), (GROUP_OBJ, 0), (MASK, 6), (OTHER, 0)], 0o660, 0o600),
            (&[(USER_OBJ, 6), (USER, 6), (GROUP_OBJ, 4), (MASK, 6), (OTHER, 0)], 0o660, 0o640),
            (&[(USER_OBJ, 6), (USER, 6), (GROUP_OBJ, 6), (MASK, 4), (OTHER, 4)], 0o644, 0o644),
            // Somebody is shut out by name, who without the list would be one of the group or of the others.
            (&[(USER_OBJ, 6), (USER, 0), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 4)], 0o644, 0o600),
            (&[(USER_OBJ, 6), (GROUP, 0), (GROUP_OBJ, 4), (MASK, 4), (OTHER, 4)], 0o644, 0o640),
            (&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 5)], 0o755, 0o755),
            (&[(USER_OBJ, 6), (USER, 7), (GROUP_OBJ, 4), (MASK, 7), (OTHER, 0)], 0o2670, 0o2640),
            (&[(USER_OBJ, 6)], 0o666, 0o600),
        ];
        for (entries, mode, expected) in cases {
            assert_eq!(narrowed(mode, &acl(entries)), expected, "{entries:?}");
        }
        let whole = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 4)]);
        for len in 0..whole.len() {
            assert_eq!(narrowed(0o644, whole.get(..len).unwrap_or_default()), 0o600, "cut at {len}");
        }
        assert_eq!(narrowed(0o644, &acl(&[(0x40, 7), (GROUP_OBJ, 4), (OTHER, 4)])), 0o600);
    }
}
