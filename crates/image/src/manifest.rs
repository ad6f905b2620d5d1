//! The manifest: what an image is, what it needs of a host, and the length and hash of everything in it.
//!
//! CBOR maps with numbered fields: a reader skips numbers that it does not know, and a change that it must not skip
//! raises [`limits::FORMAT_VERSION`]. Tables with millions of rows are packed into byte strings of fixed layout,
//! because a CBOR item for each row would take ten times as long to read.

use crate::error::{Error, Result};
use crate::limits;
use crate::name;
use crate::space::Space;
use ferry_model::ids::{Epoch, Hash, WorkloadId};
use minicbor::{Decode, Encode};
use serde::Serialize;

/// Whose state the image holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Workload {
    /// Its identity.
    #[n(0)]
    pub id: WorkloadId,
    /// Its name, for people.
    #[n(1)]
    pub name: String,
    /// Its epoch when the image was made.
    #[n(2)]
    pub epoch: Epoch,
    /// `process`, `container`, `vm` or `code`.
    #[n(3)]
    pub kind: String,
}

/// What a host must have, so that the image can go on there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct HostFacts {
    /// Processor features that the workload may have seen, as `/proc/cpuinfo` names them.
    #[n(0)]
    pub cpu_features: Vec<String>,
    /// Size of the extended register state, bytes.
    #[n(1)]
    pub xsave_bytes: u32,
    /// Hash of the vDSO's code.
    #[n(2)]
    pub vdso: Option<Hash>,
    /// Page size, bytes.
    #[n(3)]
    pub page_bytes: u32,
    /// Release of the kernel, for people.
    #[n(4)]
    pub kernel: String,
    /// `x86_64` and so on.
    #[n(5)]
    pub machine: String,
}

/// A file of records.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Record {
    /// Its path beneath `records/`.
    #[n(0)]
    pub name: String,
    /// Its length in bytes.
    #[n(1)]
    pub bytes: u64,
    /// The hash of its content.
    #[n(2)]
    pub hash: Hash,
}

/// A stream of bytes that is too large to be a record: the content of files.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Stream {
    /// Its path beneath `streams/`.
    #[n(0)]
    pub name: String,
    /// Its length in bytes.
    #[n(1)]
    pub bytes: u64,
    /// Length of each chunk but the last, bytes.
    #[n(2)]
    pub chunk_bytes: u32,
    /// The hash of each chunk, 32 bytes each, in order.
    #[n(3)]
    #[cbor(with = "minicbor::bytes")]
    #[serde(skip)]
    pub hashes: Vec<u8>,
}

/// The manifest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
#[cbor(map)]
pub struct Manifest {
    /// Version of the format.
    #[n(0)]
    pub format: u32,
    /// Whose state this is.
    #[n(1)]
    pub workload: Workload,
    /// When it was made: milliseconds since 1970, by the clock of the host that made it.
    #[n(2)]
    pub created_unix_ms: u64,
    /// What it needs.
    #[n(3)]
    pub host: HostFacts,
    /// The workload was ended by this checkpoint: it may be restored once.
    #[n(4)]
    pub ends: bool,
    /// Records.
    #[n(5)]
    pub records: Vec<Record>,
    /// Streams.
    #[n(6)]
    pub streams: Vec<Stream>,
    /// Memory.
    #[n(7)]
    pub spaces: Vec<Space>,
    /// Length of each file of pages, bytes.
    #[n(8)]
    pub pages: Vec<u64>,
}

/// Only the version, to be read before anything whose shape may have changed.
#[derive(Decode)]
#[cbor(map)]
struct Version {
    #[n(0)]
    format: u32,
}

impl Manifest {
    /// Writes it as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        minicbor::to_vec(self).expect("writing to a vector cannot fail")
    }

    /// Reads it from bytes that were verified, and checks every limit and every relation in it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let malformed = |e: minicbor::decode::Error| Error::Malformed(e.to_string());
        let version: Version = minicbor::decode(bytes).map_err(malformed)?;
        if version.format > limits::FORMAT_VERSION {
            return Err(Error::NewerVersion { found: version.format, known: limits::FORMAT_VERSION });
        }
        if version.format == 0 {
            return Err(Error::Malformed("there is no format version 0".into()));
        }
        let manifest: Self = minicbor::decode(bytes).map_err(malformed)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The hash by which this image is known.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.encode())
    }

    /// Bytes of memory that the image holds.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.spaces.iter().map(Space::bytes).sum()
    }

    fn check(&self) -> Result<()> {
        at_most("the list of records", self.records.len() as u64, limits::RECORDS_MAX as u64)?;
        at_most("the list of streams", self.streams.len() as u64, limits::STREAMS_MAX as u64)?;
        at_most("the list of spaces", self.spaces.len() as u64, limits::SPACES_MAX as u64)?;
        at_most("the list of files of pages", self.pages.len() as u64, limits::PAGES_FILES_MAX as u64)?;
        let texts = [&self.workload.name, &self.workload.kind, &self.host.kernel, &self.host.machine];
        for text in texts.into_iter().chain(&self.host.cpu_features) {
            at_most("a text", text.len() as u64, limits::TEXT_BYTES_MAX as u64)?;
        }
        let features = self.host.cpu_features.len() as u64;
        at_most("the list of features", features, limits::FEATURES_MAX as u64)?;
        let mut records_bytes = 0_u64;
        for record in &self.records {
            name::check(&record.name)?;
            at_most(&record.name, record.bytes, limits::RECORD_BYTES_MAX)?;
            records_bytes += record.bytes;
        }
        at_most("the sum of all records", records_bytes, limits::RECORDS_BYTES_MAX)?;
        distinct(self.records.iter().map(|record| record.name.as_str()), "record")?;
        for stream in &self.streams {
            stream.check()?;
        }
        distinct(self.streams.iter().map(|stream| stream.name.as_str()), "stream")?;
        for bytes in &self.pages {
            at_most("a file of pages", *bytes, limits::CONTENT_BYTES_MAX)?;
        }
        for space in &self.spaces {
            space.check(&self.pages)?;
        }
        let mut ids: Vec<u32> = self.spaces.iter().map(|space| space.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::Malformed("two spaces have the same number".into()));
        }
        Ok(())
    }
}

impl Stream {
    fn check(&self) -> Result<()> {
        name::check(&self.name)?;
        at_most(&self.name, self.bytes, limits::CONTENT_BYTES_MAX)?;
        check_chunk_bytes(self.chunk_bytes)?;
        let chunks = self.bytes.div_ceil(u64::from(self.chunk_bytes));
        if self.hashes.len() as u64 != chunks * 32 {
            return Err(Error::Malformed(format!(
                "the stream {} does not have a hash for each chunk",
                self.name
            )));
        }
        Ok(())
    }
}

/// Checks that a length of chunks is within the limits and a multiple of pages.
pub(crate) fn check_chunk_bytes(bytes: u32) -> Result<()> {
    let fits = (limits::CHUNK_BYTES_MIN..=limits::CHUNK_BYTES_MAX).contains(&bytes);
    if fits && u64::from(bytes).is_multiple_of(limits::PAGE_BYTES) {
        return Ok(());
    }
    Err(Error::Malformed(format!("chunks of {bytes} bytes are not allowed")))
}

/// Refuses more than `limit` of something.
pub(crate) fn at_most(what: &str, found: u64, limit: u64) -> Result<()> {
    if found > limit {
        return Err(Error::Oversized { file: what.to_owned(), found, limit });
    }
    Ok(())
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>, what: &str) -> Result<()> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::Malformed(format!("two {what}s are named {}", pair[0]))),
        None => Ok(()),
    }
}
