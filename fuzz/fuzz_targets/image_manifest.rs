//! See `ferry_fuzz::image::manifest`.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferry_fuzz::image::manifest(bytes));
