//! The event stream of one move: everything that happened, with its time, for whoever follows now or reads later.

use ferry_model::api::Exit;
use ferry_model::error::Error;
use ferry_model::event::{Cause, Event, MethodChosen, PagesFollow, Phase, RemedyChosen, RoundDone, What};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most events that one move keeps. Progress beyond that replaces the progress before it.
const EVENTS_MAX: usize = 10_000;

/// Collects events; many may wait for the next.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    state: Mutex<State>,
    changed: Condvar,
    /// Set before the entry is on disk after which giving up is no longer this side's to say.
    decided: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    open: Option<Phase>,
    ended: bool,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            state: Mutex::default(),
            changed: Condvar::new(),
            decided: AtomicBool::new(false),
        }
    }
}

impl Recorder {
    /// When the move began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Notes what happened, now.
    pub fn note(&self, what: What) {
        let mut state = self.lock();
        self.push(&mut state, what);
    }

    /// From here on the move can no longer be given up.
    pub fn decide(&self) {
        self.decided.store(true, Ordering::SeqCst);
    }

    /// Whether it can no longer be given up.
    #[must_use]
    pub fn is_decided(&self) -> bool {
        self.decided.load(Ordering::SeqCst)
    }

    /// Notes a sentence.
    pub fn say(&self, text: impl Into<String>) {
        self.note(What::Note { text: text.into() });
    }

    /// Notes what may be told more than once, and happened once.
    pub fn note_once(&self, what: What) {
        let mut state = self.lock();
        if !state.events.iter().any(|event| event.what == what) {
            self.push(&mut state, what);
        }
    }

    /// Notes that there is no way to the other side, as far as pages follow and that is not known yet.
    pub fn cut(&self) {
        let mut state = self.lock();
        let last = state.events.iter().rev().find_map(|event| match event.what {
            What::Follow(pages) => Some(pages),
            _ => None,
        });
        let last = last.unwrap_or(PagesFollow { connected: true, ..PagesFollow::default() });
        if last.connected {
            self.push(&mut state, What::Follow(PagesFollow { connected: false, ..last }));
        }
    }

    /// How the workload ended at the target by itself, if it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        ferry_model::event::exit(&self.lock().events)
    }

    /// A phase begins; the one before it ends.
    pub fn phase(&self, phase: Phase) {
        let mut state = self.lock();
        if state.open == Some(phase) {
            return;
        }
        self.close(&mut state);
        state.open = Some(phase);
        self.push(&mut state, What::PhaseStart { phase });
    }

    /// Notes how much of the pause went to one cause.
    pub fn spent(&self, cause: Cause, since: Instant) {
        self.note(What::Spent { cause, us: micros(since.elapsed()) });
    }

    /// Notes a round that is over.
    pub fn round(&self, done: RoundDone) {
        self.note(What::Round(done));
    }

    /// Notes how memory travels, and why.
    pub fn method(&self, chosen: MethodChosen) {
        self.note(What::Method(chosen));
    }

    /// Notes what is done about rounds that do not help.
    pub fn remedy(&self, chosen: impl Into<RemedyChosen>) {
        self.note(What::Remedy(chosen.into()));
    }

    /// Notes progress within the open phase.
    pub fn progress(&self, bytes: u64, bytes_total: u64) {
        let mut state = self.lock();
        if let Some(phase) = state.open {
            self.push(&mut state, What::Progress { phase, bytes, bytes_total });
        }
    }

    /// The move ended.
    pub fn end(&self, error: Option<Error>) {
        let mut state = self.lock();
        if !state.ended {
            self.close(&mut state);
            self.push(&mut state, What::End { error });
            state.ended = true;
        }
    }

    /// Everything so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Events from the one numbered `from` on, waiting at most `time_max` for the first of them; with whether the move has ended.
    #[must_use]
    pub fn follow(&self, from: usize, time_max: Duration) -> (Vec<Event>, bool) {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, time_max, |state| state.events.len() <= from && !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        (state.events.get(from..).unwrap_or_default().to_vec(), state.ended)
    }

    fn close(&self, state: &mut State) {
        if let Some(phase) = state.open.take() {
            self.push(state, What::PhaseEnd { phase });
        }
    }

    fn push(&self, state: &mut State, what: What) {
        if state.ended {
            return;
        }
        let event = Event { at_us: micros(self.began.elapsed()), what };
        let replaces = state.events.len() >= EVENTS_MAX && matches!(event.what, What::Progress { .. });
        match state.events.last_mut() {
            Some(last) if replaces && matches!(last.what, What::Progress { .. }) => *last = event,
            _ => state.events.push(event),
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_close_each_other_and_the_end_is_the_end() {
        let recorder = Recorder::default();
        recorder.phase(Phase::Plan);
        recorder.phase(Phase::Prepare);
        recorder.end(None);
        recorder.say("too late");
        let what: Vec<What> = recorder.events().into_iter().map(|event| event.what).collect();
        assert_eq!(
            what,
            vec![
                What::PhaseStart { phase: Phase::Plan },
                What::PhaseEnd { phase: Phase::Plan },
                What::PhaseStart { phase: Phase::Prepare },
                What::PhaseEnd { phase: Phase::Prepare },
                What::End { error: None },
            ]
        );
    }

    #[test]
    fn a_follower_misses_nothing_and_is_woken() {
        let recorder = std::sync::Arc::new(Recorder::default());
        let follower = {
            let recorder = recorder.clone();
            std::thread::spawn(move || {
                let mut seen = Vec::new();
                loop {
                    let (events, ended) = recorder.follow(seen.len(), Duration::from_secs(10));
                    seen.extend(events);
                    if ended {
                        return seen;
                    }
                }
            })
        };
        for number in 0..100 {
            recorder.say(number.to_string());
        }
        recorder.end(None);
        let seen = follower.join().unwrap();
        assert_eq!(seen.len(), 101);
        assert_eq!(seen, recorder.events());
    }
}
