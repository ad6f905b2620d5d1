//! Remote system calls: what only a task itself can say or do, done from outside.

pub mod call;

pub use call::{Argument, RemoteCall};
