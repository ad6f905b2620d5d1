//! The survey: every descriptor of every task, descriptions told apart, each looked at once. It changes nothing and
//! needs nobody to stop; what vanishes meanwhile is left out.

use super::class::{self, Class};
use super::{Error, FilesContext, Furniture, TaskRef};
use crate::records::file::Descriptor;
use ferry_model::plan::Blocker;
use ferry_sys::fdinfo::{self, FdInfo};
use ferry_sys::kcmp;
use ferry_sys::unix_diag::{self, UnixInfo};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

/// One open file description, as seen through one of its descriptors.
#[derive(Debug)]
pub(crate) struct Look {
    /// Where it was found first.
    pub(crate) task: TaskRef,
    /// The descriptor there.
    pub(crate) fd: i32,
    /// Index of the table it was found in.
    pub(crate) table: usize,
    /// What `/proc/PID/fd/N` points to.
    pub(crate) link: Vec<u8>,
    /// `fstat` of it.
    pub(crate) stat: Stat,
    /// `/proc/PID/fdinfo/N`.
    pub(crate) info: FdInfo,
    /// What it is.
    pub(crate) class: Class,
}

impl Look {
    /// `pid 7, descriptor 3`.
    pub(crate) fn place(&self) -> String {
        format!("pid {}, descriptor {}", self.task.ns_pid, self.fd)
    }

    /// Whether the descriptor is not what it was when it was looked at: another file, another name, another number of names, or closed.
    pub(crate) fn has_changed(&self) -> bool {
        let path = format!("/proc/{}/fd/{}", self.task.host_pid, self.fd);
        let link = std::fs::read_link(&path).map(|link| link.into_os_string().into_encoded_bytes());
        let stat = rustix::fs::stat(&path);
        let same = |stat: &Stat| {
            (stat.st_dev, stat.st_ino, stat.st_nlink)
                == (self.stat.st_dev, self.stat.st_ino, self.stat.st_nlink)
        };
        !link.is_ok_and(|link| link == self.link) || !stat.is_ok_and(|stat| same(&stat))
    }

    /// Device and inode.
    pub(crate) fn key(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// The link as text.
    pub(crate) fn name(&self) -> String {
        String::from_utf8_lossy(&self.link).into_owned()
    }

    /// Opened with `flag`.
    pub(crate) fn has(&self, flag: OFlags) -> bool {
        self.info.flags & flag.bits() != 0
    }
}

/// A descriptor table.
#[derive(Debug)]
pub(crate) struct TableLook {
    /// Who uses it.
    pub(crate) tasks: Vec<TaskRef>,
    /// Its descriptors; `description` is an index into [`Survey::looks`].
    pub(crate) descriptors: Vec<Descriptor>,
    pidfd: OnceCell<OwnedFd>,
}

/// Everything that was found.
pub(crate) struct Survey<'a> {
    pub(crate) tables: Vec<TableLook>,
    pub(crate) looks: Vec<Look>,
    pub(crate) furniture: &'a [Furniture],
    pub(crate) masters: &'a BTreeMap<u32, &'a OwnedFd>,
    pub(crate) objects: &'a BTreeSet<(u64, u64)>,
    pub(crate) tasks: Vec<TaskRef>,
    unix: OnceCell<HashMap<u32, UnixInfo>>,
    root: OnceCell<OwnedFd>,
    ids: OnceCell<HashMap<i32, i32>>,
}

impl<'a> Survey<'a> {
    /// Looks at all descriptors of `tasks`.
    pub(crate) fn make(tasks: &[TaskRef], ctx: &'a FilesContext<'_>) -> Result<Survey<'a>, Error> {
        let tables = group_tables(tasks)?;
        let mut survey = Survey {
            tables: Vec::new(),
            looks: Vec::new(),
            furniture: ctx.furniture,
            masters: &ctx.masters,
            objects: &ctx.objects,
            tasks: tasks.to_vec(),
            unix: OnceCell::new(),
            root: OnceCell::new(),
            ids: OnceCell::new(),
        };
        let mut found = Vec::new();
        for (number, tasks) in tables.into_iter().enumerate() {
            found.append(&mut look_at_table(number, tasks[0])?);
            survey.tables.push(TableLook { tasks, descriptors: Vec::new(), pidfd: OnceCell::new() });
        }
        survey.merge(found)?;
        for number in 0..survey.looks.len() {
            let class = class::classify(&survey, &survey.looks[number])?;
            survey.looks[number].class = class;
        }
        Ok(survey)
    }

    /// Tells descriptions apart: those that look alike are sorted by `kcmp`'s order.
    fn merge(&mut self, found: Vec<Look>) -> Result<(), Error> {
        type Alike = (u64, u64, u64, u32, Vec<u8>);
        let mut alike: HashMap<Alike, Vec<usize>> = HashMap::new();
        for (number, look) in found.iter().enumerate() {
            let flags = look.info.flags & !OFlags::CLOEXEC.bits();
            let key = (look.stat.st_dev, look.stat.st_ino, look.info.mount, flags, look.link.clone());
            alike.entry(key).or_default().push(number);
        }
        // For each found descriptor the first one with the same description.
        let mut first: Vec<usize> = (0..found.len()).collect();
        for numbers in alike.into_values().filter(|numbers| numbers.len() > 1) {
            let mut sorted = numbers;
            let mut trouble = None;
            sorted.sort_by(|&a, &b| {
                same_description(&found[a], &found[b]).unwrap_or_else(|error| {
                    trouble.get_or_insert(error);
                    Ordering::Less
                })
            });
            // A descriptor that was closed meanwhile: only when nothing is stopped. It stays on its own.
            if let Some(error) = trouble {
                if error.raw_os_error() == Some(libc::EBADF) || error.raw_os_error() == Some(libc::ESRCH) {
                    continue;
                }
                return Err(Error::kernel("compare descriptors (kcmp)")(error));
            }
            let mut head = sorted[0];
            let mut run = vec![head];
            let mut runs = Vec::new();
            for &next in &sorted[1..] {
                if matches!(same_description(&found[head], &found[next]), Ok(Ordering::Equal)) {
                    run.push(next);
                } else {
                    runs.push(std::mem::replace(&mut run, vec![next]));
                    head = next;
                }
            }
            runs.push(run);
            for run in runs {
                let lowest = run.iter().copied().min().unwrap_or(run[0]);
                for number in run {
                    first[number] = lowest;
                }
            }
        }
        let mut index = HashMap::new();
        for (number, look) in found.into_iter().enumerate() {
            let next = self.looks.len() as u32;
            let description = *index.entry(first[number]).or_insert(next);
            self.tables[look.table].descriptors.push(Descriptor {
                fd: look.fd,
                close_on_exec: look.has(OFlags::CLOEXEC),
                description,
            });
            if description == next {
                self.looks.push(look);
            }
        }
        Ok(())
    }

    /// Everything that cannot be moved.
    pub(crate) fn blockers(&self) -> Vec<Blocker> {
        self.looks
            .iter()
            .filter_map(|look| match &look.class {
                Class::Unsupported(blocker) => Some(blocker.clone()),
                _ => None,
            })
            .collect()
    }

    /// A copy of the descriptor behind `look`.
    pub(crate) fn take(&self, look: &Look) -> Result<OwnedFd, Error> {
        self.take_from(look.table, look.fd)
    }

    /// A copy of descriptor `fd` of table number `table`.
    pub(crate) fn take_from(&self, table: usize, fd: i32) -> Result<OwnedFd, Error> {
        let task = self.tables[table].tasks[0];
        let what = || format!("take descriptor {fd} of pid {} (pidfd_getfd)", task.ns_pid);
        let cell = &self.tables[table].pidfd;
        if cell.get().is_none() {
            let _ = cell.set(open_task(task.host_pid).map_err(Error::kernel(what()))?);
        }
        let Some(pidfd) = cell.get() else { return Err(Error::busy(what())) };
        pidfd_getfd(pidfd.as_fd(), fd, PidfdGetfdFlags::empty()).map_err(Error::kernel(what()))
    }

    /// The first task: all others live in the same namespaces.
    pub(crate) fn anyone(&self) -> Result<TaskRef, Error> {
        self.tasks.first().copied().ok_or_else(|| Error::busy("no task is left"))
    }

    /// Unix sockets of the workload's network namespace.
    pub(crate) fn unix(&self) -> Result<&HashMap<u32, UnixInfo>, Error> {
        if self.unix.get().is_none() {
            let net = self.namespace("net")?;
            let place = ferry_sys::enter::Place { mount: None, net: Some(net.as_fd()) };
            let all = ferry_sys::enter::within(place, || unix_diag::dump(unix_diag::open()?))
                .and_then(|all| all)
                .map_err(Error::kernel("list Unix sockets (sock_diag)"))?;
            let _ = self.unix.set(all);
        }
        self.unix.get().ok_or_else(|| Error::busy("Unix sockets"))
    }

    /// A namespace of the workload.
    pub(crate) fn namespace(&self, kind: &str) -> Result<OwnedFd, Error> {
        let path = format!("/proc/{}/ns/{kind}", self.anyone()?.host_pid);
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::kernel(format!("open {path}")))
    }

    /// The root directory of the workload's mount namespace.
    pub(crate) fn root(&self) -> Result<&OwnedFd, Error> {
        if self.root.get().is_none() {
            let what = "open the root of the workload's mount namespace";
            let mount = self.namespace("mnt")?;
            let own = rustix::fs::stat("/proc/self/ns/mnt").map_err(Error::kernel(what))?.st_ino;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = if rustix::fs::fstat(&mount).map_err(Error::kernel(what))?.st_ino == own {
                rustix::fs::open("/", flags, Mode::empty()).map_err(Error::kernel(what))?
            } else {
                let place = ferry_sys::enter::Place { mount: Some(mount.as_fd()), net: None };
                ferry_sys::enter::within(place, || rustix::fs::open("/", flags, Mode::empty()))
                    .map_err(Error::kernel(what))?
                    .map_err(Error::kernel(what))?
            };
            let _ = self.root.set(root);
        }
        self.root.get().ok_or_else(|| Error::busy("the root directory"))
    }

    /// What a thread, process, group or session id of the host is inside of the workload's pid namespace; `None`: outside.
    pub(crate) fn inside(&self, host_id: i32) -> Option<i32> {
        self.ids.get_or_init(|| all_ids(&self.tasks)).get(&host_id).copied()
    }
}

fn open_task(host_pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(host_pid).ok_or(io::ErrorKind::InvalidInput)?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(pidfd),
        // A thread that is not a leader: PIDFD_THREAD, Linux 6.9.
        Err(Errno::INVAL | Errno::NOENT) => {
            Ok(pidfd_open(pid, PidfdFlags::from_bits_retain(OFlags::EXCL.bits()))?)
        }
        Err(error) => Err(error.into()),
    }
}

fn same_description(a: &Look, b: &Look) -> io::Result<Ordering> {
    kcmp::compare_files(a.task.host_pid, a.fd, b.task.host_pid, b.fd)
}

/// Tasks by the table that they share, in the order given. Tasks that are gone, and zombies, have none.
fn group_tables(tasks: &[TaskRef]) -> Result<Vec<Vec<TaskRef>>, Error> {
    let alive: Vec<TaskRef> = tasks.iter().copied().filter(|task| has_table(task.host_pid)).collect();
    let mut order: Vec<usize> = (0..alive.len()).collect();
    let compare = |a: usize, b: usize| {
        kcmp::compare(alive[a].host_pid, alive[b].host_pid, kcmp::What::Files).unwrap_or(Ordering::Less)
    };
    order.sort_by(|&a, &b| compare(a, b));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for number in order {
        match groups.last_mut() {
            Some(group) if compare(group[0], number) == Ordering::Equal => group.push(number),
            _ => groups.push(vec![number]),
        }
    }
    for group in &mut groups {
        group.sort_unstable();
    }
    groups.sort_unstable();
    Ok(groups.into_iter().map(|group| group.into_iter().map(|number| alive[number]).collect()).collect())
}

fn has_table(host_pid: i32) -> bool {
    std::fs::read_dir(format!("/proc/{host_pid}/fd")).is_ok_and(|mut all| {
        // A zombie's directory opens and is empty; so is that of a task with no descriptor, which also needs no table.
        all.next().is_some_and(|first| first.is_ok())
    })
}

fn look_at_table(table: usize, task: TaskRef) -> Result<Vec<Look>, Error> {
    let pid = task.host_pid;
    let what = || format!("read the descriptors of pid {}", task.ns_pid);
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |name: &str| {
        rustix::fs::open(format!("/proc/{pid}/{name}"), directory, Mode::empty())
            .map_err(Error::kernel(what()))
    };
    let (fds, infos) = (open("fd")?, open("fdinfo")?);
    let mut numbers = Vec::new();
    for entry in rustix::fs::Dir::read_from(&fds).map_err(Error::kernel(what()))? {
        let entry = entry.map_err(Error::kernel(what()))?;
        numbers.extend(entry.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.sort_unstable();
    let mut looks = Vec::with_capacity(numbers.len());
    for fd in numbers {
        match look_at(table, task, fd, &fds, &infos) {
            Ok(look) => looks.push(look),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(Error::kernel(format!("look at {}: {fd}", what()))(error)),
        }
    }
    Ok(looks)
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EBADF))
}

fn look_at(table: usize, task: TaskRef, fd: i32, fds: &OwnedFd, infos: &OwnedFd) -> io::Result<Look> {
    let name = fd.to_string();
    let link = rustix::fs::readlinkat(fds, &name, Vec::new())?.into_bytes();
    let stat = rustix::fs::statat(fds, &name, AtFlags::empty())?;
    let file = rustix::fs::openat(infos, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(512);
    io::Read::read_to_end(&mut std::fs::File::from(file), &mut text)?;
    let info = fdinfo::parse(&String::from_utf8_lossy(&text));
    Ok(Look { task, fd, table, link, stat, info, class: Class::File })
}

/// Host ids and inner ids of threads, processes, groups and sessions.
fn all_ids(tasks: &[TaskRef]) -> HashMap<i32, i32> {
    let mut ids = HashMap::new();
    for task in tasks {
        ids.insert(task.host_pid, task.ns_pid);
        let threads = format!("/proc/{}/task", task.host_pid);
        for tid in ferry_sys::proc::numbers(&threads).unwrap_or_default() {
            ids.extend(ids_of(&format!("{threads}/{tid}/status")));
        }
    }
    ids.remove(&0);
    ids
}

/// The ids in a `status` file: on this host, and inside.
fn ids_of(path: &str) -> Vec<(i32, i32)> {
    let status = std::fs::read_to_string(path).unwrap_or_default();
    let ids = status.lines().filter_map(|line| {
        let (key, values) = line.split_once(':')?;
        if !matches!(key, "NStgid" | "NSpid" | "NSpgid" | "NSsid") {
            return None;
        }
        let mut numbers = values.split_whitespace().filter_map(|word| word.parse().ok());
        let host = numbers.next()?;
        Some((host, numbers.next_back().unwrap_or(host)))
    });
    ids.collect()
}
