//! See `ferry_fuzz::wire::round`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferry_fuzz::wire::round(bytes));
