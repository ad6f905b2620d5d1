//! The image of a workload that lives in a capsule: the records and memory of any image, what only its shim knew, and its files.
//!
//! What the capsule reads of its host is not in it (but for what a warm move's target lacks): it is named with its content
//! hash, and a restore looks whether it is there. Files travel as they do in a move.

use super::facts::{self, Moment};
use super::memory::{Sink, Source};
use super::records;
use crate::shim::envelope::Envelope;
use crate::shim::protocol::Exit;
use crate::shim::{Client, Spec};
use ferry_image::{
    Header, HostKey, Manifest, MemoryReport, Reader, StreamReader, Trust, Verified, Workload, Writer,
};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{Epoch, Hash, HostName};
use ferry_model::plan::Resource;
use ferry_network::Identity;
use ferry_process::records::State;
use ferry_transfer::access::SpaceAccess;
use ferry_transfer::linux::{LinuxSink, LinuxSource};
use minicbor::{Decode, Encode};
use std::io::{self, Write};
use std::path::Path;

/// The record that makes an image one of a workload in a capsule.
const ABOUT: &str = "workload.cbor";

/// Files that do not change while it runs; and those that were packed when it stood still, with the memory file systems.
const STEADY: &str = "files/steady";
const LAST: &str = "files/last";

/// What is known of the workload besides its state.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub struct About {
    /// What it was asked to be.
    #[n(0)]
    pub spec: Spec,
    /// First program: its pid inside.
    #[n(1)]
    pub first: i32,
    /// How it ended, if it has and others go on.
    #[n(2)]
    pub exit: Option<Exit>,
    /// Its network identity, where it has one.
    #[n(3)]
    pub network: Option<Identity>,
    /// The host that made the image: its registry says whether the workload may be taken back.
    #[n(4)]
    pub host: HostName,
    /// What that host is.
    #[n(5)]
    pub facts: ferry_model::facts::HostFacts,
    /// What the workload held: code and files by content hash.
    #[n(6)]
    pub resources: Vec<Resource>,
    /// What was typed on its terminal, and did not fit into the terminal's own buffer.
    #[n(7)]
    pub typed: Option<minicbor::bytes::ByteVec>,
}

/// An image of a workload that is being written.
pub struct Making {
    writer: Writer,
    key: HostKey,
    threads: usize,
    captured: Option<(Header, MemoryReport)>,
}

impl Making {
    /// Claims the directory and the key, and makes buffers: all that can fail before anything stands still.
    pub fn begin(dir: &Path, state: &Path, threads: usize) -> Result<Self> {
        let mut writer = Writer::create(dir)?;
        writer.prepare(threads);
        Ok(Self { writer, key: HostKey::load_or_create(state)?, threads, captured: None })
    }

    /// While it runs.
    pub fn steady(&mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        self.stream(STEADY, fill)
    }

    /// When it is captured, before it may run on.
    pub fn last(&mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        self.stream(LAST, fill)
    }

    fn stream(&mut self, name: &str, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let mut stream = self.writer.stream(name)?;
        fill(&mut stream).map_err(|e| {
            Error::from_source(Kind::Unable, &e)
                .context("The workload's files cannot be written into the image")
        })?;
        Ok(self.writer.end_stream(stream)?)
    }

    /// State and memory of the frozen workload, as its shim captured them. `init` is the capsule's first process: its clocks count.
    pub fn capture(
        &mut self,
        (state, spaces): (&[u8], Vec<SpaceAccess>),
        init: i32,
        about: impl FnOnce(&Envelope) -> About,
        (epoch, ends): (Epoch, bool),
    ) -> Result<()> {
        let envelope = Envelope::from_bytes(state)?;
        let moment = Moment::of(init)?;
        let source = LinuxSource::open(spaces).map_err(|e| {
            Error::from_source(Kind::Unable, &e).context("The workload's memory cannot be read")
        })?;
        let source = Source(&source);
        let memory = self.writer.memory(&source.spaces(), self.threads, &source)?;
        let about = about(&envelope);
        records::write(&mut self.writer, &envelope.state, &moment)?;
        let bytes = minicbor::to_vec(&about).map_err(|e| Error::new(Kind::Bug, e.to_string()))?;
        self.writer.record(ABOUT, &bytes)?;
        let (id, name) = (about.spec.id, about.spec.name);
        let workload = Workload { id, name, epoch, kind: "process".into() };
        let header = Header { workload, host: facts::needed(&envelope.state), ends };
        self.captured = Some((header, memory));
        Ok(())
    }

    /// Signs it, makes it durable and gives it its name.
    pub fn finish(self) -> Result<(Manifest, MemoryReport)> {
        let (header, memory) =
            self.captured.ok_or_else(|| Error::new(Kind::Bug, "An image without a captured workload"))?;
        Ok((self.writer.finish(header, &self.key)?, memory))
    }
}

/// A verified image of a workload in a capsule.
pub struct Image {
    image: Verified,
    /// What is known of it.
    pub about: About,
    state: State,
}

impl Image {
    /// Verifies the image at `dir` and reads its records. `None`: it is of a tree that lived in no capsule.
    pub fn open(dir: &Path, trust: &Trust) -> Result<Option<Self>> {
        let image = Reader::open(dir)?.verify(trust)?;
        let Some(about) = image.record(ABOUT) else { return Ok(None) };
        let about: About = minicbor::decode(about).map_err(|e| {
            Error::new(Kind::Refused, format!("The record {ABOUT} of the image cannot be read: {e}"))
        })?;
        if about.spec.id != image.manifest().workload.id {
            return Err(Error::new(
                Kind::Refused,
                "The image's manifest and records are of different workloads",
            ));
        }
        facts::check(&image.manifest().host)?;
        let (state, _) = records::read(&image)?;
        Ok(Some(Self { image, about, state }))
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.image.manifest()
    }

    /// By what it is known.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.image.hash()
    }

    /// Hands the two streams of files to `take`, which puts them in place.
    pub fn files(&self, mut take: impl FnMut(&mut StreamReader<'_>) -> io::Result<()>) -> Result<()> {
        for name in [STEADY, LAST] {
            let stream = self.image.stream(name)?;
            let mut stream =
                stream.ok_or_else(|| Error::new(Kind::Refused, format!("The image has no stream {name}")))?;
            take(&mut stream).map_err(|e| {
                Error::from_source(Kind::Unable, &e)
                    .context("Files of the image could not be put in their places")
            })?;
        }
        Ok(())
    }

    /// Has a shim build it as `spec`, whole and frozen. Files are in place. Returns the bytes of memory.
    pub fn build(&self, shim: &mut Client, spec: Spec, as_clone: bool, threads: usize) -> Result<u64> {
        let About { first, exit, network, typed, .. } = self.about.clone();
        let envelope =
            Envelope { state: self.state.clone(), first, exit, network, typed, ..Envelope::default() };
        let spaces = shim.prepare(spec, envelope.to_bytes(), as_clone)?;
        let sink = LinuxSink::open(spaces).map_err(|e| {
            Error::from_source(Kind::Unable, &e).context("The puppets' memory cannot be written")
        })?;
        let loaded = self.image.load(threads, &Sink::new(&sink, &self.state))?;
        drop(sink);
        shim.finish()?;
        Ok(loaded.bytes)
    }
}
