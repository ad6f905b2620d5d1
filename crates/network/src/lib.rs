//! Moving addresses: the network identity of a workload, its lock, and the announcement.
//!
//! A workload with an address of its own has a network namespace with one device, the inner end of a veth pair; the
//! outer end is a port of a bridge of the host's. The identity (MAC, addresses, routes, neighbours) moves; the pair is
//! made anew. The lock is that port being disabled: not a single packet, so no reset, leaves or enters. What comes meanwhile is
//! kept ([`hold`]). A tree that was adopted has no device of its own: its connections are locked by rules ([`nft`]). After a move
//! the announcement tells switches and neighbours where the addresses now are.
//!
//! All of it is synchronous rtnetlink; nothing is remembered between calls: names follow from the workload's id.

// Who says something must not die when nobody can hear it: `ferry_sys::say`.
#![cfg_attr(not(test), warn(clippy::print_stderr))]

pub mod announce;
mod attach;
mod error;
pub mod hold;
mod identity;
mod link;
pub mod nft;

pub use attach::{attach, bridge_create, bridge_exists, detach, fill, host_end_name, lock, locked, unlock};
pub use error::{Error, Result};
pub use identity::{Address, Identity, Neighbour, Route, capture, devices, mac_for, restore};
