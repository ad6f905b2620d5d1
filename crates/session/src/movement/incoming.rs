//! Memory that comes to a target: the page streams of one move, and what they fill.
//!
//! In a pre-copy they live for the whole move, and what they fill is exchanged between rounds, when nothing is under way: each draft of
//! the workload may have changed the puppets. Otherwise they come once, when the puppets are as captured.

use super::recorder::Recorder;
use super::{memory, planning};
use crate::visits::Visit;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::Hash;
use ferry_transfer::access::SpaceAccess;
use ferry_transfer::linux::LinuxSink;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::rounds;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a page stream may take until it is here. The source has opened it before it says anything that needs it; whoever waits
/// hears nothing else, not even that the source is gone.
const STREAM_MAX: Duration = Duration::from_secs(20);

/// The page streams of one move.
pub(super) struct Incoming {
    /// Where they come in, until somebody has taken them.
    pages: Option<Receiver<Box<dyn Stream>>>,
    count: u32,
    flow: Flow,
}

enum Flow {
    /// Nothing is there to be filled.
    Closed,
    /// Rounds, into what the last draft has made.
    Rounds(rounds::Receiver),
    /// All of it at once.
    Once(JoinHandle<Result<Hash>>),
}

impl Incoming {
    pub fn new(pages: Receiver<Box<dyn Stream>>, count: u32) -> Self {
        Self { pages: Some(pages), count, flow: Flow::Closed }
    }

    /// The memory of the puppets is where `spaces` says: the next round goes there.
    pub fn fill_rounds(&mut self, spaces: Vec<SpaceAccess>) -> Result<()> {
        let sink = Arc::new(open(spaces)?);
        match &self.flow {
            Flow::Rounds(receiver) => receiver.set_filler(sink),
            _ => {
                let streams = taken(self.pages.take(), self.count)?;
                let receiver = rounds::Receiver::begin(streams, sink);
                self.flow = Flow::Rounds(receiver.map_err(|e| arrived_not(&e))?);
            }
        }
        Ok(())
    }

    /// The source may tell pages of this instead of sending them.
    pub fn hold(&self, visit: Arc<Visit>) {
        if let Flow::Rounds(receiver) = &self.flow {
            receiver.hold(visit);
        }
    }

    /// Whether pages still come as they should: the source only sees that a stream broke.
    pub fn check(&self) -> Result<()> {
        match &self.flow {
            Flow::Rounds(receiver) => receiver.check().map_err(|e| arrived_not(&e)),
            Flow::Once(_) | Flow::Closed => Ok(()),
        }
    }

    /// Whether rounds have begun.
    pub fn in_rounds(&self) -> bool {
        matches!(self.flow, Flow::Rounds(_))
    }

    /// Takes everything at once into `spaces`.
    pub fn fill_once(&mut self, spaces: Vec<SpaceAccess>, recorder: Arc<Recorder>) -> Result<()> {
        let sink = open(spaces)?;
        let (pages, count) = (self.pages.take(), self.count);
        let filling = std::thread::Builder::new().name("ferry-fill".into()).spawn(move || {
            let streams = taken(pages, count)?;
            let digest = memory::receive(streams, &sink, &recorder);
            digest.map(|digest| digest.finish()).map_err(|e| arrived_not(&e))
        });
        self.flow = Flow::Once(filling.map_err(|e| Error::from_source(Kind::Unable, &e))?);
        Ok(())
    }

    /// All memory is in, and nobody waits for the streams to end.
    pub fn leave(self) {
        // If no thread can be started, it is this one that waits for a moment.
        let _ = std::thread::Builder::new().name("ferry-pages-end".into()).spawn(move || drop(self));
    }

    /// Waits until all memory is in: its hash. Rounds are in when their source says what it has sent; their streams end later, with this.
    pub fn finish(&mut self) -> Result<Hash> {
        if let Flow::Rounds(receiver) = &self.flow {
            return receiver.check().map(|()| receiver.settled().1).map_err(|e| arrived_not(&e));
        }
        match std::mem::replace(&mut self.flow, Flow::Closed) {
            Flow::Once(filling) => {
                filling.join().map_err(|_| Error::new(Kind::Bug, "Filling memory failed"))?
            }
            Flow::Rounds(_) | Flow::Closed => Err(Error::new(Kind::RolledBack, "No memory came")),
        }
    }
}

/// All streams of the move.
fn taken(pages: Option<Receiver<Box<dyn Stream>>>, count: u32) -> Result<Vec<Box<dyn Stream>>> {
    let none = || Error::new(Kind::RolledBack, "The source opened no page stream");
    let pages = pages.ok_or_else(none)?;
    (0..count).map(|_| pages.recv_timeout(STREAM_MAX).map_err(|_| none())).collect()
}

fn open(spaces: Vec<SpaceAccess>) -> Result<LinuxSink> {
    LinuxSink::open(spaces)
        .map_err(|e| Error::from_source(Kind::Unable, &e).context("The puppets' memory cannot be written"))
}

fn arrived_not(error: &std::io::Error) -> Error {
    planning::link_error(error).context("Memory did not arrive")
}
