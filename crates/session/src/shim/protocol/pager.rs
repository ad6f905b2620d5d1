//! What a shim says about its pager.

use ferry_model::ids::Hash;
use minicbor::{Decode, Encode};

/// How far a pager is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PagerStatus {
    /// Bytes that are still missing. What several processes wait for counts once for each.
    #[n(0)]
    pub missing_bytes: u64,
    /// Bytes that came and are in their places.
    #[n(1)]
    pub placed_bytes: u64,
    /// Times that somebody touched a page that was not there.
    #[n(2)]
    pub faults: u64,
    /// From the moment at which the pager reads of a fault until whoever waits goes on, microseconds: half are faster.
    #[n(3)]
    pub fault_us_median: u64,
    /// As above: 99 of 100 are faster.
    #[n(4)]
    pub fault_us_p99: u64,
    /// There is a way to the source.
    #[n(5)]
    pub connected: bool,
    /// Everything is in, and the source agrees: the hash over what was delivered ([`ferry_transfer::wire::demand`]).
    #[n(6)]
    pub complete: Option<Hash>,
    /// Times that the pager died and another one went on.
    #[n(7)]
    pub restarts: u32,
    /// Nothing goes on: why, in words.
    #[n(8)]
    pub failed: Option<String>,
}

/// Most ways to the source.
pub const STREAMS_MAX: u32 = 16;
