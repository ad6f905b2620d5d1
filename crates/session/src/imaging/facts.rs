//! What a host must have so that an image can go on there, and the moment at which the image was made.

use ferry_image::HostFacts;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::{BootId, Hash};
use ferry_model::planning::visible_to_programs;
use ferry_process::records::State;
use ferry_sys::timens::Clocks;
use ferry_transfer::space::PAGE_SIZE;
use minicbor::{Decode, Encode};
use std::fs;
use std::path::Path;

/// When and in which boot the workload was frozen.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Moment {
    /// The boot of the host: its clocks and pids mean nothing in another one.
    #[n(0)]
    pub boot: BootId,
    /// What CLOCK_MONOTONIC showed to the workload, nanoseconds.
    #[n(1)]
    pub monotonic_ns: u64,
    /// What CLOCK_BOOTTIME showed to the workload, nanoseconds.
    #[n(2)]
    pub boottime_ns: u64,
}

impl Moment {
    /// Now, by this process's own clocks.
    pub fn now() -> Result<Self> {
        Self::by(Clocks::now())
    }

    /// Now, by the clocks that process `pid` sees.
    pub fn of(pid: i32) -> Result<Self> {
        let clocks = Clocks::now_in(Path::new(&format!("/proc/{pid}")));
        Self::by(
            clocks.map_err(|e| {
                Error::from_source(Kind::Unable, &e).context("Cannot read the workload's clocks")
            })?,
        )
    }

    fn by(clocks: Clocks) -> Result<Self> {
        let unable = |e: std::io::Error| {
            Error::from_source(Kind::Unable, &e).context("Cannot tell which boot this is")
        };
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(unable)?;
        let boot = text.trim().parse().map_err(|e| Error::from_source(Kind::Bug, &e))?;
        let nanos = |value: i128| u64::try_from(value).unwrap_or(0);
        Ok(Self { boot, monotonic_ns: nanos(clocks.monotonic_ns), boottime_ns: nanos(clocks.boottime_ns) })
    }
}

/// What the workload of `state`, captured on this host, may have found here and will miss elsewhere.
pub fn needed(state: &State) -> HostFacts {
    let threads = || state.tasks.iter().flat_map(|task| &task.threads);
    let vdso = state.spaces.iter().map(|space| space.vdso_hash).find(|hash| *hash != [0; 32]);
    let uname = rustix::system::uname();
    HostFacts {
        cpu_features: cpu_features(),
        xsave_bytes: threads().map(|thread| thread.extended.len()).max().unwrap_or(0) as u32,
        vdso: vdso.map(Hash),
        page_bytes: PAGE_SIZE as u32,
        kernel: uname.release().to_string_lossy().into_owned(),
        machine: uname.machine().to_string_lossy().into_owned(),
    }
}

/// Refuses an image that cannot go on here. Its vDSO is compared when the puppets exist, which have this host's.
pub fn check(needed: &HostFacts) -> Result<()> {
    let refuse = |text: String| {
        Err(Error::new(Kind::Refused, text)
            .hint("Restore it on a host with the same processor and kernel as the one that made it"))
    };
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    if needed.machine != machine {
        return refuse(format!("The image is of a {} machine, this is {machine}", needed.machine));
    }
    let page_bytes = PAGE_SIZE as u32;
    if needed.page_bytes != page_bytes {
        return refuse(format!(
            "The image has pages of {} bytes, this host of {page_bytes}",
            needed.page_bytes
        ));
    }
    let here = cpu_features();
    let lacks = |name: &&String| here.binary_search(name).is_err() && visible_to_programs(name);
    let missing: Vec<&str> = needed.cpu_features.iter().filter(lacks).map(String::as_str).collect();
    if !missing.is_empty() {
        return refuse(format!(
            "This host's processor lacks {}, which the workload may use",
            missing.join(", ")
        ));
    }
    Ok(())
}

/// Processor features as `/proc/cpuinfo` names them, sorted.
fn cpu_features() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let words = line.split(':').nth(1).unwrap_or_default().split_whitespace();
    let mut features: Vec<String> = words.map(str::to_owned).collect();
    features.sort_unstable();
    features
}
