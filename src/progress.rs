//! Defines how the library reports progress and warnings, and how it learns that the user wants to stop.
//! The library never prints. It relies on monitors whose methods are quick and may be called by several threads at
//! once.

/// Receives progress and warnings. The command line implements it with bars, tests with counters. All methods must be
/// quick, and several threads may call them at once.
pub trait Monitor: Send + Sync {
    /// A new phase begins ("reading", "verifying"). `total_bytes` is how much it will process, if that is known.
    fn phase(&self, name: &'static str, total_bytes: Option<u64>);

    /// The current phase has processed `bytes` more.
    fn advance(&self, bytes: u64);

    /// A warning for the user. The operation goes on.
    fn warn(&self, message: &str);

    /// Whether the user has asked to stop. Long loops call this and return [`crate::Error::Cancelled`].
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
