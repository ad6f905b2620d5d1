//! `manifest.sig`: 8 bytes of magic, the signer's public key, an Ed25519 signature. 104 bytes.
//!
//! What is signed is a sentence that says what it is for, then the BLAKE3 hash of the manifest: a signature made for
//! anything else can never pass as one of an image.

use crate::error::{Error, Result};
use crate::key::{HostKey, PublicKey, Trust};

/// The first bytes of the file; the last one is the version of its layout.
const MAGIC: &[u8; 8] = b"FERRYSG1";
/// Length of the file.
pub(crate) const BYTES: usize = 104;
const PURPOSE: &[u8] = b"ferry image manifest 1\0";

fn message(manifest: &[u8]) -> Vec<u8> {
    let mut message = PURPOSE.to_vec();
    message.extend_from_slice(blake3::hash(manifest).as_bytes());
    message
}

/// Signs `manifest`.
pub(crate) fn sign(manifest: &[u8], key: &HostKey) -> Vec<u8> {
    let mut file = Vec::with_capacity(BYTES);
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&key.public().0);
    file.extend_from_slice(&key.sign(&message(manifest)));
    file
}

/// Checks that `file` signs `manifest` with a key that is trusted, and says which one.
pub(crate) fn verify(manifest: &[u8], file: &[u8], trust: &Trust) -> Result<PublicKey> {
    if file.len() != BYTES {
        return Err(Error::BadSignatureFile("it does not have 104 bytes"));
    }
    let (magic, rest) = file.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Error::BadSignatureFile("it does not begin as one of a version known here"));
    }
    let (key, signature) = rest.split_at(32);
    let key = PublicKey(key.try_into().expect("32 bytes"));
    let signature = signature.try_into().expect("64 bytes");
    if !key.verifies(&message(manifest), &signature) {
        return Err(Error::ManifestAltered);
    }
    if !trust.accepts(&key) {
        return Err(Error::ForeignKey(key));
    }
    Ok(key)
}
