//! The fault walk: at every step of a move between two hosts something fails, comes back, and exactly one copy runs, with all that
//! it had.
//!
//! Hosts of the lab, nodes and shims of the real binary. At the step (when its entry is on disk: `ferry_node`'s faults on
//! order) a node stops; then nodes or shims are killed, a cable is pulled, a host is rebooted, the decider is away or its answer lost,
//! the target's disk is full, or the kernel kills for want of memory. What failed comes back, and the walk looks at what is left. CI
//! walks a sample (`FERRY_SEED` chooses it), `FERRY_SOAK=1` all. Beside it, on the same two hosts: what a person may do meanwhile.

mod counter;
mod fault;
mod memory;
mod people;
mod rest;
mod world;

use fault::{FAULTS, Fault, STEPS, Step};
use libtest_mimic::{Arguments, Failed, Trial};
use world::World;

/// Trials of a run in CI.
const SAMPLE: usize = 18;

fn main() {
    let all = STEPS.iter().flat_map(|step| FAULTS.iter().map(move |fault| (*step, *fault)));
    let faults = all.filter(|(step, fault)| chosen(*step, *fault)).map(|(step, fault)| {
        let name: String = format!("{}_{fault:?}", step.name)
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' })
            .collect();
        Trial::test(name.trim_end_matches('_'), move || walk(step, fault))
    });
    libtest_mimic::run(&Arguments::from_args(), faults.chain(people::trials()).collect()).exit();
}

/// The sample of this run. By hash, so that listing and running agree on it.
fn chosen(step: Step, fault: Fault) -> bool {
    if std::env::var_os("FERRY_SOAK").is_some() {
        return true;
    }
    // Few, and each of them is another way in which pages could become zeros.
    let always = [
        Fault::TargetNode,
        Fault::SourceNode,
        Fault::TargetShim,
        Fault::Pager,
        Fault::LinkCut,
        Fault::SourceReboot,
        Fault::DiskFull,
    ];
    if step.is_drain() && always.contains(&fault) {
        return true;
    }
    let seed = std::env::var("FERRY_SEED").unwrap_or_default();
    let rank = |step: Step, fault: Fault| {
        ferry_model::ids::Hash::of(format!("{seed} {} {fault:?}", step.name).as_bytes()).0
    };
    let mine = rank(step, fault);
    let all = STEPS.iter().flat_map(|step| FAULTS.iter().map(move |fault| rank(*step, *fault)));
    all.filter(|other| *other < mine).count() < SAMPLE
}

fn walk(step: Step, fault: Fault) -> Result<(), Failed> {
    let mut world = World::new()?;
    let ended = world.walk_to(step).and_then(|()| fault::strike(&mut world, step, fault));
    let result = ended.and_then(|must| rest::check(&world, must));
    result.map_err(|e| format!("{} {fault:?}: {e}\n{}", step.name, world.story()))?;
    world.clear().map_err(Failed::from)
}
