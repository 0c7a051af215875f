//! The store keeps bytes under encryption, deltas and parity. It never sees a database.
//!
//! | module | job |
//! |---|---|
//! | [`repo`] | the only module that knows both keys and bytes: catalog, writer, reader, trees |
//! | [`backend`] | keys and bytes: a local directory |
//! | [`crypto`], [`chunker`], [`codec`] | pure: no I/O, no clock, no randomness but what is passed in |
//! | [`mod@format`] | encodes and decodes every stored byte; has all limits and magics |
//!
//! Each module uses only those below it in this table. `tests/tidy.rs` checks this.

pub mod backend;
pub mod chunker;
pub mod codec;
pub mod crypto;
pub mod format;
pub mod repo;
