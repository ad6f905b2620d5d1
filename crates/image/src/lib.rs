//! The one format of checkpoints: a readable directory with a signed manifest, records, streams and pages.
//!
//! Restoring an image is running code, as root. So nothing of an image is handed out before it has been verified, and
//! the types say so: [`Reader::open`] gives an [`Unverified`], from which only [`Unverified::verify`] leads on to a
//! [`Verified`], whose records are the very buffers that were hashed. Memory and streams are too large to be held, so
//! each chunk of them is hashed in the buffer from which it is then loaded. `docs/image.md` describes the format for
//! other implementations.

pub mod consumed;
pub mod error;
pub mod key;
pub mod limits;
pub mod manifest;
mod name;
mod place;
mod reader;
mod signature;
mod space;
mod stream;
mod writer;

pub use error::{Error, Result};
pub use key::{HostKey, PublicKey, Trust};
pub use manifest::{HostFacts, Manifest, Workload};
pub use reader::{FillMemory, Loaded, Reader, Unverified, Verified};
pub use space::{Piece, SpaceRanges};
pub use stream::{StreamReader, StreamWriter};
pub use writer::{Header, MemoryReport, ReadMemory, Writer};

/// Signs `manifest` as [`Writer::finish`] would, whatever it says: for tests and fuzzers that attack the reader from behind the
/// signature.
#[doc(hidden)]
#[must_use]
pub fn sign_for_tests(manifest: &[u8], key: &HostKey) -> Vec<u8> {
    signature::sign(manifest, key)
}
