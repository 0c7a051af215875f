//! The memory of this process has keys and passwords in it, and stays there.

#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Goes on where an owner of a database has cut its wal-index short.
pub(crate) fn outlive_cut_indexes() {
    // Without it such an owner can end this process, which is told by its end.
    let _ = icecore::engine::sqlite::outlive_cut_indexes();
}

/// If the process dies, no file with its memory is left, and other processes of the user cannot read it. Programs that are started can be debugged, but leave no such files
/// either, unless they ask for it.
pub(crate) fn keep_memory_private() {
    let maximum = getrlimit(Resource::Core).maximum;
    // What a system does not know is no reason not to work.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
    #[cfg(target_os = "linux")]
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
