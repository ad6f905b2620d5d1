//! Images of processes: which records there are, how memory gets in and out, what a host must have, and what a checkpoint
//! and a restore do in which order.
//!
//! `ferry-image` knows the format and nothing of processes; this knows both.

pub mod checkpoint;
pub mod facts;
pub mod memory;
pub mod records;
pub mod restore;
pub mod streams;
pub mod workload;
