//! Confines the throw-away server of a drill, so that code in the dump reaches little.
//!
//! A restore runs code of the dump as the server's superuser: constraints, defaults, functions of indexes. Such code
//! can run programs (`COPY ... TO PROGRAM`), read and write files, and load libraries. So the server's process is
//! confined with Landlock (landlock(7)) before the program starts. It may execute nothing but that program, read only
//! files that systems install, and write only in its own directory. It may not use TCP or send signals to other
//! processes.
//!
//! An older kernel enforces fewer of these rules. A server on another system, or one that a script starts, is not
//! confined; the caller tells the user.

use std::path::Path;
use std::process::{Child, Command};

/// Starts the program of a server. Returns whether it is confined.
///
/// # Errors
/// If it cannot be started.
#[cfg(target_os = "linux")]
pub(super) fn spawn(command: &mut Command, program: &Path, own: &Path) -> std::io::Result<(Child, bool)> {
    // In a thread of its own: Landlock confines the calling thread for good, and its child processes inherit that.
    let spawned = std::thread::scope(|scope| {
        let spawning = scope.spawn(|| {
            rustix::thread::set_no_new_privs(true)?;
            let is_confined = linux::confine(program, own).map_err(std::io::Error::other)?;
            command.spawn().map(|child| (child, is_confined))
        });
        spawning.join()
    });
    spawned.unwrap_or_else(|_| Err(std::io::Error::other("the thread that starts it has ended")))
}

/// Other systems have no Landlock.
#[cfg(not(target_os = "linux"))]
pub(super) fn spawn(command: &mut Command, _program: &Path, _own: &Path) -> std::io::Result<(Child, bool)> {
    Ok((command.spawn()?, false))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetError, RulesetStatus, Scope,
    };

    /// The newest version of Landlock whose rules are asked for. Older kernels enforce those that they know.
    const RULES: ABI = ABI::V6;
    /// Installed software and the kernel's files. No user's data lies there.
    const INSTALLED: [&str; 8] = ["/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/var/cache/postgresql", "/proc", "/sys"];
    /// The files in /etc that the C library and the server read. Other files there may hold secrets.
    const SETTINGS: [&str; 11] = [
        "/etc/alternatives",
        "/etc/group",
        "/etc/hosts",
        "/etc/ld.so.cache",
        "/etc/localtime",
        "/etc/locale.alias",
        "/etc/nsswitch.conf",
        "/etc/passwd",
        "/etc/ssl/openssl.cnf",
        "/etc/timezone",
        "/etc/zoneinfo",
    ];
    /// Devices that hold no data. /dev/shm is not here: other servers of the same user have their shared memory in it.
    const WRITABLE: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
    /// How much of a program's start is read to find the path of its loader.
    const HEADERS_LEN: u64 = 16 << 10;

    /// Confines the calling thread and everything that it starts. `false` if the kernel cannot do that, or if the
    /// program is a script.
    pub(super) fn confine(program: &Path, own: &Path) -> Result<bool, RulesetError> {
        let program = program.canonicalize().unwrap_or_else(|_| program.to_path_buf());
        let headers = headers(&program).unwrap_or_default();
        // A script may run any program, which the rules would forbid.
        if headers.starts_with(b"#!") {
            return Ok(false);
        }
        // Everything that these rules handle is forbidden unless it is allowed below. Nothing is allowed for TCP and
        // signals.
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(RULES))?
            .handle_access(AccessNet::from_all(RULES))?
            .scope(Scope::from_all(RULES))?
            .create()?;
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let all = AccessFs::from_all(RULES) & !AccessFs::Execute;
        let mut allowed = Vec::new();
        let mut allow = |path: &Path, access| {
            // A path that does not exist needs no rule.
            if let Ok(opened) = PathFd::new(path) {
                allowed.push(PathBeneath::new(opened, access));
            }
        };
        INSTALLED.iter().chain(&SETTINGS).for_each(|path| allow(Path::new(path), read));
        // If PostgreSQL is installed elsewhere, as PREFIX/bin/postgres: its programs, libraries and shared files. Not
        // if PREFIX is the root directory.
        program
            .parent()
            .and_then(Path::parent)
            .filter(|prefix| prefix.parent().is_some())
            .into_iter()
            .for_each(|prefix| allow(prefix, read));
        WRITABLE.iter().for_each(|path| allow(Path::new(path), all));
        allow(own, all);
        for executed in [Some(program.clone()), loader(&headers)].into_iter().flatten() {
            allow(&executed, AccessFs::Execute | AccessFs::ReadFile);
        }
        let status = rules.add_rules(allowed.into_iter().map(Ok::<_, RulesetError>))?.restrict_self()?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    }

    /// The dynamic loader. The kernel starts it for a program with shared libraries (`PT_INTERP` in elf(5)), so it must
    /// be executable too. Its path is in the program's headers.
    fn loader(headers: &[u8]) -> Option<PathBuf> {
        let path = headers.split(|byte| *byte == 0).find(|text| text.starts_with(b"/") && memchr::memmem::find(text, b"/ld").is_some())?;
        Path::new(OsStr::from_bytes(path)).canonicalize().ok()
    }

    fn headers(program: &Path) -> std::io::Result<Vec<u8>> {
        let mut headers = Vec::new();
        File::open(program)?.take(HEADERS_LEN).read_to_end(&mut headers)?;
        Ok(headers)
    }
}
