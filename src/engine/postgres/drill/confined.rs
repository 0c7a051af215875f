//! What the code in a dump can reach from the server that it is drilled on.
//!
//! A restore runs code of the dump with the rights of the server's superuser: constraints, defaults, functions of indexes. Such code can have programs run
//! (`COPY ... TO PROGRAM`), read and write files, load libraries. So the server is confined before its program begins, with Landlock (landlock(7)): it may execute
//! nothing but that program, read only what systems install, and write only in its own directory. It may use no TCP, and send no signals to others. An older
//! kernel enforces fewer of these rules. A server on another system, or one that a script starts, is not confined; the drill says so.

use std::path::Path;
use std::process::{Child, Command};

/// Starts the program of a server, and says whether it is confined.
///
/// # Errors
/// When it cannot be started.
#[cfg(target_os = "linux")]
pub(super) fn spawn(command: &mut Command, program: &Path, own: &Path) -> std::io::Result<(Child, bool)> {
    // A thread of its own: it gives up rights for good, and its children inherit that.
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

/// Elsewhere there is no such thing.
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

    /// The newest rules that are asked for. Older kernels know a part of them.
    const RULES: ABI = ABI::V6;
    /// What systems install, and what the kernel tells. Nobody's data lies there.
    const INSTALLED: [&str; 8] = ["/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/var/cache/postgresql", "/proc", "/sys"];
    /// The settings that a program of C needs. Others in that directory are for some users only.
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
    /// Devices that hold nothing. Shared memory is not here: other servers of the same user have theirs in that directory.
    const WRITABLE: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
    /// Where the path of the loader stands in a program, from its beginning.
    const HEADERS_LEN: u64 = 16 << 10;

    /// Confines the calling thread and what it starts. Whether the kernel can do that.
    pub(super) fn confine(program: &Path, own: &Path) -> Result<bool, RulesetError> {
        let program = program.canonicalize().unwrap_or_else(|_| program.to_path_buf());
        let headers = headers(&program).unwrap_or_default();
        // Nobody knows what a script of the user's will run.
        if headers.starts_with(b"#!") {
            return Ok(false);
        }
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
            // What is not there needs no rule.
            if let Ok(opened) = PathFd::new(path) {
                allowed.push(PathBeneath::new(opened, access));
            }
        };
        INSTALLED.iter().chain(&SETTINGS).for_each(|path| allow(Path::new(path), read));
        // The programs, their libraries and what is shared, where they are installed elsewhere: `PREFIX/bin/postgres`.
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

    /// The loader, which the kernel starts for a program with shared libraries (`PT_INTERP` in elf(5)). Its path stands in the program's headers.
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
