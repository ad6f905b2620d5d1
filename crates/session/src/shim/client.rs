//! The other end of a shim's socket: used by the node, and by the verbs that need no node. Synchronous; the node calls it on
//! threads that may block.

use super::protocol::{self, Answer, ClocksAt, Exit, Request, Status};
use super::spec::{ExecSpec, Size, Spec};
use super::{LOG, SOCKET};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::plan::Resource;
use ferry_transfer::access::SpaceAccess;
use minicbor::bytes::ByteVec;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a shim may take from its start until it answers.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// A connection to one shim.
pub struct Client {
    stream: UnixStream,
    dir: PathBuf,
}

impl Client {
    /// Connects to the shim of the workload whose state directory is `dir`. Fails when none lives.
    pub fn connect(dir: &Path) -> io::Result<Self> {
        // A socket's path is limited to 108 bytes; one through an open directory never is.
        let opened = std::fs::File::open(dir)?;
        let path = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&opened));
        Ok(Self { stream: UnixStream::connect(path)?, dir: dir.to_owned() })
    }

    /// Starts a shim for `dir` (made if it is not there) with the program `ferry`, detached, and connects. With `recover` it takes
    /// over what its predecessor left.
    pub fn spawn(ferry: &Path, dir: &Path, recover: bool) -> io::Result<Self> {
        if let Ok(client) = Self::connect(dir) {
            return Ok(client);
        }
        std::fs::create_dir_all(dir)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("shim.log"))?;
        let mut command = Command::new(ferry);
        command.arg("shim").arg("--dir").arg(dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if recover {
            command.arg("--recover");
        }
        let mut child = command.current_dir("/").process_group(0).spawn()?;
        let end = Instant::now() + START_TIME_MAX;
        loop {
            // The started process detaches into a second one and ends at once: its end is no failure unless its status says so.
            if let Some(status) = child.try_wait()?
                && !status.success()
            {
                return Err(io::Error::other(format!(
                    "The shim ended with {status}; see {}",
                    dir.join("shim.log").display()
                )));
            }
            match Self::connect(dir) {
                Ok(client) => {
                    let _ = child.wait();
                    return Ok(client);
                }
                Err(e) if Instant::now() > end => return Err(e),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Asks and waits for the answer. An [`Answer::Failed`] becomes the error that it carries.
    pub fn call(&mut self, request: &Request) -> Result<Answer> {
        let said = protocol::send(&mut self.stream, request)
            .and_then(|()| protocol::receive::<Answer>(&mut self.stream))
            .map_err(|e| {
                Error::from_source(Kind::Unable, &e)
                    .context(format!("The workload's shim in {} does not answer", self.dir.display()))
                    .hint("`ferry recover` starts another shim for it")
            })?;
        match said {
            Answer::Failed { error } => Err(error),
            answer => Ok(answer),
        }
    }

    fn done(&mut self, request: &Request) -> Result<()> {
        match self.call(request)? {
            Answer::Done | Answer::Status { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Start`].
    pub fn start(&mut self, spec: Spec) -> Result<()> {
        self.done(&Request::Start { spec })
    }

    /// [`Request::Adopt`].
    pub fn adopt(&mut self, spec: Spec, pid: i32) -> Result<()> {
        self.done(&Request::Adopt { spec, pid })
    }

    /// [`Request::Status`].
    pub fn status(&mut self) -> Result<Status> {
        match self.call(&Request::Status)? {
            Answer::Status { status } => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Wait`]: blocks until the first program has ended.
    pub fn wait(&mut self) -> Result<Exit> {
        match self.call(&Request::Wait)? {
            Answer::Exited { exit } => Ok(exit),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Signal`].
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        self.done(&Request::Signal { signal })
    }

    /// [`Request::Exec`]: the connection, which carries [`super::stream::Frame`]s from here.
    pub fn exec(mut self, spec: ExecSpec) -> Result<UnixStream> {
        match self.call(&Request::Exec { spec })? {
            Answer::Stream => Ok(self.stream),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Attach`]: the connection, which carries [`super::stream::Frame`]s from here.
    pub fn attach(mut self, size: Option<Size>) -> Result<UnixStream> {
        match self.call(&Request::Attach { size })? {
            Answer::Stream => Ok(self.stream),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Inspect`].
    pub fn inspect(&mut self) -> Result<Vec<Resource>> {
        match self.call(&Request::Inspect)? {
            Answer::Inventory { resources } => Ok(resources),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Look`].
    pub fn look(&mut self) -> Result<()> {
        self.done(&Request::Look)
    }

    /// [`Request::Freeze`].
    pub fn freeze(&mut self) -> Result<()> {
        self.done(&Request::Freeze { stays: None })
    }

    /// [`Request::Freeze`] of a workload that goes on here.
    pub fn freeze_for_a_while(&mut self) -> Result<()> {
        self.done(&Request::Freeze { stays: Some(true) })
    }

    /// [`Request::Capture`]: state, and where the memory is.
    pub fn capture(&mut self) -> Result<(Vec<u8>, Vec<SpaceAccess>)> {
        match self.call(&Request::Capture)? {
            Answer::Captured { state, spaces } => Ok((state.into(), spaces)),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Thaw`].
    pub fn thaw(&mut self) -> Result<()> {
        self.done(&Request::Thaw)
    }

    /// [`Request::Ground`].
    pub fn ground(&mut self, spec: Spec, clocks: Option<ClocksAt>) -> Result<()> {
        self.done(&Request::Ground { spec, clocks })
    }

    /// [`Request::Draft`]: where the memory goes for now.
    pub fn draft(&mut self, spec: Spec, draft: Vec<u8>) -> Result<Vec<SpaceAccess>> {
        match self.call(&Request::Draft { spec, draft: draft.into() })? {
            Answer::Prepared { spaces } => Ok(spaces),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Prepare`]: where the memory goes.
    pub fn prepare(&mut self, spec: Spec, state: Vec<u8>, as_clone: bool) -> Result<Vec<SpaceAccess>> {
        match self.call(&Request::Prepare { spec, state: state.into(), as_clone })? {
            Answer::Prepared { spaces } => Ok(spaces),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Finish`].
    pub fn finish(&mut self) -> Result<()> {
        self.done(&Request::Finish)
    }

    /// [`Request::Resume`].
    pub fn resume(&mut self) -> Result<()> {
        self.done(&Request::Resume)
    }

    /// [`Request::EndConnections`].
    pub fn end_connections(&mut self) -> Result<()> {
        self.done(&Request::EndConnections)
    }

    /// [`Request::Held`]: frames.
    pub fn held(&mut self) -> Result<Vec<ByteVec>> {
        match self.call(&Request::Held)? {
            Answer::Held { frames } => Ok(frames),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Deliver`].
    pub fn deliver(&mut self, frames: Vec<ByteVec>) -> Result<()> {
        self.done(&Request::Deliver { frames })
    }

    /// [`Request::Release`].
    pub fn release(&mut self) -> Result<()> {
        self.done(&Request::Release)
    }

    /// [`Request::Destroy`].
    pub fn destroy(&mut self) -> Result<()> {
        self.done(&Request::Destroy)
    }

    /// Path of the workload's log, which anyone who may read it follows directly.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::new(Kind::Bug, format!("A shim gave an answer to something else: {answer:?}"))
}
