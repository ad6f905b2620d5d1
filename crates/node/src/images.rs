//! Checkpoints and restores as the API asks for them.

use crate::audit::Verdict;
use crate::node::Node;
use ferry_model::api::{CheckpointReport, CheckpointRequest, RestoreReport, RestoreRequest};
use ferry_model::error::{Error, Kind, Result};
use ferry_session::movement::{Checkpoint, CloneSpec, Restoration, workload_in};
use std::path::{Path, PathBuf};

/// Most threads that copy memory.
const THREADS_MAX: usize = 64;

impl Node {
    /// Writes a workload into an image; unless it is to go on, the image is the workload from then on.
    pub fn checkpoint(&self, name: &str, request: &CheckpointRequest) -> Result<CheckpointReport> {
        let workload = self.workloads.find(name)?;
        self.workloads.client(workload)?;
        let checkpoint = Checkpoint {
            workload,
            dir: absolute(&request.dir)?,
            leave_running: request.leave_running,
            threads: request.threads.clamp(1, THREADS_MAX),
        };
        self.movements()?.checkpoint(checkpoint)
    }

    /// Lets an image run again: the workload that it is, or a new one.
    pub fn restore(&self, request: &RestoreRequest) -> Result<RestoreReport> {
        let dir = absolute(&request.dir)?;
        let spec = workload_in(&dir, &self.config().state, request.trust_image)?;
        let spec = spec.ok_or_else(|| {
            Error::new(Kind::Usage, "The image is of a process tree that lived in no capsule")
                .hint("ferry restore brings it back without a node")
        })?;
        let clone = match request.as_clone {
            true => {
                let id = crate::workloads::new_id()?;
                let name = self.workloads.name_for(request.name.as_deref(), id)?;
                Some(CloneSpec { id, name, address: request.net.clone() })
            }
            false if request.name.is_some() || request.net.is_some() => {
                return Err(Error::new(
                    Kind::Usage,
                    "A workload that is taken back keeps its name and address",
                )
                .hint("--as-clone makes a new one"));
            }
            false => None,
        };
        let own_net = spec.network.as_ref().and_then(|network| network.addresses.first().cloned());
        let (id, name, net) = match &clone {
            Some(clone) => (clone.id, clone.name.clone(), clone.address.clone()),
            None => (spec.id, spec.name.clone(), own_net),
        };
        self.workloads.refuse_double(id, &name, net.as_ref())?;
        let threads = request.threads.clamp(1, THREADS_MAX);
        let what = format!("restore {name} from {}", dir.display());
        let restoration = Restoration { dir, clone, trust_image: request.trust_image, threads };
        let restored = self.movements()?.restore(id, restoration);
        match &restored {
            Ok(_) => self.audit.note("local", &what, Verdict::Allowed, "its signature, and the registry"),
            Err(error) => self.audit.note("local", &what, Verdict::Refused, &error.message),
        }
        let restored = restored?;
        Ok(RestoreReport {
            image: restored.image,
            workload: self.workloads.get(restored.workload)?,
            memory_bytes: restored.memory_bytes,
            restored_us: restored.restored_us,
        })
    }
}

fn absolute(dir: &str) -> Result<PathBuf> {
    let path = Path::new(dir);
    if path.is_absolute() && !dir.contains('\0') {
        return Ok(path.to_owned());
    }
    Err(Error::new(Kind::Usage, format!("'{dir}' is not an absolute path")))
}
