//! Doors for fuzzers and for tests that attack the reader from behind the signature.

use crate::error::Result;
use crate::key::{HostKey, PublicKey, Trust};
use crate::limits;
use crate::manifest::Manifest;
use crate::signature;
use crate::space::{Chunk, Layout, Piece, Space, SpaceRanges};
use ferry_model::ids::Hash;

/// Signs `manifest` as [`crate::Writer::finish`] would, whatever it says.
#[must_use]
pub fn sign(manifest: &[u8], key: &HostKey) -> Vec<u8> {
    signature::sign(manifest, key)
}

/// Checks `signature` as [`crate::Unverified::verify`] does.
pub fn check_signature(manifest: &[u8], file: &[u8], trust: &Trust) -> Result<PublicKey> {
    signature::verify(manifest, file, trust)
}

/// Reads a manifest as [`crate::Unverified::verify`] does after the signature, and lays out what it accepts.
///
/// # Panics
/// If the chunks of a space that was accepted do not cover its ranges.
pub fn check_manifest(bytes: &[u8]) -> Result<Manifest> {
    let manifest = Manifest::decode(bytes)?;
    for space in &manifest.spaces {
        let layout = Layout::new(space);
        let mut pieces = Vec::new();
        let mut sum = 0;
        for number in 0..space.chunk_count() {
            let len = layout.pieces(number, &mut pieces);
            assert!(len > 0 && len <= limits::CHUNK_BYTES_MAX as usize);
            assert_eq!(len as u64, pieces.iter().map(|piece| piece.bytes).sum::<u64>());
            sum += len as u64;
        }
        assert_eq!(sum, space.bytes());
    }
    Ok(manifest)
}

/// Two spaces with some ranges and chunks, within files of 1 MiB and 4 KiB.
#[must_use]
pub fn sample_spaces() -> Vec<Space> {
    let piece = |address, bytes| Piece { address, bytes };
    let ranges = [vec![piece(0x1000, 0x3000), piece(0x8000, 0x1000)], vec![piece(0, 0x1000)]];
    let mut spaces = Vec::new();
    for (ranges, number) in ranges.into_iter().zip(0..) {
        let mut space =
            Space::new(&SpaceRanges { space: number, ranges }, limits::CHUNK_BYTES_MIN).expect("good ranges");
        for chunk in 0..space.chunk_count() {
            let zero = chunk == 2;
            let row =
                Chunk { offset: chunk as u64 * 4096, file: number, zero, hash: Hash::of(&[chunk as u8]) };
            space.set_chunk(chunk, &row);
        }
        spaces.push(space);
    }
    spaces
}
