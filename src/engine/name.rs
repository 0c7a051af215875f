//! Checks the names of streams that users give. A stream can become a file in an export, so a name must not lead out of
//! a directory.

use crate::error::{Error, Result};

/// Refuses an absolute name, and one with an empty part, `.` or `..`. `hint` is the option that gives another name.
pub(super) fn check(name: &str, hint: &str) -> Result<()> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    if name.split('/').any(bad_part) || name.contains('\0') {
        return Err(Error::InvalidArgument(format!("{name:?} cannot be the name of a stream; give another one: {hint}")));
    }
    Ok(())
}
