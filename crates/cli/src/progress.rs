//! Progress on standard error: nothing in the first 250 ms, then at most 30 times a second on a terminal; off a terminal
//! one plain line for each phase. Fed by the events of a move, like every other view of it.

use crate::output::{bytes, span_us};
use ferry_model::event::{Event, Phase, What};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
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
}

impl Progress {
    /// Shows `label`. Not `enabled` (`--json`): shows nothing.
    pub fn new(label: impl Into<String>, enabled: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { began: Instant::now(), label: label.into(), bar: None, terminal, enabled, phase: None }
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
            What::Note { text } => self.line(text),
            What::End { .. } => self.finish(),
            #[allow(unreachable_patterns, reason = "the stream may grow")]
            _ => {}
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
            eprintln!("{}: {} {}", self.label, phase_name(phase), span_us(at_us.saturating_sub(began)));
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            _ if !self.enabled => {}
            Some(bar) => bar.println(format!("{}: {text}", self.label)),
            None => eprintln!("{}: {text}", self.label),
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
