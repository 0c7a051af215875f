//! What a Rust program needs: a [`Store`], its [`Snapshot`]s, and their [`Stream`]s.
//!
//! Everything else in this crate is hidden from the documentation. It serves the command line, the tests and the benches, and changes without notice.

mod snapshot;
mod store;
mod stream;

pub use snapshot::Snapshot;
pub use store::{BackupOptions, Key, Settings, Store};
pub use stream::Stream;

use std::time::SystemTime;

use crate::engine::sqlite::{BUSY_TIMEOUT, ContentWhen, SqliteOptions};

/// Locks are waited for as long as the command line does, and the system's clock is used.
impl Default for SqliteOptions {
    fn default() -> Self {
        SqliteOptions { busy_timeout: BUSY_TIMEOUT, temp_dir: None, clock: SystemTime::now, content: ContentWhen::Auto }
    }
}
