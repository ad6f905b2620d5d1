//! Reading an image: signature first, then every record, then memory and streams chunk by chunk.
//!
//! [`Unverified`] has no method that gives anything of the image away, so nothing can be used too early by mistake. What
//! [`Verified`] gives are the buffers that were hashed: a file that changes later changes nothing.

mod memory;

pub use memory::{FillMemory, Loaded};

use crate::consumed;
use crate::error::{Error, Result};
use crate::key::{PublicKey, Trust};
use crate::limits;
use crate::manifest::Manifest;
use crate::name;
use crate::place::Place;
use crate::signature;
use crate::stream::StreamReader;
use ferry_model::ids::Hash;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where reading begins.
#[derive(Debug)]
pub struct Reader;

impl Reader {
    /// Opens the image at `dir` and reads manifest and signature, bounded, without believing either.
    pub fn open(dir: &Path) -> Result<Unverified> {
        let place = Place::open(dir)?;
        let manifest = match place.read_bounded(name::MANIFEST, limits::MANIFEST_BYTES_MAX) {
            Err(Error::Missing(_)) => return Err(Error::NotAnImage(dir.to_owned())),
            manifest => manifest?,
        };
        let signature = match place.read_bounded(name::SIGNATURE, signature::BYTES as u64) {
            Err(Error::Missing(_)) => return Err(Error::Unsigned),
            Err(Error::Oversized { .. }) => {
                return Err(Error::BadSignatureFile("it does not have 104 bytes"));
            }
            signature => signature?,
        };
        Ok(Unverified { dir: dir.to_owned(), place, manifest, signature })
    }
}

/// An image of which nothing is known yet, and of which nothing can be used.
#[derive(Debug)]
pub struct Unverified {
    dir: PathBuf,
    place: Place,
    manifest: Vec<u8>,
    signature: Vec<u8>,
}

impl Unverified {
    /// Verifies signature, signer, manifest, every record, and the length of everything else.
    pub fn verify(self, trust: &Trust) -> Result<Verified> {
        let signer = signature::verify(&self.manifest, &self.signature, trust)?;
        let manifest = Manifest::decode(&self.manifest)?;
        let mut records = BTreeMap::new();
        for record in &manifest.records {
            let path = format!("{}/{}", name::RECORDS, record.name);
            let bytes = match self.place.read_bounded(&path, record.bytes) {
                Err(Error::Oversized { file, found, .. }) => {
                    return Err(Error::Oversized { file, found, limit: record.bytes });
                }
                bytes => bytes?,
            };
            check_length(&path, bytes.len() as u64, record.bytes)?;
            if Hash::of(&bytes) != record.hash {
                return Err(Error::Altered(path));
            }
            records.insert(record.name.clone(), bytes);
        }
        for stream in &manifest.streams {
            let path = format!("{}/{}", name::STREAMS, stream.name);
            check_length(&path, self.place.read(&path)?.1, stream.bytes)?;
        }
        let mut pages = Vec::with_capacity(manifest.pages.len());
        for (number, bytes) in manifest.pages.iter().enumerate() {
            let (file, found) = self.place.read(&name::pages(number))?;
            check_length(&name::pages(number), found, *bytes)?;
            pages.push(file);
        }
        let hash = Hash::of(&self.manifest);
        Ok(Verified { dir: self.dir, place: self.place, manifest, hash, signer, records, pages })
    }
}

/// An image whose manifest and records are what a trusted host has signed.
#[derive(Debug)]
pub struct Verified {
    dir: PathBuf,
    place: Place,
    manifest: Manifest,
    hash: Hash,
    signer: PublicKey,
    records: BTreeMap<String, Vec<u8>>,
    pages: Vec<File>,
}

impl Verified {
    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Hash of the manifest, by which the image is known.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Who signed it.
    #[must_use]
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The record file `name`, if the image has it.
    #[must_use]
    pub fn record(&self, name: &str) -> Option<&[u8]> {
        self.records.get(name).map(Vec::as_slice)
    }

    /// The stream `name`, if the image has it.
    pub fn stream(&self, name: &str) -> Result<Option<StreamReader<'_>>> {
        let Some(stream) = self.manifest.streams.iter().find(|stream| stream.name == name) else {
            return Ok(None);
        };
        let (file, _) = self.place.read(&format!("{}/{name}", name::STREAMS))?;
        Ok(Some(StreamReader::new(stream, file)))
    }

    /// Refuses an image whose checkpoint ended the workload and that was restored before.
    pub fn check_not_consumed(&self) -> Result<()> {
        if !self.manifest.ends {
            return Ok(());
        }
        match consumed::read(&self.dir)? {
            Some(note) => Err(Error::Consumed(note)),
            None => Ok(()),
        }
    }
}

fn check_length(file: &str, found: u64, expected: u64) -> Result<()> {
    let file = file.to_owned();
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => Err(Error::Truncated { file, found, expected }),
        std::cmp::Ordering::Greater => Err(Error::Oversized { file, found, limit: expected }),
        std::cmp::Ordering::Equal => Ok(()),
    }
}
