//! How memory travels: what was asked for, or what a short look at the running workload and the last moves over the same link predict.
//!
//! The look uses what the rounds need anyway: what tracks the memory is kept for them. Nothing is looked at where all of it
//! fits into the pause.

use super::request::Request;
use super::source::SourceRole;
use super::{estimate, planning};
use crate::shim::Client;
use ferry_model::error::Result;
use ferry_model::event::MethodChosen;
use ferry_model::plan::Plan;
use ferry_model::planning::{Method, TRACKS_WRITES};
use ferry_model::strategy::auto::Abilities;
use ferry_model::strategy::measured::Measured;
use ferry_model::strategy::prediction;
use std::time::Duration;

/// Times between the looks of a move: it waits for them. The first gives the rate, both how widely it writes.
const LOOKS: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(100)];

impl SourceRole {
    /// How memory travels, said before it does.
    pub(super) fn choose(&mut self, request: &Request, plan: &Plan) -> Result<Method> {
        let chosen = match prediction::Method::of(request.method) {
            Some(asked) => MethodChosen::asked(asked),
            None if request.method == Method::Auto => self.predict(request, plan)?,
            // A cold move has no memory to choose for.
            None => return Ok(request.method),
        };
        let method = chosen.method.into();
        self.ground.recorder.method(chosen);
        Ok(method)
    }

    fn predict(&mut self, request: &Request, plan: &Plan) -> Result<MethodChosen> {
        let bytes = memory_bytes(plan);
        let tracking = planning::has(&self.ground.node.facts(), TRACKS_WRITES);
        let can = Abilities { tracking, post_copy: self.may_follow };
        let limits = request.live.limits();
        let before = self.ground.node.before(&self.ground.peer);
        let over_link = |seen| before.with(&seen, request.live.bandwidth_bytes_per_s_max);
        // Until it is looked at, all of it may be written to all the time.
        let unseen =
            Measured { bytes, dirty_bytes_per_s: u64::MAX, working_set_bytes: bytes, ..Measured::default() };
        let unseen = over_link(unseen);
        if !tracking || unseen.time_us(bytes) <= limits.downtime_us_max {
            return Ok(MethodChosen::predicted(&unseen, &limits, can));
        }
        let watched = self.ask(Client::track).and_then(estimate::watch);
        let looked = watched.and_then(|mut watched| Ok((estimate::look(&mut watched, &LOOKS)?, watched)));
        let (seen, watched, can) = match looked {
            Ok((seen, watched)) => (over_link(seen.measured()), watched, can),
            Err(error) => {
                self.ground.recorder.say(format!("It was not looked at before: {error}"));
                (unseen, Vec::new(), Abilities { tracking: false, ..can })
            }
        };
        let chosen = MethodChosen::predicted(&seen, &limits, can);
        if matches!(chosen.method, prediction::Method::PreCopy | prediction::Method::Hybrid) {
            self.watched = watched;
        } else {
            // Closing what tracks ends the tracking; the shim forgets whom it was for.
            drop(watched);
            self.ask(Client::untrack)?;
        }
        Ok(chosen)
    }
}

/// Bytes of memory that the plan counted.
pub(super) fn memory_bytes(plan: &Plan) -> u64 {
    let memory = plan.items.iter().map(|item| &item.resource).filter(|each| each.sort == "memory");
    memory.map(|each| each.bytes).sum()
}
