//! Standard error, for processes that must outlive it: the macros of the standard library panic when a log's disk is full, or when
//! nobody reads any more.

use std::fmt::Display;
use std::io::{self, Write};

/// Says it if anybody can hear it.
pub fn say(what: impl Display) {
    // One call: lines of several processes stay whole.
    let _ = io::stderr().write_all(format!("{what}\n").as_bytes());
}
