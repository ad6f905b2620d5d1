//! A moment for tests: a workload that has arrived is whole, is this host's, and does not run yet.
//!
//! Then a test makes the source unreachable, so that nothing of it can be what the workload goes on with. With the variable
//! [`DIRECTORY`] in the node's environment and a file `armed` in the directory that it names, the node makes `held` there and waits until
//! `armed` is removed. Without the variable this does nothing; CONTRIBUTING.md describes it.

use std::path::Path;
use std::time::{Duration, Instant};

/// Environment variable that names the directory.
pub const DIRECTORY: &str = "FERRY_HOLD_RESUME";

/// So long a workload is held at most: a test that has died must not keep it for ever.
const HELD_MAX: Duration = Duration::from_secs(60);

/// Waits, where a test asks for it.
pub(super) fn before_resume() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        hold(Path::new(&directory), HELD_MAX);
    }
}

fn hold(directory: &Path, time_max: Duration) {
    let (armed, held) = (directory.join("armed"), directory.join("held"));
    if !armed.exists() || std::fs::write(&held, "").is_err() {
        return;
    }
    let end = Instant::now() + time_max;
    while armed.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = std::fs::remove_file(&held);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_armed_is_not_held_and_what_is_goes_on_when_told() {
        let place = tempfile::tempdir().unwrap();
        hold(place.path(), Duration::from_secs(60));
        assert!(!place.path().join("held").exists());
        let armed = place.path().join("armed");
        std::fs::write(&armed, "").unwrap();
        std::thread::scope(|scope| {
            let holding = scope.spawn(|| hold(place.path(), Duration::from_secs(60)));
            while !place.path().join("held").exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!holding.is_finished());
            std::fs::remove_file(&armed).unwrap();
        });
        assert!(!place.path().join("held").exists());
    }
}
