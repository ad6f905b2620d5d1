//! Mutations of good inputs, from a seed: the same ones in every run, so that a failure can be repeated.

/// A small generator of numbers (xorshift64*).
pub struct Numbers(u64);

impl Numbers {
    /// Begins at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % limit as u64) as usize
    }
}

/// Bytes that begin something in CBOR, mark an edge of integers, or separate fields in /proc.
const INTERESTING: &[u8] = &[
    0x00, 0x01, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1f, 0x3b, 0x58, 0x5b, 0x5f, 0x7b, 0x7f, 0x80, 0x9b, 0x9f,
    0xa0, 0xbb, 0xbf, 0xf6, 0xff, b' ', b'\n', b'-', b':', b'0', b'9', b'f',
];

/// `input`, changed in one to six places.
#[must_use]
pub fn mutate(input: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len() + 1);
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = INTERESTING[numbers.below(INTERESTING.len())],
            2 => bytes.insert(at, INTERESTING[numbers.below(INTERESTING.len())]),
            3 => drop(bytes.drain(at.min(end)..end)),
            4 => {
                let part = bytes[at.min(end)..end].to_vec();
                let to = numbers.below(bytes.len() + 1);
                bytes.splice(to..to, part);
            }
            5 => bytes.truncate(at),
            // A length of eight bytes in front: what a liar would write.
            6 => drop(bytes.splice(at..at, [0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0])),
            _ => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = numbers.below(256) as u8),
        }
    }
    bytes
}
