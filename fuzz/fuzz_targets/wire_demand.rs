//! See `ferry_fuzz::wire::demand`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferry_fuzz::wire::demand(bytes));
