//! What a target takes from its source before the handover goes on: files, drafts, the state, and which pages follow.

use super::introduction::Begin;
use super::pause::Pause;
use super::target::TargetRole;
use super::{files, missing, planning};
use crate::shim::Client;
use crate::shim::envelope::Envelope;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::Cause;
use ferry_model::handover::{Body, Message};
use ferry_model::ids::Hash;
use ferry_model::planning::Method;
use ferry_process::layout::may_be_missing;
use ferry_transfer::wire::bulk::BulkReader;
use ferry_transfer::wire::control::{self, Bulk};
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// How long the source may take between two steps before the target gives up, while it may.
const STEP_MAX: Duration = Duration::from_secs(120);

/// How often is looked whether pages still come while the source says nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Most bytes of files that one transfer may bring.
const FILES_BYTES_MAX: u64 = 1 << 40;

/// Most bytes of execution state.
const STATE_BYTES_MAX: u64 = crate::shim::protocol::MESSAGE_BYTES_MAX as u64 - 4096;

impl TargetRole {
    /// Files, state and memory, until the memory is on its way. What follows is the handover's.
    pub(super) fn take(&mut self, begin: &Begin) -> Result<()> {
        self.offer_held();
        // Started while the workload still runs at the source: a new process takes longer than all that it will do.
        let shim = Client::spawn(&self.ground.node.program(), &self.directory, false);
        let no_shim = |e| Error::from_source(Kind::Unable, &e).context("No shim could be started");
        self.shim = Some(shim.map_err(no_shim)?);
        if begin.clocks.is_some() && self.method != Method::Cold {
            self.ask(|shim| shim.ground(begin.spec.clone(), begin.clocks))?;
        }
        loop {
            match self.next_step()? {
                control::Message::Bulk { kind: Bulk::Files } => self.take_files()?,
                control::Message::Bulk { kind: Bulk::Draft } => self.take_draft(begin)?,
                control::Message::Bulk { kind: Bulk::Aside } => self.take_aside()?,
                control::Message::Bulk { kind: Bulk::State } => return self.take_state(begin),
                control::Message::WhichHeld => self.tell_held()?,
                control::Message::Handover { message } => {
                    let message: Option<Message> = minicbor::decode(&message).ok();
                    if let Some(Message { body: Body::Abort { reason }, key }) = message
                        && key == self.ground.key
                    {
                        return Err(Error::new(Kind::RolledBack, reason));
                    }
                }
                control::Message::Bye => {
                    return Err(Error::new(Kind::RolledBack, "The source ended the move"));
                }
                _ => {}
            }
        }
    }

    /// What the source says next. Pages may be on their way meanwhile: if they do not arrive, the source has to hear why.
    fn next_step(&mut self) -> Result<control::Message> {
        let end = Instant::now() + STEP_MAX;
        loop {
            self.incoming()?.check()?;
            let left = end.saturating_duration_since(Instant::now());
            match self.ground.link.expect(LOOK_EVERY.min(left)) {
                Err(e) if e.kind() == io::ErrorKind::TimedOut && left > LOOK_EVERY => {}
                message => return message.map_err(|e| planning::link_error(&e)),
            }
        }
    }

    fn take_files(&mut self) -> Result<()> {
        // Of a live move it is nearly always the first thing that comes in the pause. If a round follows, that ends it.
        if self.incoming()?.in_rounds() {
            self.pause.get_or_insert_with(Pause::begin);
        }
        let link = &mut self.ground.link;
        let mut reader = BulkReader::new(|| link.expect(STEP_MAX), FILES_BYTES_MAX);
        let taken = files::take(&self.directory, &mut reader);
        // The rest is read in any case, so that the source hears the reason and not a broken connection.
        let finished = reader.finish();
        taken.map_err(|e| {
            Error::from_source(Kind::Unable, &e).context("Files could not be put in their places")
        })?;
        let (_, hash) = finished.map_err(|e| planning::link_error(&e))?;
        self.hashes.push(hash);
        self.ground.link.send(&control::Message::Taken { hash }).map_err(|e| planning::link_error(&e))
    }

    /// Makes the puppets so that the next round fits.
    fn take_draft(&mut self, begin: &Begin) -> Result<()> {
        self.pause = None;
        let draft = self.take_bytes()?;
        let may_follow = self.post_copy;
        let spaces = self.ask(|shim| shim.draft(begin.spec.clone(), draft, begin.clone, may_follow))?;
        self.incoming()?.fill_rounds(spaces)?;
        self.ground.node.stands_at("DRAFT");
        self.ground.link.send(&control::Message::Ready).map_err(|e| planning::link_error(&e))
    }

    /// Gives back what it has of pages that will follow after the resume.
    fn take_aside(&mut self) -> Result<()> {
        self.pause = None;
        let aside = missing::read(&self.take_bytes()?)?;
        self.ask(|shim| shim.give_back(aside))?;
        self.ground.node.stands_at("ASIDE");
        self.ground.link.send(&control::Message::Ready).map_err(|e| planning::link_error(&e))
    }

    fn take_state(&mut self, begin: &Begin) -> Result<()> {
        self.pause.get_or_insert_with(Pause::begin);
        let state = self.take_bytes()?;
        let began = Instant::now();
        if self.post_copy {
            self.captured.clone_from(&state);
        }
        let spaces = self.ask(|shim| shim.prepare(begin.spec.clone(), state, begin.clone))?;
        self.tell(Cause::Restore, began);
        if self.method == Method::Cold {
            return Ok(());
        }
        let recorder = self.ground.recorder.clone();
        let incoming = self.incoming()?;
        if incoming.in_rounds() {
            incoming.fill_rounds(spaces)?;
        } else {
            incoming.fill_once(spaces, recorder)?;
        }
        self.ground.link.send(&control::Message::Ready).map_err(|e| planning::link_error(&e))
    }

    /// Something of the execution state's size.
    fn take_bytes(&mut self) -> Result<Vec<u8>> {
        let link = &mut self.ground.link;
        let mut bytes = Vec::new();
        let mut reader = BulkReader::new(|| link.expect(STEP_MAX), STATE_BYTES_MAX);
        reader.read_to_end(&mut bytes).map_err(|e| planning::link_error(&e))?;
        let (_, hash) = reader.finish().map_err(|e| planning::link_error(&e))?;
        self.hashes.push(hash);
        Ok(bytes)
    }

    /// The source says which pages follow after the resume.
    pub(super) fn take_missing(&mut self) -> Result<()> {
        let bytes = self.take_bytes()?;
        let may = may_be_missing(&Envelope::from_bytes(&self.captured)?.state);
        // Of what came: the set is said in one way only, and to say it again takes a while if it is in many pieces.
        self.missing = Some((missing::from_bytes(&bytes, &may)?, Hash::of(&bytes)));
        Ok(())
    }
}
