//! What a move would cost, before it is made: what the workload does is measured now, what the link and a pause cost is taken from
//! the last moves to the same host, and where there was none, assumed. Each figure says which.

use crate::node::Node;
use ferry_model::api::{Estimate, EstimateRequest, Move, MoveState};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::event::{Cause, MethodChosen, What};
use ferry_model::ids::HostName;
use ferry_model::planning::Method;
use ferry_model::strategy::auto::{self, Abilities};
use ferry_model::strategy::measured::Measured;

/// Bytes in a second where nothing was measured: what one encrypted stream carried on the slowest machine that was measured.
const BANDWIDTH_ASSUMED: u64 = 300 << 20;

/// What a pause costs beside memory where nothing was measured, microseconds.
const FIXED_ASSUMED_US: u64 = 30_000;

/// One page fetched over the link, microseconds: assumed, until moves measure it.
const FAULT_ASSUMED_US: u64 = 200;

/// Fewer bytes than this say nothing about a link: the first packets are slow.
const SENT_MIN: u64 = 8 << 20;

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
        let before = self.moves_to(&asked.to)?;
        let mut assumed = Vec::new();
        let mut take = |found: Option<u64>, otherwise: u64, what: &str, value: &dyn Fn(u64) -> String| {
            let (figure, from) = match found {
                Some(figure) => (figure, format!("as the last move to {} had it", asked.to)),
                None => (otherwise, "assumed: no move has measured it yet".to_owned()),
            };
            assumed.push(format!("{what}: {}, {from}", value(figure)));
            figure
        };
        let mib = |rate: u64| format!("{} MiB/s", rate >> 20);
        let ms = |us: u64| format!("{:.1} ms", us as f64 / 1e3);
        let link = take(before.iter().rev().find_map(bandwidth), BANDWIDTH_ASSUMED, "the link", &mib);
        let fixed_us =
            take(before.iter().rev().find_map(fixed_us), FIXED_ASSUMED_US, "a pause beside memory", &ms);
        let fault_us = take(None, FAULT_ASSUMED_US, "a page fetched on demand", &ms);
        let bandwidth_bytes_per_s = asked.live.bandwidth_bytes_per_s_max.map_or(link, |most| most.min(link));
        let measured = Measured {
            bytes: seen.bytes,
            bytes_in_pause: seen.bytes_in_pause,
            dirty_bytes_per_s: seen.dirty_bytes_per_s,
            working_set_bytes: seen.working_set_bytes,
            bandwidth_bytes_per_s,
            fixed_us,
            fault_us,
        };
        let limits = asked.live.limits();
        let can = Abilities { tracking: true, post_copy: false };
        let choice = auto::choose(&measured, &limits, can);
        let predictions = auto::all(&measured, &limits).into_iter().map(|(_, one)| one).collect();
        Ok(Estimate {
            workload: id,
            source: here,
            target: asked.to.clone(),
            measured,
            looked_us: seen.looked_us,
            chosen: MethodChosen::by_prediction(&choice, predictions),
            assumed,
        })
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

/// What the link carried in a second: the first round's, which is the longest, else all memory in the time that it took.
fn bandwidth(one: &Move) -> Option<u64> {
    let round = one.events.iter().find_map(|event| match &event.what {
        What::Round(done) if done.round.sent_bytes >= SENT_MIN => done.round.bytes_per_s(),
        _ => None,
    });
    let sums = &one.summary;
    let in_pause = || {
        let us = sums.spent.iter().find(|spent| spent.cause == Cause::Memory)?.us;
        let bytes = sums.sent_in_pause_bytes;
        let rate = u128::from(bytes) * 1_000_000 / u128::from(us.max(1));
        (bytes >= SENT_MIN).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
    };
    round.or_else(in_pause).filter(|rate| *rate > 0)
}

/// What its pause took beside memory.
fn fixed_us(one: &Move) -> Option<u64> {
    let sums = &one.summary;
    let memory_us = sums.spent.iter().find(|spent| spent.cause == Cause::Memory).map_or(0, |spent| spent.us);
    Some(sums.downtime_us?.saturating_sub(memory_us)).filter(|us| *us > 0)
}
