//! The library's interface for Rust programs: a [`Store`], its [`Snapshot`]s, and their [`Stream`]s.
//!
//! The rest of the crate is for the command line, the tests and the benches. It is hidden from the documentation and
//! changes without notice.

mod snapshot;
mod store;
mod stream;

pub use snapshot::Snapshot;
pub use store::{BackupOptions, Key, Settings, Store};
pub use stream::Stream;

use std::time::SystemTime;

use crate::engine::sqlite::{BUSY_TIMEOUT, ContentWhen, SqliteOptions};

/// The command line's timeout for locks, and the system's clock.
impl Default for SqliteOptions {
    fn default() -> Self {
        SqliteOptions { busy_timeout: BUSY_TIMEOUT, temp_dir: None, clock: SystemTime::now, content: ContentWhen::Auto }
    }
}
