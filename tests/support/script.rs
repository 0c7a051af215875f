//! Programs that a test writes itself.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Writes a script of bash that can be run.
///
/// Another process does it: a file that this one has open for writing is open, too, in every child that another test's thread has just
/// forked, and until that child runs its own program the kernel refuses to run the script ("Text file busy").
pub fn write_script(path: &Path, body: &str) {
    let mut install = Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    write!(install.stdin.take().unwrap(), "#!/bin/bash\n{body}\n").unwrap();
    assert!(install.wait().unwrap().success(), "install {}", path.display());
}
