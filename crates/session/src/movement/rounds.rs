//! The rounds of a pre-copy at its source: look, tell the target what it looks like, send, decide what comes next.
//!
//! Nothing here is in the journal: until the freeze the workload runs as if nothing were, and whatever fails ends the tracking with the
//! connection to the shim.

use super::captured::{Captured, Guards};
use super::choose::memory_bytes;
use super::files::Stage;
use super::live::{self, Live};
use super::missing;
use super::request::Request;
use super::source::SourceRole;
use super::watch::{Beside, Watch};
use crate::shim::Client;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Cause, Phase, RoundDone};
use ferry_model::ids::Hash;
use ferry_model::plan::Plan;
use ferry_model::planning::Method;
use ferry_model::strategy::convergence::{self, Limits, Next};
use ferry_model::strategy::measured::Round;
use ferry_model::strategy::remedy::{self, Possible, Remedy};
use ferry_process::layout;
use ferry_process::records::State;
use ferry_transfer::space::SpaceId;
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::control::{Bulk, Message};
use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Files that changed while rounds ran longer than this are staged once more before the pause, however small they are.
const STAGED_FOR: Duration = Duration::from_secs(1);

/// A look at files that takes longer is followed by another round.
const LOOK_MAX: Duration = Duration::from_millis(5);

/// How often files are staged again because much of them has changed: who writes all the time does not get ahead of the pause.
const STAGINGS_MAX: u32 = 4;

/// Giving back so many pages in the pause costs less than another look before it.
const ASIDE_FEW: u64 = 500;

/// What was sent beside memory while the workload stood still.
pub(super) struct SentBeside {
    /// Of changed files, and of the rest if it was sent.
    pub hashes: Vec<Hash>,
    /// All that is to be sent: the state, too.
    pub whole: bool,
}

impl SourceRole {
    /// Rounds while it runs, until what is left is small or does not get smaller. `method` is what was chosen.
    pub(super) fn rounds(
        &mut self,
        (request, plan, method): (&Request, &Plan, Method),
        stage: &mut Stage,
        streams: Vec<Box<dyn Stream>>,
        hashes: &mut Vec<Hash>,
    ) -> Result<Live> {
        self.ground.recorder.phase(Phase::PreCopy);
        let limits = request.live.limits();
        let mut live = Live::new(streams, &request.live, memory_bytes(plan))?;
        live.adopt(std::mem::take(&mut self.watched));
        let (began, mut stagings, mut looked_long) = (Instant::now(), 0, false);
        let mut share_percent = 100;
        loop {
            self.look(&mut live, stage, hashes)?;
            if std::mem::take(&mut self.target_holds) > 0 {
                live.offer(self.which_held()?);
            }
            if !self.staged && self.capsule {
                // Now that the target's capsule has its inside.
                stage.add_memory(live.memory_points());
                let hash = self.bulk(Bulk::Files, |to| stage.send_memory(false, to))?;
                self.wait_until_taken(hash)?;
                hashes.push(hash);
                self.staged = stage.sends_memory();
            }
            let expected = live.expected_bytes();
            let done = live.round(Watch::new(&mut self.ground.link, &self.ground.recorder, expected))?;
            let measured = live.measured();
            let next = convergence::next(&measured, &limits, live.rounds());
            let (Next::Another { downtime_us }
            | Next::Last { downtime_us }
            | Next::Stuck { downtime_us, .. }) = next;
            // Of a hybrid the pause is not that of what is left.
            let hybrid = method == Method::Hybrid;
            let predicted_downtime_us = (!hybrid).then_some(downtime_us);
            self.ground.recorder.round(RoundDone { predicted_downtime_us, ..done });
            self.ground.node.stands_at("ROUND");
            let another = match hybrid {
                true => self.is_worth_another(&mut live, &limits)?,
                false => matches!(next, Next::Another { .. }),
            };
            if another {
                continue;
            }
            let late = stagings == 0 && began.elapsed() > STAGED_FOR;
            let looked = Instant::now();
            if late || (stagings < STAGINGS_MAX && !looked_long && stage.is_due()) {
                // What it wrote to files meanwhile; the round after it finds what it wrote to memory in that time.
                let hash = self.bulk(Bulk::Files, |to| stage.send_round(to))?;
                self.wait_until_taken(hash)?;
                hashes.push(hash);
                stagings += 1;
                if !hybrid {
                    continue;
                }
            }
            if !hybrid && !looked_long && looked.elapsed() > LOOK_MAX {
                // There are many files. Whatever was written to memory meanwhile is better found by a round than in the pause.
                looked_long = true;
                continue;
            }
            if hybrid {
                self.set_aside(&mut live, request, hashes)?;
                return Ok(live);
            }
            let Next::Stuck { why, .. } = next else { return Ok(live) };
            let possible = Possible { post_copy: self.may_follow, share_percent };
            let wish = request.live.on_no_convergence;
            let choice = remedy::choose(wish, why, &measured, live.expected_bytes(), possible);
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
                Remedy::Switch => {
                    self.set_aside(&mut live, request, hashes)?;
                    return Ok(live);
                }
                Remedy::Stop => return Ok(live),
            }
        }
    }

    /// Whether a hybrid is to make another round.
    fn is_worth_another(&mut self, live: &mut Live, limits: &Limits) -> Result<bool> {
        let more = (live.rounds().len() as u64) < u64::from(limits.rounds_max);
        let worth = if more { live.is_worth_another() } else { Ok(false) };
        worth
            .map_err(|error| live::failed(error, Watch::new(&mut self.ground.link, &self.ground.recorder, 0)))
    }

    /// What is written will follow after the resume: the streams for it, and the target gives back what it has in these places. Each time
    /// that takes a while, in which the workload writes on; what it wrote then is less.
    fn set_aside(&mut self, live: &mut Live, request: &Request, hashes: &mut Vec<Hash>) -> Result<()> {
        self.open_ways(&request.live)?;
        let mut before = u64::MAX;
        loop {
            let aside = live.set_aside();
            let watch = Watch::new(&mut self.ground.link, &self.ground.recorder, 0);
            let aside = aside.map_err(|error| live::failed(error, watch))?;
            let pages = missing::pages(&aside);
            if pages == 0 {
                return Ok(());
            }
            let bytes = missing::to_bytes(&aside);
            hashes.push(self.bulk(Bulk::Aside, |to| std::io::Write::write_all(to, &bytes))?);
            self.wait_for("memory to be given back", |message| matches!(message, Message::Ready))?;
            if pages <= ASIDE_FEW || pages > before / 2 {
                return Ok(());
            }
            before = pages;
        }
    }

    /// The target makes its puppets while the workload runs; of its memory travels what cannot follow after the resume.
    pub(super) fn only_a_look(
        &mut self,
        request: &Request,
        stage: &Stage,
        streams: Vec<Box<dyn Stream>>,
        hashes: &mut Vec<Hash>,
    ) -> Result<Live> {
        let mut live = Live::following(streams, &request.live)?;
        live.adopt(std::mem::take(&mut self.watched));
        self.look(&mut live, stage, hashes)?;
        let done = live.round(Watch::new(&mut self.ground.link, &self.ground.recorder, 0))?;
        self.ground.recorder.round(done);
        Ok(live)
    }

    /// Stops it, and reads what it is: by the end of this it stands still, and stays so.
    pub(super) fn freeze(&mut self) -> Result<()> {
        let recorder = self.ground.recorder.clone();
        let (began, staged) = (Instant::now(), self.staged);
        // What it would send may follow later.
        if let Some(mut live) = if self.ways.is_none() { self.live.take() } else { None } {
            let tracked = live.tracked();
            self.ask(|shim| shim.freeze_and_capture(tracked.clone(), staged))?;
            recorder.spent(Cause::Freeze, began);
            self.captured = Some(self.capture_beside_memory(&mut live, &tracked.into_iter().collect())?);
            self.live = Some(live);
            return Ok(());
        }
        self.ask(if self.clone { Client::freeze_for_a_while } else { Client::freeze })?;
        recorder.spent(Cause::Freeze, began);
        if self.cold {
            // It starts anew: nothing of what it is just now goes along but its files.
            self.captured = Some(Captured::nothing());
            return Ok(());
        }
        let began = Instant::now();
        let tracked = self.live.as_ref().map(Live::tracked).unwrap_or_default();
        self.captured = Some(Captured::read(self.ask(|shim| shim.capture_tracked(tracked, staged))?)?);
        recorder.spent(Cause::Capture, began);
        Ok(())
    }

    /// Sends what of memory was written since the last round, and beside that changed files and the state, which is being read: none waits for
    /// the other. With no change of its mappings since then nothing of memory is left to be sent.
    fn capture_beside_memory(&mut self, live: &mut Live, tracked: &BTreeSet<SpaceId>) -> Result<Captured> {
        let (expected, agreed) = (live.expected_bytes(), live.agreed());
        let (recorder, link) = (self.ground.recorder.clone(), self.ground.link.sender());
        let (beside, (tell, told)) = (Beside::default(), mpsc::sync_channel(1));
        let (captured, round) = std::thread::scope(|scope| {
            let (live, beside_it, recorder_of_it) = (&mut *live, &beside, &recorder);
            let round = scope.spawn(move || {
                let _ending = beside_it.until_dropped(&link);
                let began = Instant::now();
                let round = live.still_scan().and_then(|guards| {
                    // Who waited for it may have failed by now.
                    let _ = tell.send(guards);
                    live.still_round(beside_it)
                });
                recorder_of_it.spent(Cause::Memory, began);
                round
            });
            let captured = self.send_captured(agreed.as_deref(), tracked, &told);
            if captured.is_err() {
                beside.stop();
            }
            let watch = Watch::new(&mut self.ground.link, &recorder, expected);
            watch.until_ended(&beside);
            self.ready = watch.is_ready();
            match (captured, round.join()) {
                (_, Err(_)) => Err(Error::new(Kind::Bug, "The round ended by a panic")),
                // It stands still: nothing more is waited for.
                (Err(error), _) => Err(watch.heard().unwrap_or(error)),
                (Ok(_), Ok(Err(error))) => Err(live::failed(error, watch)),
                (Ok(None), Ok(Ok(_))) => Err(Error::new(Kind::Bug, "What the round found was not heard")),
                (Ok(Some(captured)), Ok(Ok(round))) => Ok((captured, round)),
            }
        })?;
        // It is one of the pause, too.
        self.ground.recorder.round(RoundDone { round: Round { last: true, ..round.round }, ..round });
        Ok(captured)
    }

    /// Sends changed files, and the state as soon as it is read, if the puppets' memory stays as they have it by now: else pages that are
    /// on their way would have to be in their places first. What of it is known by a look at memory is told; None: that has failed.
    fn send_captured(
        &mut self,
        agreed: Option<&State>,
        tracked: &BTreeSet<SpaceId>,
        told: &mpsc::Receiver<Guards>,
    ) -> Result<Option<Captured>> {
        let recorder = self.ground.recorder.clone();
        let mut stage = self.stage.take().ok_or_else(|| Error::new(Kind::Bug, "No files"))?;
        // First: the target puts them in their places while the state is read.
        let began = Instant::now();
        let changes = self.bulk(Bulk::Files, |to| stage.send_changes(to))?;
        recorder.spent(Cause::Files, began);
        let began = Instant::now();
        let mut captured = Captured::read(self.ask(Client::captured)?)?;
        let Ok(guards) = told.recv() else { return Ok(None) };
        captured.add_guards(tracked, &guards)?;
        recorder.spent(Cause::Capture, began);
        let whole = agreed.is_some_and(|agreed| layout::stays(agreed, &captured.envelope.state));
        let mut hashes = vec![changes];
        if whole {
            let began = Instant::now();
            hashes.push(self.bulk(Bulk::Files, |to| stage.send_rest(to))?);
            recorder.spent(Cause::Files, began);
            hashes.push(self.bulk(Bulk::State, |to| std::io::Write::write_all(to, &captured.bytes))?);
        }
        (self.stage, self.sent_beside) = (Some(stage), Some(SentBeside { hashes, whole }));
        Ok(Some(captured))
    }

    /// It runs on, and nothing tracks it.
    pub(super) fn thaw(&mut self) -> Result<()> {
        (self.live, self.tracking) = (None, None);
        let thawed = self.ask(Client::thaw);
        self.pause = None;
        thawed
    }

    /// The round after which nothing is missing but what follows after the resume; the hash over all rounds.
    pub(super) fn last_round(&mut self, mut live: Live, hashes: &mut Vec<Hash>) -> Result<Hash> {
        let began = Instant::now();
        if self.ways.is_some()
            && let Err(error) = live.leave()
        {
            return Err(live::failed(error, Watch::new(&mut self.ground.link, &self.ground.recorder, 0)));
        }
        let done = self.ways.is_none() && live.is_done();
        if !done && !std::mem::take(&mut self.ready) {
            self.wait_for("the target's readiness", |message| matches!(message, Message::Ready))?;
        }
        let expected = live.expected_bytes();
        let watch = Watch::new(&mut self.ground.link, &self.ground.recorder, expected);
        let (round, hash, left, tracking) = live.finish(watch)?;
        if !done {
            self.ground.recorder.round(round);
        }
        if !left.missing.is_empty() {
            self.leave(left, hashes)?;
        }
        if !done {
            self.ground.recorder.spent(Cause::Memory, began);
        }
        self.tracking = Some(tracking);
        Ok(hash)
    }

    /// Looks at the workload, and has the target make its puppets so.
    fn look(&mut self, live: &mut Live, stage: &Stage, hashes: &mut Vec<Hash>) -> Result<()> {
        let tracked = self.ask(Client::track)?;
        let Some(draft) = live.follow(tracked, &|path| stage.brings(path))? else { return Ok(()) };
        hashes.push(self.bulk(Bulk::Draft, |to| std::io::Write::write_all(to, &draft))?);
        self.wait_for("the target's puppets", |message| matches!(message, Message::Ready))
    }
}
