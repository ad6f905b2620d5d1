//! The other end of a shim's socket: used by the node, and by the verbs that need no node. Synchronous; the node calls it on
//! threads that may block.

use super::protocol::{self, Answer, ClocksAt, Exit, PagerStatus, Request, Status, Untracked};
use super::spec::{ExecSpec, Size, Spec, With};
use super::{LOG, SOCKET};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::plan::Resource;
use ferry_sys::scm;
use ferry_transfer::access::{Missing, SpaceAccess};
use ferry_transfer::space::SpaceId;
use minicbor::bytes::ByteVec;
use rustix::net::RecvFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a shim may take from its start until it answers.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// What a look at a running workload gave.
#[derive(Debug)]
pub struct Tracked {
    /// The draft, to be handed to the target: an envelope with the state as far as it can be read while the workload runs.
    pub draft: Vec<u8>,
    /// Address spaces whose writes can be tracked: number, process as this host sees it, and its userfaultfd the first time.
    pub spaces: Vec<(SpaceId, i32, Option<OwnedFd>)>,
    /// Where the memory objects of the draft are. Their ranges are not filled in.
    pub objects: Vec<SpaceAccess>,
    /// Processes whose writes cannot be tracked: their memory goes in the pause.
    pub untracked: Vec<Untracked>,
}

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
        let stream = UnixStream::connect(path)?;
        if listener_has_died(&stream) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(Self { stream, dir: dir.to_owned() })
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
        self.exchange(|stream| protocol::send(stream, request))
    }

    fn exchange(&mut self, say: impl FnOnce(&mut UnixStream) -> io::Result<()>) -> Result<Answer> {
        let said = say(&mut self.stream)
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

    /// [`Request::Inspect`]. `with` counts as named, this once.
    pub fn inspect(&mut self, with: &[With]) -> Result<Vec<Resource>> {
        match self.call(&Request::Inspect { with: with.to_vec() })? {
            Answer::Inventory { resources } => Ok(resources),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Look`].
    pub fn look(&mut self) -> Result<()> {
        self.done(&Request::Look)
    }

    /// [`Request::Declare`].
    pub fn declare(&mut self, with: &[With]) -> Result<()> {
        self.done(&Request::Declare { with: with.to_vec() })
    }

    /// [`Request::Freeze`].
    pub fn freeze(&mut self) -> Result<()> {
        self.done(&Request::Freeze { stays: None })
    }

    /// [`Request::Freeze`] of a workload that goes on here.
    pub fn freeze_for_a_while(&mut self) -> Result<()> {
        self.done(&Request::Freeze { stays: Some(true) })
    }

    /// [`Request::Freeze`] and, without a wait for its answer, [`Request::Capture`] by who tracks these spaces and looks for guard pages in them.
    /// Returns when it is frozen; then [`Self::captured`] is to be asked before anything else.
    pub fn freeze_and_capture(&mut self, spaces: Vec<SpaceId>, staged: bool) -> Result<()> {
        let freeze = Request::Freeze { stays: None };
        let capture =
            Request::Capture { tracked: Some(spaces), staged: Some(staged), guards_known: Some(true) };
        let frozen = self.exchange(|stream| {
            protocol::send(stream, &freeze)?;
            protocol::send(stream, &capture)
        });
        match frozen {
            Ok(Answer::Done) => Ok(()),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => {
                // What runs is not captured: that is the other answer.
                let _ = self.captured();
                Err(error)
            }
        }
    }

    /// The answer to the capture that was asked for by [`Self::freeze_and_capture`].
    pub fn captured(&mut self) -> Result<(Vec<u8>, Vec<SpaceAccess>)> {
        self.exchange(|_| Ok(())).and_then(state_of)
    }

    /// [`Request::Capture`]: state, and where the memory is.
    pub fn capture(&mut self) -> Result<(Vec<u8>, Vec<SpaceAccess>)> {
        self.capture_tracked(Vec::new(), false)
    }

    /// [`Request::Capture`], by who tracks these spaces and, if it is `staged`, sends what is in memory file systems.
    pub fn capture_tracked(
        &mut self,
        spaces: Vec<SpaceId>,
        staged: bool,
    ) -> Result<(Vec<u8>, Vec<SpaceAccess>)> {
        let capture = Request::Capture { tracked: Some(spaces), staged: Some(staged), guards_known: None };
        self.call(&capture).and_then(state_of)
    }

    /// [`Request::Track`]: to be asked before each round, by one connection that stays open. The tracking of a space ends when its
    /// userfaultfd is closed.
    pub fn track(&mut self) -> Result<Tracked> {
        let (draft, spaces, objects, untracked) = match self.call(&Request::Track)? {
            Answer::Tracked { draft, spaces, objects, untracked } => (draft, spaces, objects, untracked),
            other => return Err(unexpected(&other)),
        };
        let fresh = spaces.iter().filter(|space| space.fresh).count();
        let passed = self.receive_descriptors(fresh).map_err(|e| {
            Error::from_source(Kind::Unable, &e)
                .context("The workload's shim did not hand over what tracks its memory")
        })?;
        let mut passed = passed.into_iter();
        let spaces = spaces.into_iter();
        let spaces = spaces.map(|each| (each.space, each.pid, if each.fresh { passed.next() } else { None }));
        Ok(Tracked { draft: draft.into(), spaces: spaces.collect(), objects, untracked })
    }

    /// Exactly as many descriptors as were announced.
    fn receive_descriptors(&self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut all: Vec<OwnedFd> = Vec::new();
        while all.len() < count {
            let (bytes, passed) = scm::receive(&self.stream, &mut [0], RecvFlags::empty())?;
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if passed.len() != (count - all.len()).min(scm::DESCRIPTORS_MAX) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "Another number of descriptors was announced",
                ));
            }
            all.extend(passed);
        }
        Ok(all)
    }

    /// [`Request::Throttle`].
    pub fn throttle(&mut self, share_percent: u32) -> Result<()> {
        self.done(&Request::Throttle { share_percent })
    }

    /// [`Request::Untrack`].
    pub fn untrack(&mut self) -> Result<()> {
        self.done(&Request::Untrack)
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
    pub fn draft(
        &mut self,
        spec: Spec,
        draft: Vec<u8>,
        as_clone: bool,
        may_follow: bool,
    ) -> Result<Vec<SpaceAccess>> {
        let (as_clone, may_follow) = (Some(as_clone), Some(may_follow));
        match self.call(&Request::Draft { spec, draft: draft.into(), as_clone, may_follow })? {
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
        self.done(&Request::Finish { missing: None })
    }

    /// [`Request::Finish`] of a workload that begins without these pages.
    pub fn finish_missing(&mut self, missing: Vec<Missing>) -> Result<()> {
        self.done(&Request::Finish { missing: Some(missing) })
    }

    /// [`Request::GiveBack`].
    pub fn give_back(&mut self, missing: Vec<Missing>) -> Result<()> {
        self.done(&Request::GiveBack { missing })
    }

    /// [`Request::Pages`].
    pub fn pages(&mut self, streams: Vec<OwnedFd>) -> Result<()> {
        let passed: Vec<BorrowedFd<'_>> = streams.iter().map(AsFd::as_fd).collect();
        let request = Request::Pages { streams: passed.len() as u32 };
        let answer = self.exchange(|stream| protocol::send_with(stream, &request, &passed))?;
        match answer {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Pager`].
    pub fn pager(&mut self) -> Result<PagerStatus> {
        match self.call(&Request::Pager)? {
            Answer::Pager { status } => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// [`Request::Hold`].
    pub fn hold(&mut self) -> Result<()> {
        self.done(&Request::Hold)
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

/// Whether nobody will ever accept: a pager that has outlived its shim has the listening socket, too, until it notices.
fn listener_has_died(stream: &UnixStream) -> bool {
    let Some(pid) = scm::peer_pid(stream).ok().filter(|pid| *pid > 0) else { return false };
    match ferry_sys::proc::stat::read(pid) {
        Ok(stat) => matches!(stat.state, b'Z' | b'X'),
        Err(_) => true,
    }
}

fn state_of(answer: Answer) -> Result<(Vec<u8>, Vec<SpaceAccess>)> {
    match answer {
        Answer::Captured { state, spaces } => Ok((state.into(), spaces)),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::new(Kind::Bug, format!("A shim gave an answer to something else: {answer:?}"))
}
