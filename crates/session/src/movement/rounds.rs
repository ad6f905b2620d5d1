//! The rounds of a pre-copy at its source: look, tell the target what it looks like, send, decide what comes next.
//!
//! Nothing here is in the journal: until the freeze the workload runs as if nothing were, and whatever fails ends the tracking with the
//! connection to the shim.

use super::files::Stage;
use super::live::{BANDWIDTH_ASSUMED, Live};
use super::request::Request;
use super::source::{Captured, SourceRole};
use super::watch::Watch;
use crate::shim::Client;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Cause, MethodChosen, Phase, RoundDone};
use ferry_model::ids::Hash;
use ferry_model::plan::Plan;
use ferry_model::planning::{Method, TRACKS_WRITES};
use ferry_model::strategy::convergence::{self, Next};
use ferry_model::strategy::measured::Round;
use ferry_model::strategy::prediction;
use ferry_model::strategy::remedy::{self, Possible, Remedy};
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::control::{Bulk, Message};
use std::time::{Duration, Instant};

/// Files that changed while rounds ran longer than this are staged once more before the pause.
const STAGED_FOR: Duration = Duration::from_secs(1);

impl SourceRole {
    /// How memory travels, said before it does.
    pub(super) fn choose(&self, request: &Request, plan: &Plan) -> Method {
        let bytes = memory_bytes(plan);
        let ms = u128::from(bytes) * 1000 / u128::from(BANDWIDTH_ASSUMED);
        let fits = ms * 1000 <= u128::from(request.live.downtime_us_max);
        let tracks = self.ground.node.facts().kernel_features.iter().any(|feature| feature == TRACKS_WRITES);
        let method = match request.method {
            Method::Auto if fits || !tracks => Method::StopAndCopy,
            Method::Auto => Method::PreCopy,
            asked => asked,
        };
        let reason = match (request.method, method) {
            (Method::Auto, Method::StopAndCopy) if !tracks => {
                format!("this kernel cannot tell what it writes ({TRACKS_WRITES})")
            }
            (Method::Auto, Method::StopAndCopy) => {
                format!("all of its {} KiB fit into the pause", bytes >> 10)
            }
            (Method::Auto, _) => {
                format!("its {} MiB do not fit into the pause; rounds show how fast it writes", bytes >> 20)
            }
            _ => "it was asked for".to_owned(),
        };
        let named = match method {
            Method::PreCopy => Some(prediction::Method::PreCopy),
            Method::StopAndCopy => Some(prediction::Method::StopAndCopy),
            _ => None,
        };
        if let Some(method) = named {
            self.ground.recorder.method(MethodChosen { method, reason, predictions: Vec::new() });
        }
        method
    }

    /// Rounds while it runs, until what is left is small or does not get smaller.
    pub(super) fn rounds(
        &mut self,
        (request, plan): (&Request, &Plan),
        stage: &mut Stage,
        streams: Vec<Box<dyn Stream>>,
        hashes: &mut Vec<Hash>,
    ) -> Result<Live> {
        self.ground.recorder.phase(Phase::PreCopy);
        let limits = request.live.limits();
        let mut live = Live::new(streams, &request.live, memory_bytes(plan))?;
        let (began, mut staged_again) = (Instant::now(), false);
        let mut share_percent = 100;
        loop {
            self.look(&mut live, hashes)?;
            if !self.staged && self.capsule {
                // Now that the target's capsule has its inside.
                stage.add_memory(live.memory_points());
                let hash = self.bulk(Bulk::Files, |to| stage.send_memory(false, to))?;
                self.wait_until_taken(hash)?;
                hashes.push(hash);
                self.staged = stage.sends_memory();
            }
            let expected = convergence::expected_dirty(&live.measured(), live.rounds());
            let done = live.round(Watch::new(&mut self.ground.link, &self.ground.recorder, expected))?;
            let measured = live.measured();
            let next = convergence::next(&measured, &limits, live.rounds());
            let (Next::Another { downtime_us }
            | Next::Last { downtime_us }
            | Next::Stuck { downtime_us, .. }) = next;
            self.ground.recorder.round(RoundDone { predicted_downtime_us: Some(downtime_us), ..done });
            self.ground.node.stands_at("ROUND");
            if matches!(next, Next::Another { .. }) {
                continue;
            }
            if !staged_again && began.elapsed() > STAGED_FOR {
                // What it wrote to files meanwhile; the round after it finds what it wrote to memory in that time.
                let hash = self.bulk(Bulk::Files, |to| stage.send_round(to))?;
                self.wait_until_taken(hash)?;
                hashes.push(hash);
                staged_again = true;
                continue;
            }
            let Next::Stuck { why, .. } = next else { return Ok(live) };
            let possible = Possible { post_copy: false, share_percent };
            let choice = remedy::choose(request.live.on_no_convergence, why, &measured, possible);
            self.ground.recorder.remedy(&choice);
            match choice.remedy {
                Remedy::Throttle { share_percent: share } => {
                    self.ask(|shim| shim.throttle(share))?;
                    share_percent = share;
                }
                Remedy::GiveUp => {
                    let enough = Error::new(Kind::RolledBack, format!("Rounds were not enough: {why}"));
                    return Err(enough.hint("--on-no-convergence stop sends the rest while it stands still"));
                }
                Remedy::Stop | Remedy::Switch => return Ok(live),
            }
        }
    }

    /// What was written since the last round goes over while the state is read: neither waits for the other, and the last round
    /// finds little.
    pub(super) fn capture_beside_a_round(&mut self, mut live: Live) -> Result<Captured> {
        let expected = convergence::expected_dirty(&live.measured(), live.rounds());
        let mut shim = self.shim.take().ok_or_else(|| Error::new(Kind::Bug, "No shim"))?;
        let staged = self.staged;
        let watch = Watch::new(&mut self.ground.link, &self.ground.recorder, expected);
        let (captured, round) = std::thread::scope(|scope| {
            let capturing = scope.spawn(|| if staged { shim.capture_staged() } else { shim.capture() });
            let round = live.round(watch);
            (capturing.join(), round)
        });
        let captured = captured.map_err(|_| Error::new(Kind::Bug, "The capture ended by a panic"))??;
        let round = round?;
        (self.shim, self.live) = (Some(shim), Some(live));
        // It is one of the pause, too.
        let round = RoundDone { round: Round { last: true, ..round.round }, ..round };
        self.ground.recorder.round(round);
        Ok(captured)
    }

    /// The round after which nothing is missing; the hash over all rounds.
    pub(super) fn last_round(&mut self, live: Live) -> Result<Hash> {
        let began = Instant::now();
        let expected = convergence::expected_dirty(&live.measured(), live.rounds());
        let (round, hash) =
            live.finish(Watch::new(&mut self.ground.link, &self.ground.recorder, expected))?;
        self.ground.recorder.spent(Cause::Memory, began);
        self.ground.recorder.round(round);
        Ok(hash)
    }

    /// Looks at the workload, and has the target make its puppets so.
    fn look(&mut self, live: &mut Live, hashes: &mut Vec<Hash>) -> Result<()> {
        let tracked = self.ask(Client::track)?;
        let Some(draft) = live.follow(tracked)? else { return Ok(()) };
        hashes.push(self.bulk(Bulk::Draft, |to| std::io::Write::write_all(to, &draft))?);
        self.wait_for("the target's puppets", |message| matches!(message, Message::Ready))
    }
}

fn memory_bytes(plan: &Plan) -> u64 {
    let memory = plan.items.iter().map(|item| &item.resource).filter(|each| each.sort == "memory");
    memory.map(|each| each.bytes).sum()
}
