//! What this host's kernel can do, found by doing it: a feature works when its effect was seen, not when a version
//! number, a configuration file or a return code says so.
//!
//! Each probe runs in a forked process with one thread, in namespaces of its own where it makes anything, and is killed
//! when it takes too long. Nothing of the host is changed.

mod host;
mod memory;
mod namespaces;
mod run;
mod tasks;

use std::path::Path;
use std::sync::OnceLock;

/// Whether Ferry can do without a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing works without it.
    Always,
    /// Some workloads or some ways to move them do not work without it.
    Sometimes,
}

/// A feature of the kernel, probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name, as plans use it.
    pub name: &'static str,
    /// Whether its effect was seen.
    pub works: bool,
    /// What was seen, or why it does not work.
    pub detail: String,
    /// What is lost where it is missing.
    pub cost_if_missing: &'static str,
    /// What it is for.
    pub needed_for: &'static str,
    /// Whether Ferry can do without it.
    pub need: Need,
}

/// What a probe saw, or why there was nothing to see.
type Seen = Result<String, String>;

/// A probe that has not been run.
struct Probe {
    name: &'static str,
    needed_for: &'static str,
    cost_if_missing: &'static str,
    need: Need,
    probe: fn(&Path) -> Seen,
}

/// Features to be reported as missing, separated by commas: for tests of refusals.
pub const WITHOUT: &str = "FERRY_FEATURES_WITHOUT";

/// Probes everything. `state` is the directory that will hold what workloads write.
#[must_use]
pub fn probe(state: &Path) -> Vec<Feature> {
    let without = std::env::var(WITHOUT).unwrap_or_default();
    let without: Vec<&str> = without.split(',').map(str::trim).collect();
    let probes = [tasks::PROBES, memory::PROBES, namespaces::PROBES, host::PROBES];
    probes.into_iter().flatten().map(|probe| one(probe, state, &without)).collect()
}

fn one(probe: &Probe, state: &Path, without: &[&str]) -> Feature {
    let seen = if without.contains(&probe.name) {
        Err(format!("Declared missing by {WITHOUT}"))
    } else {
        run::apart(|| (probe.probe)(state))
    };
    let works = seen.is_ok();
    let detail = seen.unwrap_or_else(|why| why);
    let Probe { name, needed_for, cost_if_missing, need, .. } = *probe;
    Feature { name, works, detail, cost_if_missing, needed_for, need }
}

/// Names of all features that work here, sorted; probed once.
#[must_use]
pub fn working(state: &Path) -> Vec<String> {
    static WORKING: OnceLock<Vec<String>> = OnceLock::new();
    let probe = || {
        let mut names: Vec<String> = probe(state)
            .into_iter()
            .filter(|feature| feature.works)
            .map(|feature| feature.name.to_owned())
            .collect();
        names.sort();
        names
    };
    WORKING.get_or_init(probe).clone()
}

/// Turns an error into the reason why a step did not work.
fn why<E: std::fmt::Display>(step: &str) -> impl Fn(E) -> String {
    let step = step.to_owned();
    move |error| format!("{step}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_has_an_answer_and_what_all_kernels_have_works() {
        let directory = std::env::temp_dir();
        let features = probe(&directory);
        let mut names: Vec<_> = features.iter().map(|feature| feature.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), features.len(), "a name is used twice");
        for feature in &features {
            assert!(!feature.detail.is_empty(), "{feature:?}");
            assert!(feature.works || feature.need == Need::Sometimes, "the tests need {feature:?}");
        }
        // What the tests of moves stand on.
        for name in
            ["ptrace-seize", "clone3-set-tid", "pidfd-getfd", "cgroup-freeze", "pagemap-scan", "tcp-repair"]
        {
            assert!(
                features.iter().any(|feature| feature.name == name && feature.works),
                "{name}: {features:?}"
            );
        }
    }

    #[test]
    fn a_feature_can_be_declared_missing() {
        let feature = one(&tasks::PROBES[0], Path::new("/"), &[tasks::PROBES[0].name]);
        assert!(!feature.works && feature.detail.contains(WITHOUT));
    }
}
