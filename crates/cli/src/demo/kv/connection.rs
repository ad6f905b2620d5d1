//! One verifying connection: it owns some keys, knows each one's version, and so knows what every reply must be.
//!
//! Requests are due at fixed times (an open loop), and a reply's delay is counted from the moment at which its request was due:
//! a server that stands still for 100 ms is seen to stand still for 100 ms, also by a client that waited politely.

use super::dialect::Dialect;
use super::protocol::{Operation, Request, fill_value, mix};
use super::report::Report;
use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests under way while all keys are written or read in one go.
const SWEEP_DEPTH: usize = 16;

/// What a connection does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Its number; it owns the keys that leave this remainder.
    pub number: u64,
    /// Number of all connections.
    pub of: u64,
    /// Number of all keys.
    pub keys: u64,
    /// Time between two bursts of requests.
    pub spacing: Duration,
    /// Requests in a burst: all are under way before the first reply is taken.
    pub burst: usize,
}

/// A request under way.
struct Pending {
    id: u64,
    key: u64,
    operation: Operation,
    /// The version that the reply must tell of.
    version: u32,
    due: Instant,
}

/// A connection with what it knows.
pub struct Connection<'a> {
    plan: Plan,
    dialect: Box<dyn Dialect>,
    versions: Vec<u32>,
    random: u64,
    next_id: u64,
    answered: u64,
    pending: VecDeque<Pending>,
    value: Vec<u8>,
    report: &'a Mutex<Report>,
}

impl<'a> Connection<'a> {
    /// Over an open connection.
    pub fn new(plan: Plan, dialect: Box<dyn Dialect>, report: &'a Mutex<Report>) -> Self {
        lock(report).connections += 1;
        Self {
            plan,
            dialect,
            versions: vec![0; plan.keys.saturating_sub(plan.number).div_ceil(plan.of) as usize],
            random: plan.number,
            next_id: 1,
            answered: 0,
            pending: VecDeque::new(),
            value: Vec::new(),
            report,
        }
    }

    /// Writes every key that it owns for the first time, for a server that begins empty.
    pub fn fill(&mut self) -> io::Result<()> {
        let mut open = 0;
        for place in 0..self.versions.len() {
            let (key, id) = (self.key(place), self.id());
            fill_value(key, 0, &mut self.value);
            let request = Request { id, operation: Operation::Put, key, value: self.value.clone() };
            self.dialect.send(&request)?;
            self.answered += 1;
            open += 1;
            if open == SWEEP_DEPTH {
                self.dialect.discard(std::mem::take(&mut open))?;
            }
        }
        self.dialect.discard(open)
    }

    /// Asks and checks until `stop` says so, then reads every key it owns once more. A fault of the connection ends it.
    pub fn work(&mut self, stop: &dyn Fn() -> bool) {
        if let Err(error) = self.steps(stop) {
            let mut report = lock(self.report);
            report.connections_broken += 1;
            report.replies_lost += self.pending.len() as u64;
            report.fault(format!("connection {}: {error}", self.plan.number));
        }
    }

    fn steps(&mut self, stop: &dyn Fn() -> bool) -> io::Result<()> {
        let mut due = Instant::now();
        while !stop() {
            due += self.plan.spacing;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            for _ in 0..self.plan.burst {
                self.ask(due)?;
            }
            // Taken as soon as they come: a reply that lies in the socket would count as late.
            while !self.pending.is_empty() {
                self.hear(true)?;
            }
            // After an outage: requests that were due meanwhile are not made up for.
            due = due.max(Instant::now().checked_sub(self.plan.spacing).unwrap_or(due));
        }
        for place in 0..self.versions.len() {
            self.ask_for(place, Operation::Get, Instant::now())?;
            while self.pending.len() >= SWEEP_DEPTH {
                self.hear(false)?;
            }
        }
        while !self.pending.is_empty() {
            self.hear(false)?;
        }
        Ok(())
    }

    fn ask(&mut self, due: Instant) -> io::Result<()> {
        let word = mix(&mut self.random);
        let place = (word >> 8) as usize % self.versions.len();
        let operation = if word.is_multiple_of(2) { Operation::Put } else { Operation::Get };
        self.ask_for(place, operation, due)
    }

    fn ask_for(&mut self, place: usize, operation: Operation, due: Instant) -> io::Result<()> {
        let (key, id) = (self.key(place), self.id());
        let version = self.versions[place];
        self.pending.push_back(Pending { id, key, operation, version, due });
        let mut value = Vec::new();
        if operation == Operation::Put {
            self.versions[place] += 1;
            fill_value(key, version + 1, &mut value);
        }
        self.dialect.send(&Request { id, operation, key, value })
    }

    fn id(&mut self) -> u64 {
        let id = (self.plan.number << 48) | self.next_id;
        self.next_id += 1;
        id
    }

    /// The key at a place of the own ones.
    fn key(&self, place: usize) -> u64 {
        self.plan.number + place as u64 * self.plan.of
    }

    fn hear(&mut self, timed: bool) -> io::Result<()> {
        let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server");
        let answer = self.dialect.receive()?.ok_or_else(closed)?;
        let mut report = lock(self.report);
        let number = self.plan.number;
        // A dialect without ids answers in order, and nothing else can be told from it than the content.
        let id = answer.id.or(self.pending.front().map(|pending| pending.id));
        let Some(id) = id.filter(|id| self.pending.front().is_some_and(|pending| pending.id <= *id)) else {
            report.replies_doubled += 1;
            report.fault(format!("connection {number}: a reply that nobody waits for, {id:?}"));
            return Ok(());
        };
        // Replies come in the order of the requests: whatever stands before this one was lost.
        while self.pending.front().is_some_and(|pending| pending.id < id) {
            self.pending.pop_front();
            report.replies_lost += 1;
            self.answered += 1;
        }
        let Some(pending) = self.pending.pop_front() else { return Ok(()) };
        self.answered += 1;
        if let Some(count) = answer.count.filter(|count| *count != self.answered) {
            let twice = count > self.answered;
            let sum = if twice { &mut report.replies_doubled } else { &mut report.replies_lost };
            *sum += count.abs_diff(self.answered);
            let sent = self.answered;
            report.fault(format!(
                "connection {number}: the server counts {count} requests where {sent} were sent"
            ));
            self.answered = count;
        }
        fill_value(pending.key, pending.version, &mut self.value);
        let right = answer.value.as_deref().is_some_and(|value| match pending.operation {
            Operation::Get => value == self.value,
            // Of the old value, its beginning will do: it names key and version.
            Operation::Put => value.len() >= 8 && self.value.starts_with(&value[..8]),
        });
        if right {
            report.replies += 1;
        } else {
            report.replies_wrong += 1;
            report.fault(format!(
                "connection {}: {:?} of key {} at version {} got {:02x?}",
                self.plan.number,
                pending.operation,
                pending.key,
                pending.version,
                answer.value.as_ref().map(|value| &value[..value.len().min(8)])
            ));
        }
        if timed {
            report.waited(pending.due.elapsed().as_secs_f64() * 1e3);
        }
        Ok(())
    }
}

/// Locks, whatever another thread did.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
