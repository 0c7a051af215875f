//! Protects the memory of this process, which has keys and passwords in it.

#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the program survive when the owner of a database truncates its wal-index.
pub(crate) fn outlive_cut_indexes() {
    // If this fails, such an owner can still end the process, and its exit status shows that.
    let _ = icecore::engine::sqlite::outlive_cut_indexes();
}

/// Forbids core files, and on Linux also that other processes of the user read this memory. Programs that are started inherit only the
/// limit on core files.
pub(crate) fn keep_memory_private() {
    let maximum = getrlimit(Resource::Core).maximum;
    // If the system does not support this, the program works without it.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
    #[cfg(target_os = "linux")]
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
