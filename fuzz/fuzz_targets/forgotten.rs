#![no_main]

#[path = "../../tests/library/fuzz/decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decoders::run("forgotten", bytes));
