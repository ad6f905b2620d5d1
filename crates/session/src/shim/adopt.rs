//! Making a workload of a tree that already runs.

use super::spec::Spec;
use super::workload::Workload;
use ferry_model::error::{Error, Kind, Result};

impl Workload {
    /// The program stays where it is; only its cgroup changes.
    pub(super) fn adopt(&mut self, _: &Spec, pid: i32) -> Result<()> {
        Err(Error::new(Kind::Refused, format!("Process {pid} cannot be adopted by this build")))
    }
}
