//! What the workload holds and Ferry has the far end of: its log, its terminal. Recognised at the source, bound again at the target.

use super::workload::Workload;
use ferry_model::error::Result;
use ferry_process::capture::TaskRef;
use ferry_process::records::State;

impl Workload {
    /// Adds the descriptors of the stopped `tasks` to `state`.
    pub(super) fn capture_files(&self, _tasks: &[TaskRef], _state: &mut State) -> Result<()> {
        Ok(())
    }
}
