//! What the clients saw, as numbers.

use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// Sums over all connections since the last mark, or since the beginning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Connections that were opened, and none of which may be reopened.
    pub connections: u64,
    /// Replies that arrived and were right.
    pub replies: u64,
    /// Requests that were never answered.
    pub replies_lost: u64,
    /// Replies with a content that cannot be.
    pub replies_wrong: u64,
    /// Replies that came twice, or requests that were executed twice.
    pub replies_doubled: u64,
    /// Connections that ended or failed.
    pub connections_broken: u64,
    /// Longest time from the moment at which a request was due until its reply, in milliseconds.
    pub outage_ms: f64,
    /// Waits of 5 ms and more, as far as there is room.
    #[serde(default)]
    pub waits: Vec<Wait>,
    /// The first few faults in words.
    #[serde(default)]
    pub faults: Vec<String>,
}

/// A wait by the wall clock, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// When the request was due.
    pub from_us: u64,
    /// When the reply was there.
    pub until_us: u64,
}

/// Shorter waits are not kept one by one, milliseconds.
const WAIT_MS: f64 = 5.0;

/// Most waits kept.
const WAITS_MAX: usize = 1000;

/// Most faults kept in words.
const FAULTS_MAX: usize = 8;

impl Report {
    /// Adds what another connection saw.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.replies += other.replies;
        self.replies_lost += other.replies_lost;
        self.replies_wrong += other.replies_wrong;
        self.replies_doubled += other.replies_doubled;
        self.connections_broken += other.connections_broken;
        self.outage_ms = self.outage_ms.max(other.outage_ms);
        let room = WAITS_MAX.saturating_sub(self.waits.len());
        self.waits.extend(other.waits.iter().take(room));
        let room = FAULTS_MAX.saturating_sub(self.faults.len());
        self.faults.extend(other.faults.iter().take(room).cloned());
    }

    /// A reply that came so many milliseconds after its request was due.
    pub fn waited(&mut self, ms: f64) {
        self.outage_ms = self.outage_ms.max(ms);
        if ms >= WAIT_MS && self.waits.len() < WAITS_MAX {
            let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let until_us = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
            self.waits.push(Wait { from_us: until_us.saturating_sub((ms * 1e3) as u64), until_us });
        }
    }

    /// Keeps a fault in words, if there is room.
    pub fn fault(&mut self, text: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(text);
        }
    }
}
