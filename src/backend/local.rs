//! A repository in a local directory.

/// Stub until the real one is here.
#[derive(Debug)]
pub struct LocalBackend;
