//! Whether an execution state can go on at a host: processor, kernel, room.

use super::{Method, Options, is_memory};
use crate::facts::HostFacts;
use crate::plan::{Blocker, Inventory};

/// Kernel features without which nothing can be rebuilt at the target, by the names that `ferry check` prints.
pub const NEEDED_AT_TARGET: &[&str] = &["clone3-set-tid", "cgroup-freeze", "ptrace-seize", "pidfd-getfd"];

/// Kernel feature without which nothing tells what a workload writes while its memory is on its way.
pub const TRACKS_WRITES: &str = "userfaultfd-wp-async";

/// Kernel feature without which a workload cannot run while pages of it are missing.
pub const PAGES_FOLLOW: &str = "userfaultfd-missing";

/// What of the target's kernel does not serve a move whose pages follow.
pub(super) fn following(target: &HostFacts, options: &Options) -> Option<Blocker> {
    let can = target.kernel_features.iter().any(|feature| feature == PAGES_FOLLOW);
    (matches!(options.method, Method::PostCopy | Method::Hybrid) && !can).then(|| Blocker {
        what: format!(
            "The kernel of {} ({}) cannot run a workload whose pages are still missing: it lacks {PAGES_FOLLOW}",
            target.host, target.kernel_release
        ),
        lifted_by: "move it with --method pre-copy".into(),
    })
}

/// What of the source's kernel does not serve a move of running memory. `auto` takes another method instead.
pub(super) fn tracking(source: &HostFacts, options: &Options) -> Option<Blocker> {
    let tracks = source.kernel_features.iter().any(|feature| feature == TRACKS_WRITES);
    (matches!(options.method, Method::PreCopy | Method::Hybrid) && !tracks).then(|| Blocker {
        what: format!(
            "The kernel of {} ({}) cannot tell what the workload writes: it lacks {TRACKS_WRITES}",
            source.host, source.kernel_release
        ),
        lifted_by: "move it with --method stop-and-copy".into(),
    })
}

/// What of the target's processor and kernel does not fit the source's.
pub(super) fn execution(source: &HostFacts, target: &HostFacts) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    let mut block =
        |what: String, lifted_by: &str| blockers.push(Blocker { what, lifted_by: lifted_by.into() });
    let cold = "move it cold (--method cold: it starts anew), or choose another target";
    if source.architecture != target.architecture {
        block(
            format!(
                "{} is {}, the workload's registers are {}'s",
                target.host, target.architecture, source.architecture
            ),
            cold,
        );
        return blockers;
    }
    let missing: Vec<&str> = source
        .cpu_flags
        .iter()
        .filter(|flag| target.cpu_flags.binary_search(flag).is_err() && visible_to_programs(flag))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        block(
            format!(
                "{} lacks processor features that the workload may have found at its start: {}",
                target.host,
                missing.join(" ")
            ),
            cold,
        );
    }
    if source.xsave_bytes > target.xsave_bytes {
        block(
            format!(
                "Extended registers of {} bytes do not fit the {} bytes of {}",
                source.xsave_bytes, target.xsave_bytes, target.host
            ),
            cold,
        );
    }
    if source.page_bytes != target.page_bytes {
        block(
            format!(
                "{} has pages of {} bytes, the source of {}",
                target.host, target.page_bytes, source.page_bytes
            ),
            cold,
        );
    }
    if source.vdso != target.vdso {
        block(
            format!(
                "{} has another vDSO (kernel {}, here {}): the workload's time functions would run foreign code",
                target.host, target.kernel_release, source.kernel_release
            ),
            "choose a target with the same kernel build, or move it cold (--method cold)",
        );
    }
    let lacking: Vec<&str> = NEEDED_AT_TARGET
        .iter()
        .copied()
        .filter(|need| !target.kernel_features.iter().any(|feature| feature == need))
        .collect();
    if !lacking.is_empty() {
        block(format!("The kernel of {} lacks {}", target.host, lacking.join(", ")), "run ferry check there");
    }
    blockers
}

/// Whether there is room for the workload at the target.
pub(super) fn room(inventory: &Inventory, target: &HostFacts, options: &Options) -> Vec<Blocker> {
    let mut blockers = Vec::new();
    if options.method != Method::Cold && inventory.memory_bytes > target.memory_available_bytes {
        blockers.push(Blocker {
            what: format!(
                "Its {} MiB of memory are more than the {} MiB that {} has free",
                inventory.memory_bytes >> 20,
                target.memory_available_bytes >> 20,
                target.host
            ),
            lifted_by: "free memory there, or choose another target".into(),
        });
    }
    let image_bytes = if options.method == Method::Warm { inventory.memory_bytes } else { 0 };
    let files = inventory.resources.iter().filter(|resource| !is_memory(&resource.sort));
    let files_bytes: u64 = files.map(|resource| resource.bytes).sum();
    if files_bytes.saturating_add(image_bytes) > target.disk_available_bytes {
        blockers.push(Blocker {
            what: format!(
                "Its {} MiB of files are more than the {} MiB that {} has room for",
                files_bytes.saturating_add(image_bytes) >> 20,
                target.disk_available_bytes >> 20,
                target.host
            ),
            lifted_by: "free disk space there, or choose another target".into(),
        });
    }
    blockers
}

/// Flags that describe the machine to its kernel only say nothing about what a program may have found.
#[must_use]
pub fn visible_to_programs(flag: &str) -> bool {
    const KERNEL_ONLY: &[&str] = &[
        "arat",
        "arch_capabilities",
        "constant_tsc",
        "cpuid",
        "extd_apicid",
        "flush_l1d",
        "hypervisor",
        "ibpb",
        "ibrs",
        "ibrs_enhanced",
        "md_clear",
        "mtrr",
        "nonstop_tsc",
        "nopl",
        "npt",
        "nrip_save",
        "pae",
        "pat",
        "pcid",
        "pge",
        "pse",
        "pse36",
        "pti",
        "rep_good",
        "retbleed",
        "smap",
        "smep",
        "ssbd",
        "stibp",
        "svm",
        "tsc_adjust",
        "tsc_deadline_timer",
        "tsc_known_freq",
        "tsc_reliable",
        "umip",
        "vme",
        "vmmcall",
        "vmx",
        "vnmi",
        "x2apic",
        "xtopology",
    ];
    !KERNEL_ONLY.contains(&flag)
}
