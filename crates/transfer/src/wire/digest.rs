//! The hash of a whole memory, made from the hashes of its frames.
//!
//! Frames may come over several streams and in any order, so the hash is taken over the list of (space, address, length, hash of
//! the content), sorted. Source and target make it independently, each from the buffer that it sent or loaded; the two must
//! agree before the target may say PREPARED.

use crate::space::SpaceId;
use ferry_model::ids::Hash;
use std::collections::BTreeMap;

/// Hashes of frames, by place. A frame that is sent again replaces its predecessor.
#[derive(Debug, Default)]
pub struct Digest {
    frames: BTreeMap<(SpaceId, u64), (u32, [u8; 32])>,
}

impl Digest {
    /// Notes the content of a frame.
    pub fn add(&mut self, space: SpaceId, address: u64, content: &[u8]) {
        self.frames.insert((space, address), (content.len() as u32, *blake3::hash(content).as_bytes()));
    }

    /// Takes over what another stream noted.
    pub fn merge(&mut self, other: Self) {
        self.frames.extend(other.frames);
    }

    /// The hash of everything noted.
    #[must_use]
    pub fn finish(&self) -> Hash {
        let mut hasher = blake3::Hasher::new();
        for ((space, address), (len, hash)) in &self.frames {
            hasher.update(&space.0.to_le_bytes());
            hasher.update(&address.to_le_bytes());
            hasher.update(&len.to_le_bytes());
            hasher.update(hash);
        }
        Hash(*hasher.finalize().as_bytes())
    }

    /// Bytes of memory noted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.frames.values().map(|(len, _)| u64::from(*len)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_streams_do_not_matter_but_content_and_place_do() {
        let (mut one, mut two, mut rest) = (Digest::default(), Digest::default(), Digest::default());
        one.add(SpaceId(1), 0x1000, b"a");
        one.add(SpaceId(2), 0x1000, b"b");
        rest.add(SpaceId(1), 0x1000, b"a");
        two.add(SpaceId(2), 0x1000, b"b");
        two.merge(rest);
        assert_eq!(one.finish(), two.finish());
        two.add(SpaceId(2), 0x1000, b"c");
        assert_ne!(one.finish(), two.finish());
        let mut moved = Digest::default();
        moved.add(SpaceId(1), 0x1000, b"a");
        moved.add(SpaceId(2), 0x2000, b"b");
        assert_ne!(one.finish(), moved.finish());
    }
}
