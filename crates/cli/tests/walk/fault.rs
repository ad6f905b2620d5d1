//! What fails, how it is made to fail, and how it comes back.

use crate::memory::starve;
use crate::world::{SOURCE, TARGET, World, wait_until};
use std::path::Path;
use std::time::Duration;

/// An entry of a journal, or a point between two of them, and whose.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// Who writes it.
    pub by: usize,
}

impl Step {
    /// How the workload moves in the trials of this step: both methods pass through the same handover.
    pub fn method(&self) -> &'static str {
        match self.name {
            "OFFERED" | "RESERVED" | "DECIDING" | "RUNNING" => "stop-and-copy",
            "ASIDE" => "hybrid",
            "SERVING" | "HALF" | "COMPLETE" => "post-copy",
            _ => "pre-copy",
        }
    }

    /// It runs at the target while pages of it are at the source.
    pub fn is_drain(&self) -> bool {
        matches!(self.name, "SERVING" | "HALF")
    }
}

const fn step(name: &'static str, by: usize) -> Step {
    Step { name, by }
}

/// It runs at the target, and none of the pages that are missing there is served: the source stands still before the first.
pub const DRAINING: Step = step("SERVING", SOURCE);

/// As above, and half of the pages have been read there: what somebody waits for is still served, nothing else.
pub const HALF: Step = step("HALF", SOURCE);

/// All steps of a move that goes well, in order.
pub const STEPS: [Step; 15] = [
    step("OFFERED", SOURCE),
    step("RESERVED", TARGET),
    step("DRAFT", TARGET),
    step("ROUND", SOURCE),
    step("ASIDE", TARGET),
    step("FROZEN", SOURCE),
    step("PREPARED", TARGET),
    step("DECIDING", SOURCE),
    step("COMMITTED", SOURCE),
    step("STARTING", TARGET),
    step("RUNNING", TARGET),
    DRAINING,
    HALF,
    step("COMPLETE", TARGET),
    step("DONE", SOURCE),
];

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The source's node is killed.
    SourceNode,
    /// The target's node is killed.
    TargetNode,
    /// The source's shim is killed.
    SourceShim,
    /// The target's shim is killed.
    TargetShim,
    /// Node and shim of the source are killed.
    SourceBoth,
    /// Node and shim of the target are killed.
    TargetBoth,
    /// The source's host crashes and starts again.
    SourceReboot,
    /// The target's host crashes and starts again.
    TargetReboot,
    /// A cable is pulled and put back before anybody has given up.
    LinkCut,
    /// A cable is pulled for longer than a connection lives.
    LinkGone,
    /// The decider does not answer for a while.
    DeciderAway,
    /// The decider decides, and its answer is lost.
    AnswerLost,
    /// The target's disk is full for a while.
    DiskFull,
    /// The kernel kills the target's copy for want of memory.
    CopyMemory,
    /// The kernel kills the target's shim for want of memory.
    ShimMemory,
    /// What fetches missing pages at the target is killed.
    Pager,
    /// That and the target's shim are killed.
    PagerAndShim,
}

/// All of them.
pub const FAULTS: [Fault; 17] = [
    Fault::SourceNode,
    Fault::TargetNode,
    Fault::SourceShim,
    Fault::TargetShim,
    Fault::SourceBoth,
    Fault::TargetBoth,
    Fault::SourceReboot,
    Fault::TargetReboot,
    Fault::LinkCut,
    Fault::LinkGone,
    Fault::DeciderAway,
    Fault::AnswerLost,
    Fault::DiskFull,
    Fault::CopyMemory,
    Fault::ShimMemory,
    Fault::Pager,
    Fault::PagerAndShim,
];

/// What has to be left when all has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// Exactly one copy runs.
    Run,
    /// It has ended, as any program does whose host crashes or that the kernel kills; or its only whole copy was in the memory
    /// of a host that restarted, which the documents name.
    HaveEnded,
    /// It stands still for good, because pages of it were in the memory of a host that restarted; it has read no zeros.
    HaveLostPages,
}

/// How long what is away for a moment is away.
const MOMENT: Duration = Duration::from_millis(1200);

/// More than a connection lives without a word from the other side.
const LINK_GONE: Duration = Duration::from_secs(26);

/// How long a target may take after that to throw away what it made.
const CLEANED_MAX: Duration = Duration::from_secs(20);

/// Does the harm while a node stands still at `step`, lets it go on, brings back what failed.
///
/// # Errors
/// The harm could not be done, or what failed does not come back.
pub fn strike(world: &mut World, step: Step, fault: Fault) -> Result<Must, String> {
    let mut must = Must::Run;
    match fault {
        Fault::SourceNode => crash(world, step, SOURCE, false)?,
        Fault::TargetNode => crash(world, step, TARGET, false)?,
        Fault::SourceBoth => crash(world, step, SOURCE, true)?,
        Fault::TargetBoth => crash(world, step, TARGET, true)?,
        Fault::SourceShim => world.kill_shim(SOURCE).and_then(|()| world.go(step))?,
        Fault::TargetShim => world.kill_shim(TARGET).and_then(|()| world.go(step))?,
        Fault::Pager => world.kill_pager(TARGET).and_then(|()| world.go(step))?,
        Fault::PagerAndShim => {
            world.kill_pager(TARGET)?;
            world.kill_shim(TARGET)?;
            world.go(step)?;
        }
        Fault::SourceReboot => must = reboot(world, step, SOURCE)?,
        Fault::TargetReboot => must = reboot(world, step, TARGET)?,
        Fault::LinkCut => {
            world.cut()?;
            world.go(step)?;
            std::thread::sleep(MOMENT);
            world.heal()?;
        }
        Fault::LinkGone => {
            world.cut()?;
            world.go(step)?;
            std::thread::sleep(LINK_GONE);
            if !world.has_written(TARGET, "PREPARED") {
                wait_until("the target cleans up without a link", CLEANED_MAX, || Ok(world.is_bare(TARGET)))?;
            }
            world.heal()?;
        }
        Fault::DeciderAway => {
            world.switch("away")?;
            world.go(step)?;
            std::thread::sleep(MOMENT);
            world.unswitch("away");
        }
        Fault::AnswerLost => {
            world.switch("loses")?;
            world.go(step)?;
        }
        Fault::DiskFull => {
            fill(&world.state(TARGET).join(FILLER));
            world.go(step)?;
            std::thread::sleep(MOMENT);
            let _ = std::fs::remove_file(world.state(TARGET).join(FILLER));
        }
        Fault::CopyMemory => {
            let copy = world.copy_of(TARGET);
            if copy.is_empty() {
                // Nothing of it is there yet: then it is whoever would have built it.
                world.go(step)?;
                starve_shim(world)?;
            } else {
                starve(&copy)?;
                // A target that looked just before has written STARTING by now; one that looks later sees that it is gone.
                std::thread::sleep(Duration::from_millis(50));
                if world.has_written(TARGET, "STARTING") {
                    must = Must::HaveEnded;
                }
                world.go(step)?;
            }
        }
        Fault::ShimMemory if world.shim_of(TARGET).is_some() => {
            starve_shim(world)?;
            world.go(step)?;
        }
        Fault::ShimMemory => {
            world.go(step)?;
            starve_shim(world)?;
        }
    }
    Ok(must)
}

/// The node (and the shim) of a host die, and the node is started again.
fn crash(world: &mut World, step: Step, host: usize, shim_too: bool) -> Result<(), String> {
    if shim_too {
        world.kill_shim(host)?;
    }
    world.kill_node(host)?;
    world.go(step)?;
    world.start_node(host)
}

fn reboot(world: &mut World, step: Step, host: usize) -> Result<Must, String> {
    world.reboot(host)?;
    let must = match host {
        // Where it ran it has ended; frozen it was the only whole copy until the target had one.
        SOURCE if !world.has_written(TARGET, "PREPARED") => Must::HaveEnded,
        SOURCE if step.is_drain() => Must::HaveLostPages,
        TARGET if world.has_written(TARGET, "STARTING") => Must::HaveEnded,
        _ => Must::Run,
    };
    world.go(step)?;
    world.start_node(host)?;
    Ok(must)
}

/// The target's shim as soon as there is one, if one comes.
fn starve_shim(world: &World) -> Result<(), String> {
    for _ in 0..200 {
        if let Some(pid) = world.shim_of(TARGET) {
            return starve(&[pid]);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Name of the file that fills a disk.
const FILLER: &str = "filler";

/// Takes all the space that is left.
fn fill(path: &Path) {
    use std::io::Write;
    let Ok(mut file) = std::fs::File::create(path) else { return };
    for size in [1 << 20, 1 << 12, 1 << 8, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}
