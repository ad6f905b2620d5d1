//! See `ferry_fuzz::proc::status`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferry_fuzz::proc::status(bytes));
