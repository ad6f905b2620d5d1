//! The one format of checkpoints: a readable directory with a signed manifest, records, streams and pages.
//!
//! Restoring an image is running code, as root. So nothing of an image is handed out before it has been verified, and
//! the types say so: [`Reader::open`] gives an [`Unverified`], from which only [`Unverified::verify`] leads on to a
//! [`Verified`], whose records are the very buffers that were hashed. Memory and streams are too large to be held, so
//! each chunk of them is hashed in the buffer from which it is then loaded. `docs/image.md` describes the format for
//! other implementations.

pub mod consumed;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
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
