//! Progress on standard error: nothing in the first 250 ms, then at most 30 times a second on a terminal; off a terminal
//! one plain line for each phase. Fed by the events of a move, like every other view of it.

use crate::output::{bytes, span_us};
use ferry_model::api::Exit;
use ferry_model::event::{Event, PagesFollow, Phase, RoundDone, What};
use ferry_sys::say::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Before this, nothing is shown.
const QUIET: Duration = Duration::from_millis(250);

/// Redraws per second at most.
const HZ_MAX: u8 = 30;

/// Shows one thing that goes on.
pub struct Progress {
    began: Instant,
    label: String,
    bar: Option<ProgressBar>,
    terminal: bool,
    enabled: bool,
    phase: Option<(Phase, u64)>,
    /// Lines of the first 250 ms: printed if it takes longer.
    early: Vec<String>,
}

impl Progress {
    /// Shows `label`. Not `enabled` (`--json`): shows nothing.
    pub fn new(label: impl Into<String>, enabled: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            began: Instant::now(),
            label: label.into(),
            bar: None,
            terminal,
            enabled,
            phase: None,
            early: Vec::new(),
        }
    }

    /// Takes an event of a move.
    pub fn event(&mut self, event: &Event) {
        match &event.what {
            What::PhaseStart { phase } => {
                self.phase = Some((*phase, event.at_us));
                self.message(phase_name(*phase));
            }
            What::PhaseEnd { phase } => self.phase_ended(*phase, event.at_us),
            What::Progress { phase, bytes, bytes_total } => {
                self.message(phase_name(*phase));
                self.position(*bytes, *bytes_total);
            }
            What::Note { text } => self.note(text),
            What::Method(chosen) => self.note(&chosen.reason),
            What::Remedy(chosen) => self.note(&chosen.reason),
            What::Round(done) => self.round_ended(done),
            What::End { .. } => self.finish(),
            // Figures of what is over: the summary tells them.
            What::Spent { .. } | What::Outage { .. } => {}
            What::Follow(pages) => self.message(&follow(pages)),
            What::Exited { exit } => self.note(&exited(*exit)),
        }
    }

    /// Shows how far it is.
    pub fn position(&mut self, done: u64, total: u64) {
        if let Some(bar) = self.bar() {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_prefix(format!("{} of {}", bytes(done), bytes(total)));
        }
    }

    /// Shows what is being done.
    pub fn message(&mut self, text: &str) {
        let text = format!("{}: {text}", self.label);
        if let Some(bar) = self.bar() {
            bar.set_message(text);
        }
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn phase_ended(&mut self, phase: Phase, at_us: u64) {
        let began = self.phase.filter(|(open, _)| *open == phase).map_or(at_us, |(_, began)| began);
        if !self.terminal && self.enabled {
            let took = span_us(at_us.saturating_sub(began));
            self.line(format!("{}: {} {took}", self.label, phase_name(phase)));
        }
    }

    fn round_ended(&mut self, done: &RoundDone) {
        let text = round(done);
        self.message(&text);
        if !self.terminal && self.enabled {
            self.line(format!("{}: {text}", self.label));
        }
    }

    /// A note is no progress: it is shown whenever it comes.
    fn note(&mut self, text: &str) {
        match &self.bar {
            _ if !self.enabled => {}
            Some(bar) => bar.println(format!("{}: {text}", self.label)),
            None => say(format_args!("{}: {text}", self.label)),
        }
    }

    fn line(&mut self, text: String) {
        self.early.push(text);
        for line in due(&mut self.early, self.began.elapsed()) {
            say(line);
        }
    }

    fn bar(&mut self) -> Option<&ProgressBar> {
        if !self.enabled || !self.terminal || self.began.elapsed() < QUIET {
            return None;
        }
        Some(self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(HZ_MAX));
            let style = ProgressStyle::with_template("{msg} {wide_bar} {prefix} {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        }))
    }
}

/// The lines that are due: none before it has taken a while, then all.
fn due(early: &mut Vec<String>, elapsed: Duration) -> Vec<String> {
    if elapsed < QUIET { Vec::new() } else { std::mem::take(early) }
}

/// Pages that follow, in a line: what is missing, and how long whoever touched one waited.
pub fn follow(pages: &PagesFollow) -> String {
    let mut text = format!("{} missing", bytes(pages.missing_bytes));
    if pages.faults > 0 {
        let (median, p99) = (span_us(pages.fault_us_median), span_us(pages.fault_us_p99));
        let _ = write!(text, ", {} waits ({median} median, {p99} at the 99th percentile)", pages.faults);
    }
    if !pages.connected {
        text.push_str(", no way to the source");
    }
    text
}

/// How a workload came to its end before its move had.
pub fn exited(exit: Exit) -> String {
    format!("it ended by itself at the target: {exit}")
}

/// A round in a line: what it sent, how fast, how fast memory was dirtied meanwhile, and what pause is expected after it.
pub fn round(done: &RoundDone) -> String {
    let one = &done.round;
    let name = if one.last { "last round".to_owned() } else { format!("round {}", one.number) };
    let mut text = format!("{name}, {} in {}", bytes(one.sent_bytes), span_us(one.duration_us));
    if done.reused_bytes > 0 {
        text.push_str(&format!(", {} were there already", bytes(done.reused_bytes)));
    }
    if let Some(sent) = one.bytes_per_s() {
        text.push_str(&format!(", {}/s sent", bytes(sent)));
    }
    if let Some(dirtied) = one.dirty_bytes_per_s() {
        text.push_str(&format!(", {}/s dirtied", bytes(dirtied)));
    }
    if let Some(us) = done.predicted_downtime_us {
        text.push_str(&format!(", pause now {}", span_us(us)));
    }
    text
}

/// A phase in a word or two.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Plan => "plan",
        Phase::Prepare => "prepare",
        Phase::PreCopy => "pre-copy",
        Phase::Freeze => "freeze",
        Phase::State => "state",
        Phase::Prepared => "prepared",
        Phase::Commit => "commit",
        Phase::Resume => "resume",
        Phase::PostCopy => "post-copy",
        Phase::Finish => "finish",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_says_its_rates_and_the_pause_that_it_leaves() {
        use ferry_model::strategy::measured::Round;
        let one = Round {
            number: 2,
            sent_bytes: 64 << 20,
            dirty_bytes: 32 << 20,
            since_scan_us: 500_000,
            duration_us: 250_000,
            ..Round::default()
        };
        let done = RoundDone { predicted_downtime_us: Some(12_000), ..one.into() };
        assert_eq!(
            round(&done),
            "round 2, 64.0 MiB in 250.0 ms, 256.0 MiB/s sent, 64.0 MiB/s dirtied, pause now 12.0 ms"
        );
        let first = Round { last: true, ..Round::default() };
        assert_eq!(round(&first.into()), "last round, 0 B in 0 µs");
    }

    #[test]
    fn what_is_quick_says_nothing_and_what_is_not_says_all() {
        let mut early = vec!["plan".to_owned()];
        assert_eq!(due(&mut early, Duration::from_millis(249)), Vec::<String>::new());
        early.push("freeze".to_owned());
        assert_eq!(due(&mut early, Duration::from_millis(250)), ["plan", "freeze"]);
        assert_eq!(due(&mut early, Duration::from_millis(251)), Vec::<String>::new());
    }
}
