//! The binary `ferry`.
fn main() {}
