//! Connections that the program has closed and that have not told their peers everything.
//!
//! Nobody has a descriptor of such a connection, so it can be neither read nor moved: what it has still to send would be lost with the
//! source. It goes out by itself as soon as the peer takes it, so it is waited for: while the workload runs, where it costs nothing, and
//! then once more for what was closed just before the freeze, with the network still open. A peer that takes too long stands in the way
//! of the move, by name.
//!
//! Only where the workload has a network namespace of its own: elsewhere nothing tells whose such a connection was.

use super::workload::{Workload, no_capsule};
use ferry_model::error::{Error, Kind, Result};
use ferry_sys::inet_diag::{Orphan, orphans, orphans_anywhere};
use ferry_sys::netlink::{Route, in_namespace};
use rustix::fd::AsFd;
use std::io;
use std::time::{Duration, Instant};

/// How long the running workload is waited for.
const RUNNING_MAX: Duration = Duration::from_secs(2);

/// How long the frozen one is waited for, at most.
const FROZEN_MAX: Duration = Duration::from_millis(200);

/// How often is looked: running and frozen.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(1));

impl Workload {
    /// Before the freeze: waits until what is closed now has been told. What is closed meanwhile is not waited for.
    ///
    /// # Errors
    /// A peer that has not taken it in time.
    pub(super) fn wait_for_closed(&self) -> Result<()> {
        let first = self.orphans()?;
        if first.is_empty() {
            return Ok(());
        }
        let same = |a: &Orphan, b: &Orphan| (a.local, a.remote) == (b.local, b.remote);
        self.wait_while(RUNNING_MAX, LOOKS.0, |now| now.retain(|one| first.iter().any(|old| same(old, one))))
    }

    /// After the freeze, before the lock: waits for all.
    ///
    /// # Errors
    /// As [`Self::wait_for_closed`].
    pub(super) fn wait_for_last_closed(&self) -> Result<()> {
        self.wait_while(FROZEN_MAX, LOOKS.1, |_| {})
    }

    fn wait_while(&self, time_max: Duration, look: Duration, pick: impl Fn(&mut Vec<Orphan>)) -> Result<()> {
        let end = Instant::now() + time_max;
        loop {
            let mut left = self.orphans()?;
            pick(&mut left);
            match left.first() {
                None => return Ok(()),
                Some(orphan) if Instant::now() > end => return Err(refusal(orphan)),
                Some(_) => std::thread::sleep(look),
            }
        }
    }

    fn orphans(&self) -> Result<Vec<Orphan>> {
        let own = self.record.as_ref().is_some_and(|record| record.spec.network.is_some());
        // Where it cannot be counted it is looked for.
        if !own || orphans_anywhere().is_ok_and(|count| count == 0) {
            return Ok(Vec::new());
        }
        let namespace = self.capsule.as_ref().ok_or_else(no_capsule)?.namespace("net")?;
        let found = in_namespace(namespace.as_fd(), Route::open_diag).and_then(|mut diag| orphans(&mut diag));
        match found {
            // A kernel without diag for TCP: nothing of it is known, as of all that such a kernel does not show.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            found => found.map_err(|e| {
                let what = "The connections that the workload has closed could not be listed";
                Error::from_source(Kind::Unable, &e).context(what)
            }),
        }
    }
}

fn refusal(orphan: &Orphan) -> Error {
    let Orphan { local, remote, unacknowledged } = orphan;
    let what = match unacknowledged {
        0 | 1 => "its end".to_owned(),
        bytes => format!("{} bytes", bytes - 1),
    };
    let message = format!(
        "The program has closed its connection {local} with {remote}, which has not taken {what} yet"
    );
    Error::new(Kind::Refused, message)
        .hint("Move it again when the peer has read on")
        .hint("or with --end-connections, which resets the workload's connections with others")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_peer_and_what_it_has_not_taken() {
        let orphan = Orphan {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.2:4711".parse().unwrap(),
            unacknowledged: 1001,
        };
        let error = refusal(&orphan);
        assert!(error.message.contains("10.0.0.2:4711") && error.message.contains("1000 bytes"), "{error:?}");
    }
}
