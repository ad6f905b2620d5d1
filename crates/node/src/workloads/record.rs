//! What the node remembers of a workload: what `ferry ps` prints although nothing of it runs here.

use crate::files;
use crate::trust::now_unix;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{HostName, WorkloadId};
use ferry_session::shim::Spec;
use ferry_session::shim::protocol::Phase;
use ferry_session::shim::record::Record as ShimRecord;
use minicbor::{Decode, Encode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the record in a workload's directory.
const FILE: &str = ferry_session::movement::NODE_RECORD;

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NodeRecord {
    /// Its name on this host.
    #[n(0)]
    pub name: String,
    /// The program and its arguments.
    #[n(1)]
    pub command: Vec<String>,
    /// When it was registered here, seconds since 1970.
    #[n(2)]
    pub created_unix: u64,
    /// Its address on the bridge.
    #[n(3)]
    pub net: Option<String>,
    /// Whether it was adopted.
    #[n(4)]
    pub adopted: bool,
    /// The host that it moved to.
    #[n(5)]
    pub gone_to: Option<HostName>,
    /// Directory of the image that it is, where it is suspended.
    #[n(6)]
    pub suspended: Option<PathBuf>,
}

impl NodeRecord {
    /// The record of a new workload.
    pub fn of(spec: &Spec, adopted: bool) -> Self {
        Self {
            name: spec.name.clone(),
            command: spec.command.clone(),
            created_unix: now_unix(),
            net: spec.network.as_ref().and_then(|network| network.addresses.first().cloned()),
            adopted,
            gone_to: None,
            suspended: None,
        }
    }

    /// It did not move away.
    pub fn is_here(&self) -> bool {
        self.gone_to.is_none()
    }

    /// It did not move away and is no image: it has a shim, or had.
    pub fn runs_here(&self) -> bool {
        self.is_here() && self.suspended.is_none()
    }

    /// Puts it into the workload's directory, durably.
    pub fn save(&self, dir: &Path) -> Result<()> {
        files::make_private_dir(dir)?;
        let bytes = minicbor::to_vec(self).map_err(|cause| Error::new(Kind::Bug, cause.to_string()))?;
        files::write_durably(&dir.join(FILE), &bytes)
    }
}

/// The host to which the workload of the directory `dir` moved, if it did.
pub fn gone_to(dir: &Path) -> Result<Option<HostName>> {
    let Some(bytes) = files::read_if_there(&dir.join(FILE))? else { return Ok(None) };
    Ok(minicbor::decode::<NodeRecord>(&bytes).ok().and_then(|record| record.gone_to))
}

/// The record of a workload that arrived while the disk was full: its shim's own record had its place already.
fn by_its_shim(dir: &Path) -> Option<NodeRecord> {
    let record = ShimRecord::read(dir).ok()??;
    // Before it runs here it is a move's, not this host's.
    let is_here = matches!(record.phase, Phase::Running | Phase::Exited);
    is_here.then(|| NodeRecord::of(&record.spec, record.adopted))
}

/// The records of all workloads below `dir`. What is damaged is told and left out, so that one bad file does not take
/// the rest away.
pub fn load_all(dir: &Path) -> Result<BTreeMap<WorkloadId, NodeRecord>> {
    let unable = |cause: std::io::Error| {
        Error::from_source(Kind::Unable, &cause).context(format!("{} could not be read", dir.display()))
    };
    let mut records = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(unable)? {
        let entry = entry.map_err(unable)?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<WorkloadId>().ok()) else {
            continue;
        };
        let Some(bytes) = files::read_if_there(&entry.path().join(FILE))? else {
            records.extend(by_its_shim(&entry.path()).map(|record| (id, record)));
            continue;
        };
        match minicbor::decode(&bytes) {
            Ok(record) => {
                records.insert(id, record);
            }
            Err(cause) => {
                tracing::error!(workload = %id, %cause, "its record is damaged; `ferry doctor` shows it")
            }
        }
    }
    Ok(records)
}
