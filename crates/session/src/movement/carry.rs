//! How a source's memory gets across: all of it at once in the pause, or what may follow after the resume.

use super::ground::{Role, gives_up};
use super::live::Left;
use super::request::Request;
use super::serving::{Serving, Ways};
use super::source::SourceRole;
use super::{memory, missing, planning};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Cause, Phase};
use ferry_model::handover::{Input, Receipt};
use ferry_model::ids::Hash;
use ferry_model::planning::Method;
use ferry_model::strategy::options::LiveOptions;
use ferry_transfer::access::SpaceAccess;
use ferry_transfer::linux::LinuxSource;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::bulk::BulkWriter;
use ferry_transfer::wire::control::{self, Bulk};
use ferry_transfer::wire::greeting;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How long the target may take for one step of its own.
const STEP_MAX: Duration = Duration::from_secs(60);

impl SourceRole {
    /// The page streams, before the workload stops.
    pub(super) fn open_streams(&self, request: &Request, secret: [u8; 32]) -> Result<Vec<Box<dyn Stream>>> {
        let cold = request.method == Method::Cold;
        let count = if cold { 0 } else { request.live.streams.clamp(1, super::STREAMS_MAX) };
        let connect = |index| {
            let purpose = greeting::Purpose::Pages { mv: self.ground.key.mv, secret, index };
            self.ground.node.connect(&self.ground.peer, purpose)
        };
        let opened: io::Result<Vec<_>> = (0..count).map(connect).collect();
        opened.map_err(|e| planning::link_error(&e).context("The way for the memory cannot be opened"))
    }

    /// Sends something long.
    pub(super) fn bulk(
        &mut self,
        kind: Bulk,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Hash> {
        let send = || {
            let mut writer = BulkWriter::begin(self.ground.link.writer()?, kind)?;
            fill(&mut writer)?;
            writer.finish()
        };
        let (_, hash) = send().map_err(|e| planning::link_error(&e))?;
        Ok(hash)
    }

    /// Waits until the target has put files where they belong.
    pub(super) fn wait_until_taken(&mut self, hash: Hash) -> Result<()> {
        self.wait_for(
            "files to be taken",
            |message| matches!(message, control::Message::Taken { hash: taken } if *taken == hash),
        )
    }

    /// Waits for one message of the target; its events are noted on the way.
    pub(super) fn wait_for(&mut self, what: &str, wanted: impl Fn(&control::Message) -> bool) -> Result<()> {
        loop {
            let message = self
                .ground
                .link
                .expect(STEP_MAX)
                .map_err(|e| planning::link_error(&e).context(format!("Waiting for {what}")))?;
            if wanted(&message) {
                return Ok(());
            }
            if let Some(reason) = gives_up(&message) {
                return Err(Error::new(Kind::RolledBack, format!("{} gave up: {reason}", self.ground.peer)));
            }
            let _ = self.other(message);
        }
    }

    /// All memory at once.
    pub(super) fn memory(&mut self, spaces: Vec<SpaceAccess>, streams: Vec<Box<dyn Stream>>) -> Result<Hash> {
        let began = Instant::now();
        let source = LinuxSource::open(spaces).map_err(|e| {
            Error::from_source(Kind::Unable, &e).context("The workload's memory cannot be read")
        })?;
        let sent = memory::send(streams, &source, &self.ground.recorder);
        let digest = sent.map_err(|e| planning::link_error(&e).context("Memory did not get across"))?;
        self.ground.recorder.spent(Cause::Memory, began);
        Ok(digest.finish())
    }

    /// The streams for pages that will be left behind, before the workload stops.
    pub(super) fn open_ways(&mut self, options: &LiveOptions) -> Result<()> {
        if !self.may_follow {
            return Err(Error::new(
                Kind::Refused,
                format!("{} cannot run a workload whose pages are still missing", self.ground.peer),
            ));
        }
        let mut ways = Ways::new(&self.ground.node, &self.ground.peer, self.ground.key);
        ways.open().map_err(|e| {
            planning::link_error(&e).context("The way for the pages that follow cannot be opened")
        })?;
        self.ways = Some((ways, options.bandwidth_bytes_per_s_max));
        Ok(())
    }

    /// Says which pages follow, and writes down where they are.
    pub(super) fn leave(&mut self, left: Left, hashes: &mut Vec<Hash>) -> Result<()> {
        let (ways, bandwidth_bytes_per_s_max) =
            self.ways.take().ok_or_else(|| Error::new(Kind::Bug, "No way for the pages that follow"))?;
        let bytes = missing::to_bytes(&left.missing);
        if bytes.len() as u64 > missing::BYTES_MAX {
            return Err(Error::new(Kind::Unable, "Its memory is in too many pieces to follow later")
                .hint("--method pre-copy"));
        }
        let hash = self.bulk(Bulk::Missing, |to| to.write_all(&bytes))?;
        hashes.push(hash);
        let Left { missing, places } = left;
        let missing = (missing, hash);
        let serving = Serving::begin(ways, &self.directory, &places, missing, bandwidth_bytes_per_s_max)?;
        self.serving = Some(serving);
        Ok(())
    }

    /// What the target must be able to prove.
    pub(super) fn receipt(&self, hash: Hash) -> Receipt {
        let left = self.serving.as_ref().map(Serving::left);
        Receipt {
            hash,
            missing_pages: left.map_or(0, |(pages, _)| pages),
            missing: left.map(|(_, hash)| hash),
        }
    }

    /// Serves the pages that were left behind; asked again and again until the target has them all.
    pub(super) fn serve(&mut self) -> Option<Input> {
        self.pause = None;
        if self.serving.is_none() {
            let ways = Ways::new(&self.ground.node, &self.ground.peer, self.ground.key);
            match Serving::again(ways, &self.directory) {
                Ok(serving) => {
                    self.serving = Some(serving);
                    self.ground.recorder.phase(Phase::PostCopy);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(Input::CopyGone),
                Err(error) => {
                    self.ground.recorder.say(format!("Pages are not served yet: {error}"));
                    return None;
                }
            }
        }
        self.ground.node.stands_at("SERVING");
        let serving = self.serving.as_mut()?;
        if serving.is_gone() {
            return Some(Input::CopyGone);
        }
        if self.ground.link.is_gone() {
            self.ground.recorder.cut();
        }
        // Where not even this side can be heard, more streams will not get through.
        if (serving.is_ready() || !self.ground.link.is_gone())
            && let Err(error) = serving.keep()
        {
            tracing::debug!(%error, "the pages that follow cannot be served yet");
        }
        None
    }
}
