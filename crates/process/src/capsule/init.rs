//! Process 1 of a capsule: builds the capsule's inside when it is told to, then starts programs and reaps children, for ever.
//!
//! It is a fork of the shim without an exec, so it needs no file of its own in the capsule; it has one thread and
//! nothing mapped that its children could not unmap. It is furniture: never captured and never moved. Restoring makes
//! a workload's first tasks as its children, by remote calls in it; between two of its system calls it has no state
//! that this could hurt. It does not end with the shim: the next shim connects anew, and gets back the descriptors that
//! init holds for it, the master of the workload's terminal and what holds memory back that is still missing.

use super::error::{Error, Result};
use super::line::{AT_ONCE, Description, Event, GIVE, HELD, HOLD, KEEP, LAST, LET_GO, START};
use super::spec::Spec;
use super::{furnish, mounts, root};
use ferry_sys::fork::{self, Clone3, Forked};
use ferry_sys::scm;
use ferry_sys::unshare::{UnshareFlags, unshare};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::net::{RecvFlags, SocketFlags, accept_with};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;

/// Most ends of children that are kept for the next shim.
const ENDS_MAX: usize = 1024;
/// The name by which it can be told in a process list.
const NAME: &std::ffi::CStr = c"ferry-init";

/// Runs as process 1. Tells `report` when the ground is there (one zero byte) or why not (text); then waits until it is told what the
/// inside shall be like.
pub(super) fn run(spec: &Spec, listening: OwnedFd, report: OwnedFd) -> ! {
    let mut report = File::from(report);
    match set_up(spec, &listening, report.as_fd()) {
        Ok(signals) => {
            let _ = report.write_all(&[0]);
            drop(report);
            if let Some(line) = furnish::wait(spec, &listening, &signals) {
                serve(&listening, &signals, line);
            }
        }
        Err(error) => tell(&mut report, error),
    }
    fork::exit_now(1)
}

/// Tells what went wrong.
pub(super) fn tell(report: &mut File, error: Error) {
    let error = ferry_model::error::Error::from(error);
    let _ = report.write_all(&minicbor::to_vec(&error).unwrap_or_default());
}

fn step(doing: &str, result: io::Result<()>) -> Result<()> {
    result.map_err(|source| Error::Kernel { doing: doing.into(), source })
}

/// The ground: what does not depend on what the workload is like.
fn set_up(spec: &Spec, listening: &OwnedFd, report: BorrowedFd<'_>) -> Result<OwnedFd> {
    step("name the capsule's init", rustix::thread::set_name(NAME).map_err(Into::into))?;
    step("block signals", fork::block_all_signals())?;
    fork::default_signal_actions();
    if spec.end_with_creator {
        let kill = Some(rustix::process::Signal::KILL);
        step(
            "tie the capsule to its maker",
            rustix::process::set_parent_process_death_signal(kill).map_err(Into::into),
        )?;
    }
    step("begin a session", rustix::process::setsid().map(drop).map_err(Into::into))?;
    // Born in the workload's cgroup, so that this is the root of what the workload sees of cgroups.
    step("make a cgroup namespace", unshare(UnshareFlags::NEWCGROUP).map_err(Into::into))?;
    if spec.own_network {
        step("bring the loopback interface up", ferry_sys::netdevice::set_up("lo"))?;
    }
    let signals =
        fork::child_signal_fd().map_err(|source| Error::Kernel { doing: "watch children".into(), source })?;
    step(
        "close descriptors",
        fork::keep_only(&[listening.as_raw_fd(), report.as_raw_fd(), signals.as_raw_fd()]),
    )?;
    // The host's, until there is one inside: so that nothing else gets their numbers.
    step("open /dev/null", root::standard_descriptors())?;
    Ok(signals)
}

/// The inside: names, root, mounts. Of what is open only `kept` stays, and /dev/null three times.
pub(super) fn build_inside(spec: &Spec, kept: &[BorrowedFd<'_>]) -> Result<()> {
    if !spec.hostname.is_empty() {
        step("set the host name", rustix::system::sethostname(spec.hostname.as_bytes()).map_err(Into::into))?;
    }
    if !spec.domainname.is_empty() {
        step(
            "set the domain name",
            rustix::system::setdomainname(spec.domainname.as_bytes()).map_err(Into::into),
        )?;
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    let new_root = root::build(spec)?;
    mounts::rebuild(new_root.as_fd(), &spec.mounts)?;
    step("enter the capsule's root", ferry_sys::mounts::pivot_into(new_root.as_fd()))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    drop(new_root);
    let kept: Vec<i32> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    step("close descriptors", fork::keep_only(&kept))?;
    step("open /dev/null", root::standard_descriptors())
}

fn serve(listening: &OwnedFd, signals: &OwnedFd, line: OwnedFd) -> ! {
    let mut line = Some(line);
    let mut ends: VecDeque<Event> = VecDeque::new();
    let mut kept = Kept::default();
    loop {
        let mut watched = vec![PollFd::new(listening, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if let Some(line) = &line {
            watched.push(PollFd::new(line, PollFlags::IN));
        }
        // Interrupted by a tracer's stop: ask again.
        let _ = poll(&mut watched, None);
        let ready: Vec<bool> = watched.iter().map(|each| !each.revents().is_empty()).collect();
        drop(watched);
        if ready[1] {
            let mut buffer = [0u8; 128];
            while rustix::io::read(signals, &mut buffer).is_ok_and(|length| length > 0) {}
        }
        // Whatever woke us: several children may hide behind one signal.
        while let Ok(Some((pid, status))) = fork::wait(-1, false) {
            let event = Event::Ended(pid, status);
            if ends.len() == ENDS_MAX {
                ends.pop_front();
            }
            ends.push_back(event);
            line = line.filter(|line| scm::send(line, &event.to_bytes(), &[]).is_ok());
        }
        if ready.get(2) == Some(&true)
            && let Some(current) = line.take()
            && answer(&current, &mut kept).is_ok()
        {
            line = Some(current);
        }
        if ready[0]
            && let Some(new) = accept(listening)
        {
            let told = ends.iter().all(|end| scm::send(&new, &end.to_bytes(), &[]).is_ok());
            line = told.then_some(new);
        }
    }
}

/// Takes a connection, if it comes from outside of the capsule: then the kernel has no id for the peer here.
pub(super) fn accept(listening: &OwnedFd) -> Option<OwnedFd> {
    let line = accept_with(listening, SocketFlags::CLOEXEC).ok()?;
    (scm::peer_pid(&line).ok()? == 0).then_some(line)
}

/// What init holds for the shim.
#[derive(Default)]
struct Kept {
    /// The master of the workload's terminal.
    terminal: Option<OwnedFd>,
    /// Missing memory, by numbers of the shim's choice.
    held: BTreeMap<i32, OwnedFd>,
}

/// Serves one request.
fn answer(line: &OwnedFd, kept: &mut Kept) -> io::Result<()> {
    let mut buffer = [0; 1 + AT_ONCE * 4];
    let (length, mut descriptors) = scm::receive(line, &mut buffer, RecvFlags::DONTWAIT)?;
    match buffer[..length] {
        [START] => {}
        [HOLD, ref numbers @ ..] if numbers.len() == descriptors.len() * 4 => {
            let numbers = numbers.chunks_exact(4).map(|four| four.try_into().map_or(0, i32::from_le_bytes));
            kept.held.extend(numbers.zip(descriptors));
            return scm::send(line, &Event::Kept.to_bytes(), &[]);
        }
        [HELD] => {
            let all: Vec<(&i32, &OwnedFd)> = kept.held.iter().collect();
            for part in all.chunks(AT_ONCE) {
                let numbers: Vec<u8> = part.iter().flat_map(|(number, _)| number.to_le_bytes()).collect();
                let copies: Vec<BorrowedFd<'_>> = part.iter().map(|(_, fd)| fd.as_fd()).collect();
                scm::send(line, &numbers, &copies)?;
            }
            return scm::send(line, &Event::Kept.to_bytes(), &[]);
        }
        [LET_GO] => {
            kept.held.clear();
            return scm::send(line, &Event::Kept.to_bytes(), &[]);
        }
        [KEEP] => {
            kept.terminal = descriptors.pop();
            return scm::send(line, &Event::Kept.to_bytes(), &[]);
        }
        [GIVE] => {
            let held: Vec<BorrowedFd<'_>> = kept.terminal.iter().map(AsFd::as_fd).collect();
            return scm::send(line, &Event::Kept.to_bytes(), &held);
        }
        [LAST] => return scm::send(line, &Event::Last(last_pid()?).to_bytes(), &[]),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }
    let mut descriptors = descriptors.into_iter();
    let (Some(description), Some(errors), Some(cgroup)) =
        (descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let stdio: Vec<OwnedFd> = descriptors.collect();
    let started = Description::from_file(description)
        .and_then(|description| start(&description, &cgroup, &stdio, errors));
    match started {
        Ok((pid, pidfd)) => {
            let pidfd: Vec<BorrowedFd<'_>> = pidfd.iter().map(AsFd::as_fd).collect();
            scm::send(line, &Event::Started(pid).to_bytes(), &pidfd)
        }
        Err(error) => {
            scm::send(line, &Event::NotStarted(error.raw_os_error().unwrap_or(libc::EIO)).to_bytes(), &[])
        }
    }
}

/// The process id that was given last in this namespace: the last word of `/proc/loadavg`, of whoever reads it.
fn last_pid() -> io::Result<i32> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let last = text.split_whitespace().last().and_then(|word| word.parse().ok());
    last.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn start(
    description: &Description,
    cgroup: &OwnedFd,
    stdio: &[OwnedFd],
    errors: OwnedFd,
) -> io::Result<(i32, Option<OwnedFd>)> {
    let how =
        Clone3 { exit_signal: libc::SIGCHLD, cgroup: Some(cgroup.as_fd()), pidfd: true, ..Clone3::default() };
    match fork::clone3(&how)? {
        Forked::Parent(pid, pidfd) => Ok((pid, pidfd)),
        Forked::Child => {
            let mut errors = File::from(errors);
            let (doing, error) = become_program(description, stdio);
            let mut words = error.raw_os_error().unwrap_or(0).to_le_bytes().to_vec();
            words.extend_from_slice(doing.as_bytes());
            let _ = errors.write_all(&words);
            fork::exit_now(127)
        }
    }
}

/// Becomes the program; returns only when that fails, with the step that did.
fn become_program(description: &Description, stdio: &[OwnedFd]) -> (&'static str, io::Error) {
    let prepared = (|| {
        let step = |doing: &'static str, result: io::Result<()>| result.map_err(|error| (doing, error));
        step("unblock signals", fork::unblock_all_signals())?;
        step("begin a session", rustix::process::setsid().map(drop).map_err(Into::into))?;
        step("pass standard input on", take_stdio(stdio))?;
        if description.controlling_tty {
            let taken = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
            step("make the terminal its controlling one", taken.map_err(Into::into))?;
        }
        for (resource, soft, hard) in &description.rlimits {
            step("set a resource limit", fork::set_limit(*resource, *soft, *hard))?;
        }
        if let Some((uid, gid, groups)) = &description.user {
            step("set the user", become_user(*uid, *gid, groups))?;
        }
        Ok(())
    })();
    if let Err(failed) = prepared {
        return failed;
    }
    let text = |bytes: &[u8]| std::ffi::OsString::from_vec(bytes.to_vec());
    let Some((program, arguments)) = description.argv.split_first() else {
        return ("start a program without a name", io::ErrorKind::InvalidInput.into());
    };
    let mut command = std::process::Command::new(text(program));
    command.args(arguments.iter().map(|each| text(each)));
    command.env_clear().envs(description.env.iter().map(|(key, value)| (text(key), text(value))));
    let cwd = description.cwd.as_ref().map_or_else(|| "/".into(), |cwd| text(cwd));
    if let Err(error) = std::env::set_current_dir(&cwd) {
        return ("enter the working directory", error);
    }
    ("start the program", command.exec())
}

fn take_stdio(stdio: &[OwnedFd]) -> io::Result<()> {
    let mut stdio = stdio.iter();
    if let Some(fd) = stdio.next() {
        rustix::stdio::dup2_stdin(fd)?;
    }
    if let Some(fd) = stdio.next() {
        rustix::stdio::dup2_stdout(fd)?;
    }
    if let Some(fd) = stdio.next() {
        rustix::stdio::dup2_stderr(fd)?;
    }
    Ok(())
}

/// One thread, so what is set for the thread is set for the process.
fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}
