//! What a host does for the time in which a workload that moves stands still: the thread of the move goes before others, and processors
//! do not go to sleep between two steps, of which a pause has some dozens on two hosts.

use ferry_sys::schedule::{Awake, Urgent};

/// Both, until it is dropped. Whatever is begun meanwhile and lives longer is to be begun after that.
pub(super) struct Pause {
    _urgent: Urgent,
    _awake: Awake,
}

impl Pause {
    /// From now on.
    pub fn begin() -> Self {
        Self { _urgent: Urgent::begin(), _awake: Awake::begin() }
    }
}
