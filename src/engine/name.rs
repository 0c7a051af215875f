//! Names of streams.

use crate::error::{Error, Result};

/// Refuses a name that no stream may have: an absolute one, or with an empty part, `.` or `..`. `hint` says how to give another one.
pub(super) fn check(name: &str, hint: &str) -> Result<()> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    if name.split('/').any(bad_part) || name.contains('\0') {
        return Err(Error::InvalidArgument(format!("{name:?} is no name for a stream; give another one: {hint}")));
    }
    Ok(())
}
