//! What a move would cost, before it is made: what the workload does is measured now, what the link and a pause cost is taken from
//! the last moves to the same host, and where there was none, assumed. Each figure says which.

use super::request;
use crate::node::Node;
use ferry_model::api::{Estimate, EstimateRequest, Move, MoveState};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::MethodChosen;
use ferry_model::ids::HostName;
use ferry_model::planning::Method;
use ferry_model::strategy::auto::Abilities;
use ferry_model::strategy::before::Before;
use ferry_session::movement::Request;

/// Most moves that are looked into for figures.
const LOOKED_INTO_MAX: usize = 20;

impl Node {
    /// Measures the workload and predicts.
    pub fn estimate(&self, workload: &str, asked: &EstimateRequest) -> Result<Estimate> {
        asked.live.check(Method::Auto)?;
        let here = self.identity().name().clone();
        if asked.to == here {
            let text = format!("{here} is where the workload already runs");
            return Err(Error::new(Kind::Usage, text).hint("name another host: ferry host ls"));
        }
        let id = self.workloads.find(workload)?;
        self.workloads.client(id)?;
        let seen = self.movements()?.observe(id)?;
        let looked_us = seen.looked_us;
        let before = self.shown_before(&asked.to);
        let mut assumed = Vec::new();
        let mut tell = |shown: bool, what: &str, value: String| {
            let from = if shown {
                format!("as the last move to {} had it", asked.to)
            } else {
                "assumed: no move has measured it yet".to_owned()
            };
            assumed.push(format!("{what}: {value}, {from}"));
        };
        let seen = seen.measured();
        let taken = before.with(&seen, None);
        let ms = |us: u64| format!("{:.1} ms", us as f64 / 1e3);
        let link = format!("{} MiB/s", taken.bandwidth_bytes_per_s >> 20);
        tell(before.bandwidth_bytes_per_s.is_some(), "the link", link);
        tell(before.fixed_us.is_some(), "a pause beside memory", ms(taken.fixed_us));
        tell(before.fault_us.is_some(), "a page fetched on demand", ms(taken.fault_us));
        let measured = before.with(&seen, asked.live.bandwidth_bytes_per_s_max);
        let asking = Request { live: asked.live, ..request(id, &asked.to, Method::Auto)? };
        let post_copy = self.movements()?.may_follow(&asking).unwrap_or_else(|error| {
            assumed.push(format!(
                "pages follow after the resume: no, since {} could not be asked: {error}",
                asked.to
            ));
            false
        });
        let can = Abilities { tracking: true, post_copy };
        let chosen = MethodChosen::predicted(&measured, &asked.live.limits(), can);
        Ok(Estimate {
            workload: id,
            source: here,
            target: asked.to.clone(),
            measured,
            looked_us,
            chosen,
            assumed,
        })
    }

    /// What earlier moves to `host` have shown. What cannot be read shows nothing.
    pub(super) fn shown_before(&self, host: &HostName) -> Before {
        let mut before = Before::default();
        for one in self.moves_to(host).unwrap_or_default() {
            before.add(&one.events);
        }
        before
    }

    /// Moves from here to `host` that went well, with their events, the newest last.
    fn moves_to(&self, host: &HostName) -> Result<Vec<Move>> {
        let all = self.list_moves()?;
        let good = |one: &&Move| one.target == *host && one.state == MoveState::Done;
        let mut ids: Vec<_> = all.iter().filter(good).rev().take(LOOKED_INTO_MAX).map(|one| one.id).collect();
        ids.reverse();
        Ok(ids.into_iter().filter_map(|id| self.get_move(&id.to_string()).ok()).collect())
    }
}
