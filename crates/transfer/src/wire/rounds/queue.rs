//! What waits to be sent: one short queue for all streams, whichever is free takes the next. The end of a round goes to each of them.

use super::digest::RoundDigest;
use crate::space::{Range, SpaceId};
use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Pages, or zeros if there is no content.
pub(super) struct Job {
    pub(super) space: SpaceId,
    pub(super) ranges: Vec<Range>,
    pub(super) bytes: Option<Vec<u8>>,
}

/// What a stream does next.
pub(super) enum Next {
    /// Send this.
    Send(Job),
    /// End this round, and wait for the answer.
    Settle(u64),
    /// Say that nothing follows.
    End,
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to do.
    work: Condvar,
    /// There is room, or a stream has settled, or one has failed.
    done: Condvar,
    jobs_max: usize,
    streams: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    round: u64,
    settled: usize,
    digest: RoundDigest,
    spare: Vec<Vec<u8>>,
    end: bool,
    failed: Option<(io::ErrorKind, String)>,
}

impl State {
    fn ok(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some((kind, what)) => Err(io::Error::new(*kind, what.clone())),
        }
    }
}

impl Queue {
    /// For so many streams: while each sends one job, the next one is ready.
    pub(super) fn new(streams: usize) -> Self {
        let state = Mutex::new(State::default());
        Self { state, work: Condvar::new(), done: Condvar::new(), jobs_max: streams + 2, streams }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(condition: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        condition.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job as soon as there is room.
    pub(super) fn push(&self, job: Job) -> io::Result<()> {
        let mut state = self.lock();
        while state.failed.is_none() && state.jobs.len() >= self.jobs_max {
            state = Self::wait(&self.done, state);
        }
        state.ok()?;
        state.jobs.push_back(job);
        self.work.notify_one();
        Ok(())
    }

    /// Waits until every stream has settled, and gives what was sent in this round.
    pub(super) fn settle(&self) -> io::Result<RoundDigest> {
        let mut state = self.lock();
        state.ok()?;
        state.round += 1;
        state.settled = 0;
        self.work.notify_all();
        while state.failed.is_none() && state.settled < self.streams {
            state = Self::wait(&self.done, state);
        }
        state.ok()?;
        Ok(std::mem::take(&mut state.digest))
    }

    /// What a stream that has settled `round` does next; an error when another one has failed. Waits until there is something.
    pub(super) fn next(&self, round: u64) -> io::Result<Next> {
        let mut state = self.lock();
        loop {
            state.ok()?;
            if let Some(job) = state.jobs.pop_front() {
                self.done.notify_all();
                return Ok(Next::Send(job));
            }
            if state.round > round {
                return Ok(Next::Settle(state.round));
            }
            if state.end {
                return Ok(Next::End);
            }
            state = Self::wait(&self.work, state);
        }
    }

    /// A stream has settled, and this is what it sent.
    pub(super) fn settled(&self, digest: &mut RoundDigest) {
        let mut state = self.lock();
        state.digest.merge(digest);
        state.settled += 1;
        self.done.notify_all();
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        self.lock().end = true;
        self.work.notify_all();
    }

    /// Everything stops; the first reason is the one that is told. What waits is dropped.
    pub(super) fn fail(&self, error: &io::Error) {
        let mut state = self.lock();
        state.failed.get_or_insert_with(|| (error.kind(), error.to_string()));
        state.jobs.clear();
        self.work.notify_all();
        self.done.notify_all();
    }

    /// A buffer that was used before, or a new one.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Keeps a buffer for the next.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let mut state = self.lock();
        if state.spare.len() < self.jobs_max + self.streams {
            state.spare.push(buffer);
        }
    }
}
