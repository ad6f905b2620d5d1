//! `ferry doctor`: damage and leftovers, by owner. Looks at the files and the kernel, and needs no node running.

use crate::audit;
use crate::files;
use ferry_model::api::{Doctor, Finding};
use ferry_model::error::Result;
use ferry_model::ids::WorkloadId;
use ferry_network::nft;
use ferry_process::adoption;
use ferry_session::shim;
use ferry_session::shim::protocol::Phase;
use std::os::unix::ffi::OsStrExt;
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
    check_locks(state, clean, &mut doctor);
    check_processes(state, &mut doctor);
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

/// What stands in the directories of workloads: what is left of one that was never begun, or that is another host's now,
/// belongs to nobody; one without a shim may still be somebody's.
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
        if shim::Client::connect(&path).is_ok() {
            continue;
        }
        let gone_to = crate::workloads::gone_to(&path)?;
        let adopted = adoption::left_in(&path);
        let capsule = adopted || path.join("capsule.cbor").exists();
        let recorded = path.join("node.cbor").exists() || path.join("shim.cbor").exists();
        let journalled = files::read_if_there(&path.join("journal"))?.is_some_and(|bytes| bytes.len() > 8);
        let mut found = match (&gone_to, recorded || journalled) {
            (Some(host), _) if capsule => {
                let detail = format!("left of {id}, which moved to {host}");
                finding("capsule", &path, &id.to_string(), &detail)
            }
            (Some(_), _) => continue,
            (None, false) => {
                finding("directory", &path, "nobody", "it was begun and never became a workload")
            }
            (None, true) if path.join("shim.cbor").exists() => {
                let detail = "its shim is gone: `ferry recover` says what is left of it";
                doctor.findings.push(finding("process", &path, &id.to_string(), detail));
                continue;
            }
            (None, true) => continue,
        };
        found.cleanable = true;
        if clean {
            // What a capsule has left goes first: processes, cgroups, and with them mounts and devices.
            let ended = match adopted {
                true => adoption::sweep(&path).is_ok(),
                false => ferry_process::capsule::sweep(&path, true).is_ok(),
            };
            found.cleaned = ended && (gone_to.is_some() || std::fs::remove_dir_all(&path).is_ok());
        }
        doctor.findings.push(found);
    }
    doctor.checked.push(format!("{count} directories of workloads"));
    Ok(())
}

/// Locks of adopted trees in this host's network whose tree is gone, or runs. Those of another node's state directory have other names.
fn check_locks(state: &Path, clean: bool, doctor: &mut Doctor) {
    let Ok(dir) = state.join("workloads").canonicalize() else { return };
    let tables = match nft::tables(None) {
        Ok(tables) => tables,
        Err(error) => return doctor.findings.push(finding("lock", &dir, "node", &error.to_string())),
    };
    let mut count = 0;
    for table in tables {
        let digits = table.split('_').find(|part| part.len() == 32);
        let Some(id) = digits.and_then(|digits| format!("w-{digits}").parse::<WorkloadId>().ok()) else {
            continue;
        };
        let path = dir.join(id.to_string());
        if shim::lock_name(id, &path) != table {
            continue;
        }
        count += 1;
        let status = shim::Client::connect(&path).ok().and_then(|mut shim| shim.status().ok());
        let detail = match status.map(|status| status.phase) {
            Some(Phase::Frozen) => continue,
            Some(_) => "it holds back connections of a workload that runs",
            // Its tasks may be frozen still: a successor of its shim knows, and removes the lock with the thaw.
            None if path.join("shim.cbor").exists() => {
                let detail = "its shim is gone while it was frozen: `ferry recover` says what is left of it";
                doctor.findings.push(finding("lock", Path::new(&table), &id.to_string(), detail));
                continue;
            }
            None => "it holds back connections of a workload that is gone",
        };
        let mut found = finding("lock", Path::new(&table), &id.to_string(), detail);
        found.cleanable = true;
        found.cleaned = clean && nft::unlock(None, &table).is_ok();
        doctor.findings.push(found);
    }
    doctor.checked.push(format!("{count} locks of adopted trees"));
}

/// Shims of this state directory whose workload's directory is gone: nobody can reach them any more.
fn check_processes(state: &Path, doctor: &mut Doctor) {
    let prefix = state.join("workloads");
    let mut shims = 0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let args: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let [_, b"shim", b"--dir", dir, ..] = args[..] else { continue };
        let dir = Path::new(std::ffi::OsStr::from_bytes(dir));
        if !dir.starts_with(&prefix) {
            continue;
        }
        shims += 1;
        if !dir.exists() {
            let detail = format!(
                "a shim whose directory {} is gone; look at what it keeps, then kill it",
                dir.display()
            );
            doctor.findings.push(finding("process", Path::new(&pid.to_string()), "nobody", &detail));
        }
    }
    doctor.checked.push(format!("{shims} processes of shims"));
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

#[cfg(test)]
mod tests {
    use super::examine;

    #[test]
    fn what_belongs_to_nobody_is_found_and_removed_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (state, run) = (dir.path().join("state"), dir.path().join("run"));
        let workloads = state.join("workloads");
        let begun = workloads.join("w-00000000000000000000000000000001");
        let kept = workloads.join("w-00000000000000000000000000000002");
        for path in [&begun, &kept, &run] {
            crate::files::make_private_dir(path).unwrap();
        }
        std::fs::write(kept.join("shim.cbor"), b"x").unwrap();
        drop(std::os::unix::net::UnixListener::bind(run.join("node.sock")).unwrap());

        let found = examine(&state, &run, false).unwrap().findings;
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(begun.exists(), "looking changes nothing");
        let cleaned = examine(&state, &run, true).unwrap().findings;
        assert_eq!(cleaned.iter().filter(|finding| finding.cleaned).count(), 2, "{cleaned:?}");
        assert!(!begun.exists() && kept.exists() && !run.join("node.sock").exists());
    }
}
