//! See `ferry_fuzz::proc::limits`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferry_fuzz::proc::limits(bytes));
