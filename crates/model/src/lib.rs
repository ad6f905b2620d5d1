//! The vocabulary of Ferry and every decision that is a pure function.
//!
//! No I/O, no async, no unsafe, and no other crate of the workspace: everything may use this one, it uses
//! nothing. What stands here can be model-checked and property-tested without a machine.

pub mod api;
pub mod error;
pub mod event;
pub mod facts;
pub mod handover;
pub mod ids;
pub mod plan;
pub mod planning;
pub mod resource;
pub mod strategy;
