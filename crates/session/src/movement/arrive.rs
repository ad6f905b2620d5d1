//! Warm moves, the target's side: an image comes, is built whole and frozen, and taken through the decider of its source.
//!
//! Until TAKING nothing is promised and nothing is in the journal: whatever fails leaves nothing. From TAKING on it is the restore
//! that any image has, and it ends by itself.

use super::link::{Heard, Link};
use super::node::Node;
use super::planning;
use super::recorder::Recorder;
use super::revive::Job;
use super::warm::THREADS;
use crate::imaging::workload::Image;
use crate::shim::Spec;
use ferry_image::Trust;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Event, Phase, What};
use ferry_model::handover::{Body, Key, Message, Outcome};
use ferry_model::ids::{Hash, HostName};
use ferry_process::capsule::tree;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::control;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// How long the source may take to begin with the image, and between two pieces of it.
const STEP_MAX: Duration = Duration::from_secs(120);
const READ_MAX: Duration = Duration::from_secs(30);

/// How often the source hears that this side lives, while it works.
const SIGN_EVERY: Duration = Duration::from_secs(2);

/// A workload that comes as an image.
pub(super) struct Arrival<'a> {
    pub node: &'a Arc<dyn Node>,
    pub recorder: &'a Recorder,
    pub peer: &'a HostName,
    /// Of the offer: the epoch before the suspension.
    pub key: Key,
    pub spec: Spec,
}

impl Arrival<'_> {
    /// Takes the image and the workload; returns when it runs here, or nothing of it is left here.
    pub fn run(self, link: &mut Link, pages: &Receiver<Box<dyn Stream>>) -> Result<Outcome> {
        let directory = self.node.directory(self.key.id).join(super::ARRIVING);
        let done = self.take(link, pages, &directory);
        let _ = fs::remove_dir_all(&directory);
        match done {
            Ok(()) => {
                let _ = self.say(link, self.taken_key(), Body::Running);
                // The source closes; until then its question may still come on this connection.
                let _ = link.hear(READ_MAX);
                Ok(Outcome::Moved)
            }
            Err(error) => {
                let _ = link.send(&control::Message::Failed { error: error.clone() });
                self.node.departed(self.key.id, None);
                Err(error)
            }
        }
    }

    fn taken_key(&self) -> Key {
        Key { epoch: self.key.epoch.next(), ..self.key }
    }

    fn say(&self, link: &mut Link, key: Key, body: Body) -> io::Result<()> {
        let message = minicbor::to_vec(Message { key, body }).unwrap_or_default().into();
        link.send(&control::Message::Handover { message })
    }

    fn take(&self, link: &mut Link, pages: &Receiver<Box<dyn Stream>>, directory: &Path) -> Result<()> {
        let unable =
            |e: io::Error| Error::from_source(Kind::Unable, &e).context("There is no room for the image");
        match fs::remove_dir_all(directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(unable(e)),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(directory).map_err(unable)?;
        self.say(link, self.key, Body::Reserved).map_err(|e| planning::link_error(&e))?;
        self.recorder.phase(Phase::State);
        self.receive(link, pages, directory)?;
        let hash = self.announced(link)?;
        // Who sends is known by its certificate, and what by the hash that it announced: no key need be listed.
        let image = Image::open(directory, &Trust { any: true, ..Trust::default() })?
            .filter(|image| image.hash() == hash && image.about.spec.id == self.key.id)
            .ok_or_else(|| Error::new(Kind::Refused, "What came is not the image that was announced"))?;
        self.recorder.phase(Phase::Prepared);
        let job = Job {
            key: self.taken_key(),
            owner: self.peer.clone(),
            spec: self.spec.clone(),
            as_clone: false,
            threads: THREADS,
            // The plan is the source's, and what it found missing here came along.
            missing: Vec::new(),
        };
        let node = self.node.clone();
        self.while_alive(link, move || job.run(&node, &image, &Arc::default()).map(drop))
    }

    /// The image, from the connection that presented the move's secret.
    fn receive(&self, link: &mut Link, pages: &Receiver<Box<dyn Stream>>, directory: &Path) -> Result<()> {
        let began = std::time::Instant::now();
        let mut stream = loop {
            if let Ok(stream) = pages.recv_timeout(Duration::from_millis(100)) {
                break stream;
            }
            match link.hear(Duration::ZERO) {
                Heard::Nothing | Heard::Attached(_) | Heard::Order(_) => {}
                Heard::Message(control::Message::Failed { error }) => return Err(error),
                Heard::Message(_) => {}
                Heard::Gone(e) => return Err(planning::link_error(&e)),
                Heard::Cancel(why) => return Err(Error::new(Kind::RolledBack, why)),
            }
            if began.elapsed() > STEP_MAX {
                return Err(Error::new(Kind::RolledBack, "The source opened no stream for the image"));
            }
        };
        let broken = |e: &(dyn std::error::Error + 'static)| {
            Error::from_source(Kind::RolledBack, e).context("The image did not arrive")
        };
        stream.set_timeout(Some(READ_MAX)).map_err(|e| broken(&e))?;
        let root = File::open(directory).map_err(|e| broken(&e))?;
        tree::unpack(root, &mut stream, &tree::Limits::default()).map(drop).map_err(|e| broken(&e))
    }

    /// The hash of the image, as the source says it on the control connection.
    fn announced(&self, link: &mut Link) -> Result<Hash> {
        loop {
            let message = link.expect(STEP_MAX).map_err(|e| planning::link_error(&e))?;
            let control::Message::Handover { message } = message else { continue };
            let Ok(message) = minicbor::decode::<Message>(&message) else { continue };
            if let Body::State { receipt } = message.body
                && message.key == self.taken_key()
            {
                return Ok(receipt.hash);
            }
        }
    }

    /// Works while the source hears that this side lives. It goes on when the connection is gone: the decider decides, not the link.
    fn while_alive<T: Send + 'static>(
        &self,
        link: &mut Link,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let worker = std::thread::Builder::new().name("ferry-arrive".into()).spawn(work);
        let worker = worker.map_err(|e| Error::from_source(Kind::Unable, &e))?;
        let mut said = std::time::Instant::now();
        while !worker.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            if said.elapsed() > SIGN_EVERY {
                said = std::time::Instant::now();
                let what = What::Note { text: format!("{} builds it from its image", self.node.host()) };
                let _ = link.send(&control::Message::Event { event: Event { at_us: 0, what } });
            }
        }
        worker.join().map_err(|_| Error::new(Kind::Bug, "The work ended by a panic"))?
    }
}
