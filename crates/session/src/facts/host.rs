//! The facts of this host.

use ferry_model::error::{Error, Kind, Result};
use ferry_model::facts::HostFacts;
use ferry_model::ids::{Hash, HostName};
use serde::Deserialize;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Environment variable that names a JSON file whose fields replace this host's facts. For tests of refusals: it makes a
/// plan worse or wrong, never a workload run where it cannot, since restoring checks for itself.
pub const OVERRIDES: &str = "FERRY_FACTS";

/// Longest file of overrides, bytes.
const OVERRIDES_BYTES_MAX: u64 = 64 << 10;

/// Looks at this machine. `state` is the state directory, whose room counts; `kernel_features` come from the probes.
pub fn gather(
    name: &HostName,
    state: &Path,
    kernel_features: Vec<String>,
    bridge: Option<String>,
) -> Result<HostFacts> {
    let kernel = rustix::system::uname();
    let mut features = kernel_features;
    features.sort();
    let mut facts = HostFacts {
        host: name.clone(),
        architecture: kernel.machine().to_string_lossy().into_owned(),
        kernel_release: kernel.release().to_string_lossy().into_owned(),
        cpu_flags: cpu_flags(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        xsave_bytes: ferry_sys::cpu::xsave_bytes(),
        vdso: ferry_process::vdso::own_hash().ok().map(Hash),
        page_bytes: u32::try_from(rustix::param::page_size()).unwrap_or(0),
        kernel_features: features,
        memory_available_bytes: memory_available_bytes(
            &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        ),
        disk_available_bytes: disk_available_bytes(state),
        bridge,
    };
    if let Some(path) = std::env::var_os(OVERRIDES) {
        Overrides::read(Path::new(&path))?.apply(&mut facts);
    }
    Ok(facts)
}

/// Flags of the first processor, sorted. All processors of a machine have the same in practice; where they differ, the
/// kernel itself reports the common ones.
fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let flags = line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    let mut flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
    flags.sort();
    flags
}

fn memory_available_bytes(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// Room for files in the nearest directory that exists.
fn disk_available_bytes(state: &Path) -> u64 {
    let nearest = state.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    rustix::fs::statvfs(nearest).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// Facts that a test puts in place of the real ones. What is not named stays as it is.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Overrides {
    architecture: Option<String>,
    kernel_release: Option<String>,
    cpu_flags: Option<Vec<String>>,
    cpu_flags_without: Vec<String>,
    xsave_bytes: Option<u32>,
    vdso: Option<Hash>,
    kernel_features_without: Vec<String>,
    memory_available_bytes: Option<u64>,
    disk_available_bytes: Option<u64>,
}

impl Overrides {
    fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| {
            Error::new(
                Kind::Usage,
                format!("{OVERRIDES} names {}, which cannot be used: {why}", path.display()),
            )
        };
        let mut text = String::new();
        fs::File::open(path)
            .and_then(|file| file.take(OVERRIDES_BYTES_MAX).read_to_string(&mut text))
            .map_err(|e| bad(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| bad(e.to_string()))
    }

    fn apply(self, facts: &mut HostFacts) {
        fn put<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        put(&mut facts.architecture, self.architecture);
        put(&mut facts.kernel_release, self.kernel_release);
        put(&mut facts.cpu_flags, self.cpu_flags);
        put(&mut facts.xsave_bytes, self.xsave_bytes);
        put(&mut facts.memory_available_bytes, self.memory_available_bytes);
        put(&mut facts.disk_available_bytes, self.disk_available_bytes);
        if self.vdso.is_some() {
            facts.vdso = self.vdso;
        }
        facts.cpu_flags.retain(|flag| !self.cpu_flags_without.contains(flag));
        facts.kernel_features.retain(|feature| !self.kernel_features_without.contains(feature));
        facts.cpu_flags.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> HostFacts {
        gather(
            &HostName::new("here").unwrap(),
            Path::new("/var/lib/ferry/none"),
            vec!["b".into(), "a".into()],
            None,
        )
        .unwrap()
    }

    #[test]
    fn this_machine_has_a_processor_memory_room_and_a_vdso() {
        let facts = here();
        assert!(!facts.cpu_flags.is_empty() && facts.cpu_flags.is_sorted());
        assert!(facts.memory_available_bytes > 0 && facts.disk_available_bytes > 0);
        assert!(facts.vdso.is_some());
        assert_eq!(facts.kernel_features, ["a", "b"]);
    }

    #[test]
    fn overrides_replace_only_what_they_name() {
        let mut facts = here();
        let flag = facts.cpu_flags[0].clone();
        let text =
            format!(r#"{{"cpu_flags_without":["{flag}"],"xsave_bytes":7,"kernel_features_without":["a"]}}"#);
        let before = facts.clone();
        serde_json::from_str::<Overrides>(&text).unwrap().apply(&mut facts);
        assert!(!facts.cpu_flags.contains(&flag));
        assert_eq!((facts.xsave_bytes, facts.kernel_features.as_slice()), (7, ["b".to_owned()].as_slice()));
        assert_eq!(facts.vdso, before.vdso);
        assert!(
            serde_json::from_str::<Overrides>(r#"{"cpu_flag":[]}"#).is_err(),
            "a misspelt name is an error"
        );
    }
}
