//! How memory travels: what was asked for, or what a short look at the running workload and the last moves over the same link predict.
//!
//! The look uses what the rounds need anyway: what tracks the memory is kept for them. Nothing is looked at where all of it
//! fits into the pause.

use super::estimate::{self, Watched};
use super::request::Request;
use super::source::SourceRole;
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
        let chosen = match request.method {
            Method::Auto => self.predict(request, plan)?,
            asked => {
                let Some(method) = in_words(asked) else { return Ok(asked) };
                let reason = match asked {
                    Method::PostCopy | Method::Hybrid => {
                        "it was asked for; until the last page is in, both hosts are needed"
                    }
                    _ => "it was asked for",
                };
                let reason = reason.to_owned();
                MethodChosen { method, reason, predictions: Vec::new() }
            }
        };
        let method = match chosen.method {
            prediction::Method::StopAndCopy => Method::StopAndCopy,
            prediction::Method::PreCopy => Method::PreCopy,
            prediction::Method::PostCopy => Method::PostCopy,
            prediction::Method::Hybrid => Method::Hybrid,
        };
        self.ground.recorder.method(chosen);
        // A cold move has no memory to choose for.
        Ok(if request.method == Method::Auto { method } else { request.method })
    }

    fn predict(&mut self, request: &Request, plan: &Plan) -> Result<MethodChosen> {
        let bytes = memory_bytes(plan);
        let tracking = self.ground.node.facts().kernel_features.iter().any(|each| each == TRACKS_WRITES);
        let can = Abilities { tracking, post_copy: false };
        let limits = request.live.limits();
        let before = self.ground.node.before(&self.ground.peer);
        let cap = request.live.bandwidth_bytes_per_s_max;
        // Until it is looked at, all of it may be written to all the time.
        let unseen =
            Measured { bytes, dirty_bytes_per_s: u64::MAX, working_set_bytes: bytes, ..Measured::default() };
        let unseen = before.with(&unseen, cap);
        if !tracking || unseen.time_us(bytes) <= limits.downtime_us_max {
            return Ok(MethodChosen::predicted(&unseen, &limits, can));
        }
        let (seen, watched) = match self.look_at_it() {
            Ok(looked) => looked,
            Err(error) => {
                self.ground.recorder.say(format!("It was not looked at before: {error}"));
                (unseen, Vec::new())
            }
        };
        let chosen = MethodChosen::predicted(&before.with(&seen, cap), &limits, can);
        if matches!(chosen.method, prediction::Method::PreCopy | prediction::Method::Hybrid) {
            self.watched = watched;
        } else {
            // Closing what tracks ends the tracking; the shim forgets whom it was for.
            drop(watched);
            self.ask(Client::untrack)?;
        }
        Ok(chosen)
    }

    fn look_at_it(&mut self) -> Result<(Measured, Vec<Watched>)> {
        let mut watched = self.ask(Client::track).and_then(estimate::watch)?;
        let seen = estimate::look(&mut watched, &LOOKS)?;
        let measured = Measured {
            bytes: seen.bytes,
            bytes_in_pause: seen.bytes_in_pause,
            dirty_bytes_per_s: seen.dirty_bytes_per_s,
            working_set_bytes: seen.working_set_bytes,
            ..Measured::default()
        };
        Ok((measured, watched))
    }
}

fn in_words(method: Method) -> Option<prediction::Method> {
    match method {
        Method::PreCopy => Some(prediction::Method::PreCopy),
        Method::StopAndCopy => Some(prediction::Method::StopAndCopy),
        Method::PostCopy => Some(prediction::Method::PostCopy),
        Method::Hybrid => Some(prediction::Method::Hybrid),
        Method::Auto | Method::Cold | Method::Warm => None,
    }
}

/// Bytes of memory that the plan counted.
pub(super) fn memory_bytes(plan: &Plan) -> u64 {
    let memory = plan.items.iter().map(|item| &item.resource).filter(|each| each.sort == "memory");
    memory.map(|each| each.bytes).sum()
}
