//! What the workload holds, for the plan: read only, nothing is stopped.

use super::workload::Workload;
use ferry_model::error::Result;
use ferry_model::plan::Resource;

impl Workload {
    pub(super) fn inspect(&self) -> Result<Vec<Resource>> {
        Ok(Vec::new())
    }
}
