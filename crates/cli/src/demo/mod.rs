//! `ferry demo` and the two programs that it needs: a key-value server with some hundreds of MiB in memory, and clients that
//! know what every reply must be.

pub mod kv;
