//! See `ferry_fuzz::image::signature`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferry_fuzz::image::signature(bytes));
