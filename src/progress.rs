//! How the library reports what it is doing. It never prints.

/// Receives progress; implemented by the command line (bars) and by tests (counters). All methods may be called from several
/// threads at once and must be quick.
pub trait Monitor: Send + Sync {
    /// A new phase starts ("reading", "verifying"), with the bytes it will go through where that is known.
    fn phase(&self, name: &'static str, total_bytes: Option<u64>);

    /// `bytes` more of the current phase are done.
    fn advance(&self, bytes: u64);

    /// Something the user should know that stops nothing.
    fn warn(&self, message: &str);

    /// Whether the user asked to stop. Long loops ask this and return [`crate::Error::Cancelled`].
    fn cancelled(&self) -> bool;
}

/// A monitor that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn phase(&self, _name: &'static str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn warn(&self, _message: &str) {}
    fn cancelled(&self) -> bool {
        false
    }
}
