//! What the targets share: the decoders, as the tests have them.

#[path = "../../tests/library/fuzz/decoders.rs"]
mod decoders;

pub use decoders::run;
