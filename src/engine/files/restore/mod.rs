//! Restores trees of files: a look ahead at all places (`ahead.rs`), then entry by entry (`tree.rs`) or in batches
//! (`batch.rs`). Files with losses get other names (`salvaged.rs`).

pub(crate) mod ahead;
pub(crate) mod batch;
pub(crate) mod salvaged;
pub mod tree;
