//! PostgreSQL databases, by their own programs and one exported snapshot.

pub mod archive;
mod connect;
pub mod conninfo;
mod tls;
mod tools;

pub use connect::Connection;
pub use tools::Tools;
