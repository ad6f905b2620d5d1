//! `ferry doctor`: damage and leftovers, by owner. Looks at the files and the kernel, and needs no node running.

use crate::audit;
use crate::files;
use ferry_model::api::{Doctor, Finding};
use ferry_model::error::Result;
use ferry_model::ids::WorkloadId;
use ferry_session::shim;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Looks at the state directory `state` and the sockets' directory `run`; with `clean`, removes what certainly belongs
/// to nobody.
pub fn examine(state: &Path, run: &Path, clean: bool) -> Result<Doctor> {
    let mut doctor = Doctor::default();
    check_audit(state, &mut doctor);
    check_permissions(state, run, &mut doctor);
    check_socket(run, clean, &mut doctor);
    check_workloads(state, clean, &mut doctor)?;
    Ok(doctor)
}

fn check_audit(state: &Path, doctor: &mut Doctor) {
    match audit::verify(state) {
        Ok(lines) => {
            doctor.checked.push(format!("the audit log: {lines} lines, each follows the one before it"))
        }
        Err(wrong) => doctor.findings.push(finding("audit", &state.join("audit.log"), "node", &wrong)),
    }
}

/// What holds secrets must be the owner's alone.
fn check_permissions(state: &Path, run: &Path, doctor: &mut Doctor) {
    let secrets = ["", "trust", "trust/node.key", "authority", "authority/authority.key", "workloads"];
    let paths = secrets.iter().map(|name| if name.is_empty() { state.to_owned() } else { state.join(name) });
    for path in paths.chain([run.to_owned()]) {
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let detail = format!("others may use it (mode {mode:o}): chmod go-rwx {}", path.display());
            doctor.findings.push(finding("permission", &path, "node", &detail));
        }
    }
    doctor.checked.push("the permissions of keys and directories".to_owned());
}

fn check_socket(run: &Path, clean: bool, doctor: &mut Doctor) {
    let path = run.join("node.sock");
    if !path.exists() || std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return;
    }
    let mut found = finding("file", &path, "nobody", "the socket of a node that no longer runs");
    found.cleanable = true;
    found.cleaned = clean && std::fs::remove_file(&path).is_ok();
    doctor.findings.push(found);
}

/// Directories without a record were begun and never became a workload; a workload without a shim is not running.
fn check_workloads(state: &Path, clean: bool, doctor: &mut Doctor) -> Result<()> {
    let dir = state.join("workloads");
    let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(()) };
    let mut count = 0;
    for entry in entries.flatten() {
        count += 1;
        let path = entry.path();
        let id = entry.file_name().to_str().and_then(|name| name.parse::<WorkloadId>().ok());
        let Some(id) = id else {
            doctor.findings.push(finding(
                "directory",
                &path,
                "nobody",
                "its name is not a workload's; look at it",
            ));
            continue;
        };
        let lives = shim::Client::connect(&path).is_ok();
        let recorded = path.join("node.cbor").exists() || path.join("shim.cbor").exists();
        let journalled = files::read_if_there(&path.join("journal"))?.is_some_and(|bytes| bytes.len() > 8);
        if !recorded && !lives && !journalled {
            let mut found = finding("directory", &path, "nobody", "it was begun and never became a workload");
            found.cleanable = true;
            // What a half-made capsule has left goes first: processes, cgroups, and with them mounts and devices.
            let swept = || ferry_process::capsule::sweep(&path, true).is_ok();
            found.cleaned = clean && swept() && std::fs::remove_dir_all(&path).is_ok();
            doctor.findings.push(found);
        } else if !lives && path.join("shim.cbor").exists() {
            let detail = "its shim is gone: `ferry recover` says what is left of it";
            doctor.findings.push(finding("process", &path, &id.to_string(), detail));
        }
    }
    doctor.checked.push(format!("{count} directories of workloads"));
    Ok(())
}

fn finding(sort: &str, path: &Path, owner: &str, detail: &str) -> Finding {
    Finding {
        sort: sort.to_owned(),
        name: path.display().to_string(),
        owner: owner.to_owned(),
        detail: detail.to_owned(),
        cleanable: false,
        cleaned: false,
    }
}
