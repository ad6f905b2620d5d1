//! The hash of everything that went over, round by round, made on both sides.
//!
//! Each frame is hashed with its place where it is sent and where it is put in its place. Frames of a round come over several streams and in any
//! order, so a round's hash is taken over the sorted list of theirs. Rounds have an order: each one's hash is chained to the one
//! before, for a page that comes again replaces what came earlier.

use crate::space::SpaceId;
use ferry_model::ids::Hash;

/// Hashes of one round's frames.
#[derive(Debug, Default)]
pub struct RoundDigest {
    frames: Vec<[u8; 32]>,
}

impl RoundDigest {
    /// Notes a frame: its space, its table as it is on the wire, and its content before it was packed; none for zeros.
    pub fn add(&mut self, space: SpaceId, table: &[u8], content: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&space.0.to_le_bytes());
        hasher.update(&(table.len() as u64).to_le_bytes());
        hasher.update(table);
        hasher.update(content);
        self.frames.push(*hasher.finalize().as_bytes());
    }

    /// Takes over what another stream noted.
    pub fn merge(&mut self, other: &mut Self) {
        self.frames.append(&mut other.frames);
    }
}

/// The chain of all rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    count: u64,
    chain: [u8; 32],
}

impl Rounds {
    /// Closes a round: what follows belongs to the next.
    pub fn close(&mut self, mut round: RoundDigest) {
        round.frames.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.chain);
        hasher.update(&self.count.to_le_bytes());
        for frame in &round.frames {
            hasher.update(frame);
        }
        self.chain = *hasher.finalize().as_bytes();
        self.count += 1;
    }

    /// How many rounds were closed.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The hash over all of them.
    #[must_use]
    pub fn finish(&self) -> Hash {
        Hash(self.chain)
    }
}
