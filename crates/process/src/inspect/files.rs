//! The inventory of descriptors: the survey of the capture, as resources of a plan. Nothing is stopped or changed.

use super::internet::Internet;
use crate::capture::files::class::Class;
use crate::capture::files::survey::{Look, Survey};
use crate::capture::files::{Error, FilesContext, TaskRef};
use ferry_model::plan::{Holder, Resource};
use ferry_model::resource::{Attachment, Binding};
use rustix::fs::OFlags;
use std::collections::BTreeMap;

/// Finds every resource that `tasks` hold by a descriptor, each once. What cannot be moved says why in `unsupported`. Hashes
/// are left to whoever needs them (see [`hash`]).
///
/// # Errors
/// When the descriptors cannot be read at all.
pub fn files(tasks: &[TaskRef], ctx: &FilesContext<'_>) -> Result<Vec<Resource>, Error> {
    let survey = match Survey::make(tasks, ctx) {
        Ok(survey) => survey,
        Err(error) => {
            // Nothing is stopped, so a task may have ended meanwhile: what is left is looked at again.
            let left: Vec<TaskRef> = tasks.iter().filter(|task| !has_ended(task)).cloned().collect();
            return if left.len() < tasks.len() { files(&left, ctx) } else { Err(error) };
        }
    };
    let internet = Internet::of(&survey);
    let mut found: BTreeMap<(String, String), Resource> = BTreeMap::new();
    for look in &survey.looks {
        let resource = resource(&survey, look, &internet);
        // The same file opened twice is one resource; what cannot be moved is listed every time.
        let again = if resource.unsupported.is_some() { look.place() } else { String::new() };
        found.entry((format!("{} {}", resource.sort, resource.name), again)).or_insert(resource);
    }
    Ok(found.into_values().collect())
}

/// Whether a task is gone, or has nothing any more but its exit code.
fn has_ended(task: &TaskRef) -> bool {
    std::fs::read_link(format!("/proc/{}/exe", task.host_pid)).is_err()
}

/// BLAKE3 of a file's content, as the workload sees it: `root` is the workload's root directory (`/proc/PID/root`).
///
/// # Errors
/// When it cannot be read.
pub fn hash(root: &std::path::Path, path: &str) -> std::io::Result<ferry_model::ids::Hash> {
    let relative = path.trim_start_matches('/');
    let mut file = std::fs::File::open(root.join(relative))?;
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(ferry_model::ids::Hash(*hasher.finalize().as_bytes()))
}

fn resource(survey: &Survey<'_>, look: &Look, internet: &Internet) -> Resource {
    use Attachment::{Fastened, Fixed, Unattached};
    use Binding::{Identifier, Type, Value};
    let path = String::from_utf8_lossy(&look.link).into_owned();
    let size = u64::try_from(look.stat.st_size).unwrap_or(0);
    let (sort, name, binding, attachment, bytes) = match &look.class {
        Class::File if made_up(&path) => ("kernel-file", path, Type, Unattached, 0),
        Class::File if is_library(look, &path) => ("library", path, Value, Unattached, size),
        Class::File => {
            // Large files are worth a thought before they travel.
            let attachment =
                if size > ferry_model::planning::UNATTACHED_BYTES_MAX { Fastened } else { Unattached };
            ("file", path, Identifier, attachment, size)
        }
        Class::Elsewhere(path) => {
            ("file", String::from_utf8_lossy(path).into_owned(), Identifier, Unattached, size)
        }
        Class::Directory if made_up(&path) => ("kernel-file", path, Type, Unattached, 0),
        Class::Directory => ("directory", path, Identifier, Unattached, 0),
        Class::Device(..) => ("device", path, Type, Unattached, 0),
        Class::Pipe | Class::Fifo => ("pipe", path, Identifier, Unattached, pending(survey, look)),
        Class::Nameless(_) => {
            let bytes = if survey.objects.contains(&look.key()) { 0 } else { size };
            ("deleted-file", format!("{path} (inode {})", look.stat.st_ino), Identifier, Unattached, bytes)
        }
        Class::Event => ("event", numbered("eventfd", look), Identifier, Unattached, 0),
        Class::Timer => ("event", numbered("timerfd", look), Identifier, Unattached, 0),
        Class::Signal => ("event", numbered("signalfd", look), Identifier, Unattached, 0),
        Class::Epoll => ("event", numbered("epoll", look), Identifier, Unattached, 0),
        Class::Inotify => ("event", numbered("inotify", look), Identifier, Unattached, 0),
        Class::TerminalMaster(index) | Class::TerminalSlave(index) => {
            ("terminal", format!("/dev/pts/{index}"), Type, Unattached, 0)
        }
        Class::Furniture(name) => ("furniture", name.clone(), Type, Unattached, 0),
        Class::Unix => {
            ("unix-socket", unix_name(survey, look), Identifier, Unattached, pending(survey, look))
        }
        Class::Tcp => internet.tcp(survey, look),
        Class::Udp => internet.udp(survey, look, pending(survey, look)),
        Class::Netlink => ("netlink-socket", path, Type, Unattached, 0),
        Class::Unsupported(_) => ("unsupported", path, Identifier, Fixed, 0),
    };
    let unsupported = match &look.class {
        Class::Unsupported(blocker) => Some(blocker.clone()),
        _ => None,
    };
    Resource {
        sort: sort.into(),
        name,
        holder: Some(Holder { pid: look.task.ns_pid, fd: Some(look.fd) }),
        binding,
        attachment,
        bytes,
        hash: None,
        unsupported,
        shared: None,
    }
}

fn made_up(path: &str) -> bool {
    ["/proc", "/sys"]
        .iter()
        .any(|root| path == *root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
}

/// A file of the system that is only read: any host's copy with the same content will do.
fn is_library(look: &Look, path: &str) -> bool {
    let read_only = look.info.flags & OFlags::RWMODE.bits() == OFlags::RDONLY.bits();
    let system = ["/usr/", "/lib", "/bin/", "/sbin/"].iter().any(|root| path.starts_with(root));
    read_only && system
}

fn numbered(what: &str, look: &Look) -> String {
    format!("{what} (pid {}, descriptor {})", look.task.ns_pid, look.fd)
}

/// Bytes that wait to be read.
fn pending(survey: &Survey<'_>, look: &Look) -> u64 {
    survey.take(look).ok().and_then(|fd| rustix::io::ioctl_fionread(fd).ok()).unwrap_or(0)
}

fn unix_name(survey: &Survey<'_>, look: &Look) -> String {
    let known = survey.unix().ok().and_then(|all| all.get(&(look.stat.st_ino as u32)));
    match known.and_then(|info| info.name.as_ref()) {
        Some(name) => format!("{} ({})", String::from_utf8_lossy(name).replace('\0', "@"), look.name()),
        None => look.name(),
    }
}
