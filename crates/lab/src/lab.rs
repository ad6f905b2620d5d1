//! A lab: a switch and hosts. It goes when the value drops, or when the process that holds it ends.

use crate::cgroup;
use crate::error::{At, Error, Result};
use crate::host::Host;
use crate::leftovers::{Marks, PREFIX, VARIABLE};
use crate::spec::HostSpec;
use crate::wire::{self, FromKeeper, ToKeeper};
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the helpers may take to clear away.
const CLEAR_MAX: Duration = Duration::from_secs(15);
/// Where, in the lab's directory, each host mounts its layers (each in a mount namespace of its own).
const MOUNT_POINT: &str = "mount";
/// Most hosts in a lab.
const HOSTS_MAX: u8 = 250;

/// Hosts joined by a bridge in a network namespace of the lab's own.
pub struct Lab {
    keeper: Arc<Keeper>,
    hosts: u8,
    install: Vec<(PathBuf, PathBuf)>,
}

/// The owner's end of the keeper. Hosts hold it too: they ask it for their cables.
pub(crate) struct Keeper {
    /// None once hung up. The lock also keeps question and answer together.
    socket: Mutex<Option<OwnedFd>>,
    child: Mutex<Child>,
    pub(crate) marks: Mutex<Marks>,
    /// The hosts' control sockets: hanging up shuts them, whoever still holds one.
    controls: Mutex<Vec<Arc<OwnedFd>>>,
}

impl Lab {
    /// Makes an empty lab. `helper` is a program whose `lab-agent` subcommand calls [`crate::agent_main`]; every host gets
    /// it as `/usr/local/bin/ferry`.
    ///
    /// # Errors
    /// Not root; no cgroup2; a namespace that cannot be made.
    pub fn new(helper: &Path) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().subsec_nanos();
        let name = format!("{PREFIX}{}-{number}-{since:08x}", std::process::id());
        let scratch = std::env::temp_dir().join(&name);
        let cgroup = cgroup::own()?.join(&name);
        let helper = fs::canonicalize(helper).at(format!("Finding {}", helper.display()))?;
        let marks = Marks::new(&name, &cgroup, &scratch);

        fs::create_dir_all(scratch.join(MOUNT_POINT)).at("Making the lab's directory")?;
        let (ours, theirs) = wire::pair()?;
        let child = Command::new(&helper)
            .arg("lab-agent")
            .arg("keeper")
            .arg(&cgroup)
            .arg(&scratch)
            .env(VARIABLE, &name)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                let _ = fs::remove_dir_all(&scratch);
                return Err(error).at("Starting the lab's keeper");
            }
        };
        let keeper = Keeper {
            socket: Mutex::new(Some(ours)),
            child: Mutex::new(child),
            marks: Mutex::new(marks),
            controls: Mutex::default(),
        };
        let lab = Self {
            keeper: Arc::new(keeper),
            hosts: 0,
            install: vec![(helper, "/usr/local/bin/ferry".into())],
        };
        lab.keeper.hear()?;
        lab.keeper.remember();
        Ok(lab)
    }

    /// Adds a usual host.
    ///
    /// # Errors
    /// What could not be made, in words.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        self.add(HostSpec::new(name))
    }

    /// Adds a host with properties of its own.
    ///
    /// # Errors
    /// What could not be made, in words.
    pub fn add(&mut self, mut spec: HostSpec) -> Result<Host> {
        if self.hosts == HOSTS_MAX {
            return Err(Error::Helper(format!("A lab holds at most {HOSTS_MAX} hosts")));
        }
        self.hosts += 1;
        spec.number = self.hosts;
        {
            let marks = self.keeper.marks.lock().unwrap_or_else(PoisonError::into_inner);
            spec.lab.clone_from(&marks.name);
            spec.cgroup = marks.cgroup.join(format!("{}-{}", self.hosts, spec.name));
            spec.scratch = marks.scratch.join(MOUNT_POINT);
        }
        spec.install.extend(self.install.iter().cloned());
        let (ours, theirs) = wire::pair()?;
        let door = self.keeper.ask(&ToKeeper::Host(Box::new(spec.clone())), &[theirs.as_fd()])?;
        drop(theirs);
        let control = Arc::new(ours);
        self.keeper.controls.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&control));
        let door = door.unwrap_or_default();
        let host = Host::start(spec, control, door, Arc::clone(&self.keeper))?;
        for pid in [door, host.outer_pid(1).unwrap_or(door)] {
            self.keeper.marks.lock().unwrap_or_else(PoisonError::into_inner).remember(pid);
        }
        Ok(host)
    }

    /// How this lab's traces are known; ask [`Marks::left`] after [`Lab::clear`].
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.keeper.marks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A directory of the machine's that goes with the lab: for what hosts share.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.keeper.marks.lock().unwrap_or_else(PoisonError::into_inner).scratch.clone()
    }

    /// Something that can end this lab while others use it.
    #[must_use]
    pub fn closer(&self) -> Closer {
        Closer(Arc::clone(&self.keeper))
    }

    /// Ends all hosts, waits until everything is cleared away, and says what was left behind (nothing, one hopes).
    pub fn clear(self) -> Vec<String> {
        let marks = self.marks();
        drop(self);
        marks.left()
    }
}

/// Ends a lab from elsewhere, for instance when a signal arrives: every call on its hosts fails from then on.
#[derive(Clone)]
pub struct Closer(Arc<Keeper>);

impl Closer {
    /// Ends all hosts, waits until everything is cleared away, and says what was left behind.
    #[must_use]
    pub fn close(&self) -> Vec<String> {
        self.0.hang_up();
        let marks = self.0.marks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        marks.left()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.keeper.hang_up();
    }
}

impl Keeper {
    /// One question, one answer.
    pub(crate) fn ask(&self, question: &ToKeeper, fds: &[BorrowedFd<'_>]) -> Result<Option<i32>> {
        let guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = guard.as_ref().ok_or_else(|| Error::Gone("the switch".into()))?;
        wire::send(socket, question, fds)?;
        answer(socket)
    }

    fn hear(&self) -> Result<Option<i32>> {
        let guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        answer(guard.as_ref().ok_or_else(|| Error::Gone("the switch".into()))?)
    }

    fn remember(&self) {
        let pid = self.child.lock().unwrap_or_else(PoisonError::into_inner).id();
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.remember(i32::try_from(pid).unwrap_or_default());
    }

    fn hang_up(&self) {
        drop(self.socket.lock().unwrap_or_else(PoisonError::into_inner).take());
        for control in self.controls.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = rustix::net::shutdown(&*control, rustix::net::Shutdown::Both);
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + CLEAR_MAX;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Nothing to do when the keeper ended well.
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        cgroup::remove(&marks.cgroup);
        let _ = fs::remove_dir_all(&marks.scratch);
    }
}

fn answer(socket: &OwnedFd) -> Result<Option<i32>> {
    match wire::receive::<FromKeeper>(socket)? {
        Some((FromKeeper::Done(pid), _)) => Ok(pid),
        Some((FromKeeper::Failed(why), _)) => Err(Error::Helper(why)),
        None => Err(Error::Gone("the switch".into())),
    }
}
