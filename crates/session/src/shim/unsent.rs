//! What the connections of a prepared workload are still to be given, on disk until they have it: a shim that is killed between
//! PREPARED and the resume takes nothing of it along.
//!
//! It has to outlive this process, not this host: with the host's memory the connections are gone too. So it is not synced.

use super::CONNECTIONS;
use super::workload::{Workload, unable};
use ferry_model::error::{Error, Kind, Result};
use ferry_process::capsule::Capsule;
use ferry_process::capture::files::CARRIED_BYTES_MAX;
use ferry_process::restore::files::{Recreated, release_left};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

/// Longest file, bytes: all that may be in queues, and what describes them.
const BYTES_MAX: u64 = CARRIED_BYTES_MAX + (64 << 20);

impl Workload {
    /// Writes down what is to be given to connections at the resume.
    pub(super) fn write_connections(&self, recreated: &Recreated) -> Result<()> {
        let written = recreated.unreleased().map_err(|e| Error::from_source(Kind::Unable, &e))?;
        let Some(bytes) = written else { return Ok(()) };
        let open = || {
            OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(self.dir.join(CONNECTIONS))
        };
        open()
            .and_then(|mut file| file.write_all(&bytes))
            .map_err(|e| unable("What connections are still to send could not be written down", &e))
    }

    /// Gives connections what the shim that made them has not given them.
    pub(super) fn release_left(&mut self) -> Result<()> {
        let mut written = Vec::new();
        match File::open(self.dir.join(CONNECTIONS)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            file => {
                file.and_then(|file| file.take(BYTES_MAX).read_to_end(&mut written))
                    .map_err(|e| unable("What connections are still to send could not be read", &e))?;
                let init = self.capsule.as_ref().map(Capsule::init_pid);
                release_left(&written, &self.tasks()?, init)
                    .map_err(|e| Error::from_source(Kind::Unable, &e))?;
            }
        }
        self.end_repair()
    }

    /// All have it, or none is there any more.
    pub(super) fn forget_connections(&self) -> Result<()> {
        match std::fs::remove_file(self.dir.join(CONNECTIONS)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(unable("What connections had still to send could not be removed", &e))
            }
            _ => Ok(()),
        }
    }
}
