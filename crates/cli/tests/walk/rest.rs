//! What has to be left when all has come back.

use crate::fault::Must;
use crate::world::{SOURCE, TARGET, WORKLOAD, World, wait_until};
use std::time::Duration;

/// How long everything may take to come to rest after the fault: more than a side waits in silence before it gives up.
const REST_MAX: Duration = Duration::from_secs(150);

/// How long one sort of thing may take once no move is under way.
const LONG: Duration = Duration::from_secs(40);

/// Comes to rest: no move under way, one copy that runs and counts on, nothing left on the other host.
///
/// # Errors
/// What is not so.
pub fn check(world: &World, must: Must) -> Result<(), String> {
    wait_until("no move is under way", REST_MAX, || {
        world.at_most_one_runs()?;
        Ok(!world.moves()?.iter().any(|state| ["running", "draining", "paused"].contains(&state.as_str())))
    })?;
    if must == Must::HaveEnded {
        std::thread::sleep(Duration::from_millis(300));
        let running = world.running()?;
        return if running.is_empty() { Ok(()) } else { Err(format!("runs on {running:?}, and had ended")) };
    }
    if must == Must::HaveLostPages {
        return stands_still(world);
    }
    wait_until("exactly one copy runs", LONG, || {
        world.at_most_one_runs()?;
        Ok(world.running()?.len() == 1)
    })?;
    let home = world.running()?[0];
    let count = world.counted(home)?;
    if count < world.counted_before {
        return Err(format!("it had counted to {} before, and now to {count}", world.counted_before));
    }
    wait_until("it counts on", LONG, || Ok(world.counted(home)? >= count + 5))?;
    let other = 1 - home;
    wait_until("nothing is left on the other host", LONG, || Ok(world.is_bare(other)))
}

/// What is left of it at the target is frozen for good, says so, and has not read what it has not got; a person removes it.
fn stands_still(world: &World) -> Result<(), String> {
    wait_until("it says that its pages are lost", LONG, || Ok(world.state_of(TARGET)? == "lost-pages"))?;
    let count = world.counted(TARGET)?;
    std::thread::sleep(Duration::from_millis(300));
    if world.counted(TARGET)? != count || !world.running()?.is_empty() {
        return Err(format!("it runs on without its pages: {:?}", world.running()?));
    }
    if !world.ok(TARGET, &["ps", "--all"])?.contains("lost(pages)") {
        return Err("ps does not say lost(pages)".to_owned());
    }
    world.recover(TARGET, &[], 0, "frozen for good")?;
    world.ok(TARGET, &["rm", "--force", WORKLOAD])?;
    wait_until("nothing is left on either host", LONG, || Ok(world.is_bare(SOURCE) && world.is_bare(TARGET)))
}
