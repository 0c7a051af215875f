//! Encodes and decodes every stored byte; holds all limits and magics. `store-format.md` is the same in words and tables.

pub mod snapshot;
