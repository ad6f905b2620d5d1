//! Packets for the workload while it stands still: kept from the lock on, delivered after a thaw, handed out after a commit.
//!
//! An improvement and not a condition: where they cannot be kept they are lost as on any cut line, and their senders send them again.

use super::network;
use super::workload::{Workload, no_capsule};
use ferry_model::error::{Error, Kind, Result};
use ferry_network::hold::{Frame, Holder, deliver};
use ferry_network::host_end_name;
use ferry_sys::say::say;

impl Workload {
    /// Makes ready to keep packets: while the workload still runs, for it takes a moment.
    pub(super) fn open_holder(&mut self) {
        let network = self.record.as_ref().and_then(|record| record.spec.network.as_ref());
        let (Some(net), Some(capsule)) = (network, &self.capsule) else { return };
        if self.holder.is_some() {
            return;
        }
        let opened = network::capture(capsule).and_then(|own| Ok(Holder::open(&net.bridge, own)?));
        match opened {
            Ok(holder) => self.holder = Some(holder),
            Err(error) => say(format_args!("Packets of the pause are not kept: {error}")),
        }
    }

    /// Locks the network, and keeps what comes from now on.
    pub(super) fn lock_and_hold(&mut self) -> Result<()> {
        if let Some(Err(error)) = self.holder.as_ref().map(Holder::begin) {
            say(format_args!("Packets of the pause are not kept: {error}"));
            self.holder = None;
        }
        self.set_network(false)?;
        if let Some(holder) = &mut self.holder {
            holder.locked();
        }
        Ok(())
    }

    /// The network is open again: keeps no more, and gives what was kept to the workload, which need not run yet.
    pub(super) fn deliver_held(&mut self) {
        let Some(mut holder) = self.holder.take() else { return };
        let ended = holder.end();
        if let Err(error) = ended.map_err(Error::from).and_then(|()| self.deliver_frames(&holder.take())) {
            say(format_args!("Packets of the pause are lost: {error}"));
        }
    }

    /// What was kept since it was last asked: the workload is another host's, and it goes there.
    pub(super) fn held_frames(&mut self) -> Vec<Frame> {
        self.holder.as_mut().map(Holder::take).unwrap_or_default()
    }

    /// Lets frames that were kept elsewhere arrive here.
    ///
    /// # Errors
    /// Where the workload does not run, or has no network of its own.
    pub(super) fn deliver_frames(&self, frames: &[Frame]) -> Result<()> {
        let record = self.record.as_ref().ok_or_else(no_capsule)?;
        if record.spec.network.is_none() {
            return Err(Error::new(Kind::Refused, "The workload has no network of its own"));
        }
        deliver(&host_end_name(&record.spec.id.to_string()), frames)?;
        Ok(())
    }
}
