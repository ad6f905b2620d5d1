//! Making a capsule: cgroups, directories, and an init in new namespaces.
//!
//! A time namespace cannot be entered by clone3 once its clocks are to be set, and unshare would leave the shim's other
//! children in it. So a short-lived maker unshares it, sets the clocks, and makes init as its *sibling*: the shim
//! stays the parent.

use super::Capsule;
use super::error::{Doing, Error, Result};
use super::group::{self, Groups};
use super::note::{self, Note};
use super::spec::Spec;
use super::{init, line};
use ferry_sys::fork::{self, Clone3, Forked};
use ferry_sys::timens;
use ferry_sys::unshare::{UnshareFlags, unshare};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Statfs magic of overlayfs.
const OVERLAY_MAGIC: i64 = 0x794c_7630;
/// Longest error that init tells.
const REPORT_BYTES_MAX: u64 = 64 << 10;

/// Ground and inside.
pub(super) fn create(spec: &Spec) -> Result<Capsule> {
    check_with(spec)?;
    let mut capsule = ground(spec)?;
    match capsule.furnish(spec) {
        Ok(()) => Ok(capsule),
        Err(error) => {
            let Capsule { directory, note, .. } = capsule;
            // What was staged in `upper` is the caller's.
            let _ = note::remove(&directory, &note, false);
            Err(error)
        }
    }
}

/// Everything but the inside.
pub(super) fn ground(spec: &Spec) -> Result<Capsule> {
    check(spec)?;
    let groups = Groups::create(&spec.name)?;
    let mut undo = Undo {
        spec,
        cgroup: groups.whole.path().to_owned(),
        limit_groups: Vec::new(),
        init: None,
        done: false,
    };
    directories(spec)?;
    let listening = line::listening(&spec.directory)?;
    let (mut pid_reader, pid_writer) = io::pipe().doing(|| "make a pipe".into())?;
    let (report_reader, report_writer) = io::pipe().doing(|| "make a pipe".into())?;
    let maker = match fork::fork().doing(|| "make a process".into())? {
        Forked::Parent(pid, _) => pid,
        Forked::Child => {
            let error = make(spec, &groups, listening, pid_writer.into(), OwnedFd::from(report_writer));
            let code = error.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
            fork::exit_now(code.min(255))
        }
    };
    drop((listening, pid_writer, report_writer));
    let status = fork::wait(maker, true)
        .doing(|| "wait for the capsule's maker".into())?
        .map_or(0, |(_, status)| status);
    if status != 0 {
        let source = io::Error::from_raw_os_error(if status & 0x7f == 0 { status >> 8 } else { libc::EINTR });
        return Err(Error::Kernel { doing: "make the capsule's namespaces".into(), source });
    }
    let mut pid = [0; 4];
    pid_reader.read_exact(&mut pid).doing(|| "learn the process id of the capsule's init".into())?;
    let pid = i32::from_le_bytes(pid);
    // It cannot have been reaped by anybody but us: the id is still its own.
    let init = pidfd_open(
        Pid::from_raw(pid).ok_or_else(|| Error::Invalid("No process id".into()))?,
        PidfdFlags::empty(),
    )
    .doing(|| "open the capsule's init".into())?;
    undo.init = Some((pid, init.try_clone().doing(|| "copy a descriptor".into())?));

    hear(report_reader)?;
    groups.init.move_in(pid).doing(|| "move the capsule's init out of the workload's cgroup".into())?;
    undo.limit_groups = group::limit(&groups, &spec.limits, &spec.name, pid)?;
    let note = note(spec, pid, &undo)?;
    note.write(&spec.directory)?;
    let capsule = Capsule::from_parts(&spec.directory, note, init)?;
    undo.done = true;
    Ok(capsule)
}

fn note(spec: &Spec, init: i32, undo: &Undo<'_>) -> Result<Note> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    Ok(Note {
        init,
        started: note::start_time(init).ok_or_else(|| Error::Gone(spec.directory.display().to_string()))?,
        boot: note::boot(),
        cgroup: text(&undo.cgroup),
        limit_groups: undo.limit_groups.iter().map(text).collect(),
        own_mounts: Vec::new(),
        own_network: spec.own_network,
        limits: spec.limits,
        with: Vec::new(),
    })
}

/// Waits until init says that it has succeeded, or why not.
pub(super) fn hear(report: impl Read) -> Result<()> {
    let mut said = Vec::new();
    report.take(REPORT_BYTES_MAX).read_to_end(&mut said).doing(|| "hear from the capsule's init".into())?;
    if said == [0] { Ok(()) } else { Err(told(&said)) }
}

/// What init told instead of success.
fn told(report: &[u8]) -> Error {
    match minicbor::decode::<ferry_model::error::Error>(report) {
        Ok(error) => {
            let causes = error.causes.iter().map(|cause| format!(": {cause}")).collect::<String>();
            Error::Unable {
                what: format!("{}{causes}", error.message),
                hint: error.hints.into_iter().next().unwrap_or_else(|| "See `ferry check`".into()),
            }
        }
        Err(_) => Error::Unable {
            what: "The capsule's init died before the capsule was complete".into(),
            hint: "Look at the kernel's log".into(),
        },
    }
}

/// Says before anything is touched what would fail.
fn check(spec: &Spec) -> Result<()> {
    if !spec.directory.is_absolute() {
        return Err(Error::Invalid("The workload's directory must be an absolute path".into()));
    }
    fs::create_dir_all(&spec.directory).doing(|| format!("make {}", spec.directory.display()))?;
    let file_system =
        rustix::fs::statfs(&spec.directory).doing(|| format!("look at {}", spec.directory.display()))?;
    #[allow(clippy::unnecessary_cast)]
    if file_system.f_type as i64 == OVERLAY_MAGIC {
        return Err(Error::Unable {
            what: format!(
                "{} lies on an overlay file system, which cannot hold what a workload writes",
                spec.directory.display()
            ),
            hint: "Put the state directory on a disk or a tmpfs: --state DIR or FERRY_STATE".into(),
        });
    }
    Ok(())
}

/// As [`check`], for what is seen of the host.
pub(super) fn check_with(spec: &Spec) -> Result<()> {
    for with in &spec.with {
        let absolute = with.path.starts_with('/') && with.host.starts_with('/');
        if !absolute || !fs::exists(&with.host).unwrap_or(false) {
            return Err(Error::Invalid(format!("--with {}: there is no such path on this host", with.host)));
        }
    }
    Ok(())
}

fn directories(spec: &Spec) -> Result<()> {
    let make = |name: &str, mode: u32| -> io::Result<()> {
        let path = spec.directory.join(name);
        if !path.exists() {
            fs::create_dir(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    };
    // The upper directory's mode is that of the workload's root directory; its parent keeps strangers out.
    let all = || -> io::Result<()> {
        fs::set_permissions(&spec.directory, fs::Permissions::from_mode(0o700))?;
        make("upper", 0o755)?;
        make("work", 0o700)?;
        make("root", 0o700)
    };
    all().doing(|| format!("make the workload's directories in {}", spec.directory.display()))
}

/// In the maker: makes init; returns there only.
fn make(spec: &Spec, groups: &Groups, listening: OwnedFd, pid: OwnedFd, report: OwnedFd) -> io::Result<()> {
    let clocks = spec.clocks.map(|clocks| timens::Clocks {
        monotonic_ns: clocks.monotonic_ns.into(),
        boottime_ns: clocks.boottime_ns.into(),
    });
    match unshare(UnshareFlags::NEWTIME) {
        Ok(()) => clocks.map_or(Ok(()), timens::continue_from)?,
        // Without time namespaces a new workload runs; one whose clocks must go on does not.
        Err(error) if clocks.is_some() => return Err(error.into()),
        Err(_) => {}
    }
    let mut flags =
        libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_PARENT;
    if spec.own_network {
        flags |= libc::CLONE_NEWNET;
    }
    let how = Clone3 { flags: flags as u64, cgroup: Some(groups.work.as_fd()), ..Clone3::default() };
    match fork::clone3(&how)? {
        Forked::Child => init::run(spec, listening, report),
        Forked::Parent(init, _) => File::from(pid).write_all(&init.to_le_bytes()),
    }
}

/// Takes a half-made capsule back.
struct Undo<'a> {
    spec: &'a Spec,
    cgroup: PathBuf,
    limit_groups: Vec<PathBuf>,
    init: Option<(i32, OwnedFd)>,
    done: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some((pid, pidfd)) = &self.init {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
            let _ = fork::wait(*pid, true);
        }
        let _ = Groups::open(&self.cgroup).and_then(|groups| groups.whole.kill().doing(String::new));
        let _ = Groups::open(&self.cgroup)
            .and_then(|groups| groups.whole.wait_empty(super::END_MAX).doing(String::new));
        let _ = group::remove(&self.cgroup, &self.limit_groups);
        // What was staged in `upper` is the caller's.
        for name in ["work", "root"] {
            let _ = fs::remove_dir_all(self.spec.directory.join(name));
        }
        for name in ["init.sock", "capsule.cbor"] {
            let _ = fs::remove_file(self.spec.directory.join(name));
        }
    }
}
