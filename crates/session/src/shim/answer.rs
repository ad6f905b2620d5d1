//! What is asked of a shim on a connection, and what it answers.

use super::capture::Known;
use super::connection::Mode;
use super::exec::Exec;
use super::protocol::{Answer, Phase, Request};
use super::run::Server;
use super::workload::unable;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::plan::{Blocker, Resource};
use ferry_sys::schedule::Urgent;
use std::io;

impl Server {
    pub(super) fn request(&mut self, at: usize, request: Request) -> io::Result<()> {
        if matches!(request, Request::Wait) {
            self.connections[at].mode = Mode::Waiting;
            self.answer_waiting();
            return Ok(());
        }
        if matches!(request, Request::Capture { .. }) {
            // What the terminal shows belongs to the log and to who looks on, here; what was typed goes along.
            while self.pump_terminal() {}
        }
        if !matches!(request, Request::Status)
            && let Err(error) = self.workload.run_for_a_moment()
        {
            return self.connections[at].answer(&Answer::Failed { error });
        }
        if let Some(what) = reads_memory(&request)
            && let Err(error) = self.workload.require_whole(what)
        {
            return self.connections[at].answer(&Answer::Failed { error });
        }
        if request.is_in_pause() {
            // The workload stands still, or is about to. Also between two of these: on a busy host a thread waits for its turn.
            self.urgent.get_or_insert_with(Urgent::begin);
        } else if !matches!(request, Request::Status) {
            self.urgent = None;
        }
        let ends_pause = matches!(request, Request::Resume);
        let destroys = matches!(request, Request::Destroy | Request::Release);
        let answered = match request {
            Request::Exec { spec } => self.exec(at, &spec),
            Request::Attach { size } => self.attach(at, size),
            Request::Freeze { stays } => self.freeze(stays.unwrap_or(false)),
            Request::Inspect { with } => self.inspect(&with),
            Request::Track => return self.track(at),
            Request::Pages { streams } => {
                let passed = self.connections[at].take_passed(streams)?;
                self.workload.give_ways(passed).map(|()| Answer::Done)
            }
            other => self.answer(other),
        };
        if ends_pause {
            self.urgent = None;
        }
        let answer = answered.unwrap_or_else(|error| Answer::Failed { error });
        self.over |= destroys && answer == Answer::Done;
        self.connections[at].answer(&answer)?;
        if answer == Answer::Stream && matches!(self.connections[at].mode, Mode::Attached) {
            self.say_exit(at);
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Result<Answer> {
        let workload = &mut self.workload;
        match request {
            Request::Start { spec } => {
                workload.start(&spec)?;
                Ok(Answer::Status { status: workload.status() })
            }
            Request::Adopt { spec, pid } => {
                workload.adopt(&spec, pid)?;
                Ok(Answer::Status { status: workload.status() })
            }
            Request::Declare { with } => workload.declare(with).map(|()| Answer::Done),
            Request::Status => {
                workload.ended();
                Ok(Answer::Status { status: workload.status() })
            }
            Request::Signal { signal } => workload.signal(signal).map(|()| Answer::Done),
            Request::Capture { tracked, staged, guards_known } => {
                let known = Known {
                    tracked: tracked.unwrap_or_default().into_iter().collect(),
                    staged: staged == Some(true),
                    guards: guards_known == Some(true),
                };
                let (state, spaces) = workload.capture(&known)?;
                Ok(Answer::Captured { state: state.into(), spaces })
            }
            Request::Look => workload.look().map(|()| Answer::Done),
            Request::Thaw => workload.thaw().map(|()| Answer::Done),
            Request::Ground { spec, clocks } => workload.ground(&spec, clocks).map(|()| Answer::Done),
            Request::Draft { spec, draft, as_clone, may_follow } => {
                let spaces = workload.draft(&spec, &draft, as_clone == Some(true))?;
                if may_follow == Some(true) {
                    workload.expect_missing();
                }
                Ok(Answer::Prepared { spaces })
            }
            Request::GiveBack { missing } => workload.give_back(&missing).map(|()| Answer::Done),
            Request::Prepare { spec, state, as_clone } => {
                let spaces = workload.prepare(&spec, &state, as_clone)?;
                Ok(Answer::Prepared { spaces })
            }
            Request::Finish { missing } => {
                workload.finish(&missing.unwrap_or_default()).map(|()| Answer::Done)
            }
            Request::Pager => workload.pager_status().map(|status| Answer::Pager { status }),
            Request::Hold => workload.hold_for_good().map(|()| Answer::Done),
            Request::Resume => workload.resume().map(|()| Answer::Done),
            Request::Destroy => workload.destroy().map(|()| Answer::Done),
            Request::EndConnections => {
                workload.ends_connections = true;
                Ok(Answer::Done)
            }
            Request::Held => {
                let frames = workload.held_frames().into_iter().map(Into::into).collect();
                Ok(Answer::Held { frames })
            }
            Request::Deliver { frames } => {
                workload.require(&[Phase::Running], "be given packets")?;
                let frames: Vec<_> = frames.into_iter().map(Into::into).collect();
                workload.deliver_frames(&frames).map(|()| Answer::Done)
            }
            Request::Release => workload.release().map(|()| Answer::Done),
            Request::Throttle { share_percent } => workload.throttle(share_percent).map(|()| Answer::Done),
            Request::Untrack => {
                workload.untrack();
                Ok(Answer::Done)
            }
            Request::Resize { size } => {
                let terminal = workload.terminal.as_ref().ok_or_else(no_terminal)?;
                terminal.resize(size).map_err(|e| unable("The terminal's size could not be set", &e))?;
                Ok(Answer::Done)
            }
            Request::Wait
            | Request::Exec { .. }
            | Request::Attach { .. }
            | Request::Freeze { .. }
            | Request::Inspect { .. }
            | Request::Pages { .. }
            | Request::Track => Err(Error::new(Kind::Bug, "Served elsewhere")),
        }
    }

    /// The plan names what speaks against it; this is for what was started after it.
    fn freeze(&mut self, stays: bool) -> Result<Answer> {
        if let Some(exec) = self.execs.iter().find(|exec| exec.has_client()) {
            let Blocker { what, lifted_by } = exec.blocker();
            return Err(Error::new(Kind::Refused, what).hint(lifted_by));
        }
        self.workload.freeze(stays).map(|()| Answer::Done)
    }

    /// Answers and passes what was opened. The tracking belongs to one connection: another one begins anew.
    fn track(&mut self, at: usize) -> io::Result<()> {
        if !self.connections[at].tracks {
            self.workload.untrack();
            self.connections.iter_mut().for_each(|connection| connection.tracks = false);
            self.connections[at].tracks = true;
        }
        match self.workload.track() {
            Ok((answer, descriptors)) => {
                self.connections[at].answer(&answer)?;
                self.connections[at].pass(&descriptors)
            }
            Err(error) => self.connections[at].answer(&Answer::Failed { error }),
        }
    }

    fn inspect(&mut self, with: &[super::With]) -> Result<Answer> {
        let mut resources = self.workload.inspect(with)?;
        for exec in self.execs.iter().filter(|exec| exec.has_client()) {
            // One reason, not one for each of its streams.
            let stream = |each: &Resource| {
                each.unsupported.is_some() && each.holder.is_some_and(|holder| holder.pid == exec.pid)
            };
            resources.retain(|each| !stream(each));
            resources.push(exec.resource());
        }
        Ok(Answer::Inventory { resources })
    }

    fn attach(&mut self, at: usize, size: Option<super::Size>) -> Result<Answer> {
        self.workload
            .require(&[Phase::Running, Phase::Frozen, Phase::Prepared, Phase::Exited], "be attached to")?;
        if let (Some(terminal), Some(size)) = (&self.workload.terminal, size) {
            let _ = terminal.resize(size);
        }
        self.connections[at].mode = Mode::Attached;
        Ok(Answer::Stream)
    }

    fn exec(&mut self, at: usize, spec: &super::ExecSpec) -> Result<Answer> {
        self.workload.require(&[Phase::Running], "run another program")?;
        self.workload.refuse_exec()?;
        self.execs_made += 1;
        let exec = Exec::start(&mut self.workload, spec, self.execs_made)?;
        self.connections[at].mode = Mode::Exec(exec.number);
        self.execs.push(exec);
        Ok(Answer::Stream)
    }
}

/// What is asked for, if it reads the workload's memory: it would wait for pages, and nobody would answer meanwhile.
fn reads_memory(request: &Request) -> Option<&'static str> {
    match request {
        Request::Inspect { .. } | Request::Look => Some("be looked at"),
        Request::Track => Some("be tracked"),
        Request::Freeze { .. } => Some("be frozen"),
        Request::Capture { .. } => Some("be captured"),
        _ => None,
    }
}

fn no_terminal() -> Error {
    Error::new(Kind::Usage, "The workload has no terminal").hint("start it with ferry run -it")
}
