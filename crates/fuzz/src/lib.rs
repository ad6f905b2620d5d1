//! What fuzzers throw bytes at: every reader of bytes that Ferry did not write itself.
//!
//! Each target is a plain function of bytes that must return, whatever they are: no panic, no endless loop, no allocation
//! that the bytes do not pay for. What a reader accepts is put through the invariants that the code after it relies
//! on. The programs in `fuzz/` (cargo-fuzz, nightly) look for new inputs for hours; the test of this crate throws some thousand
//! mutations of good inputs at every target, in every run of the tests.

pub mod image;
pub mod mutate;
pub mod proc;
pub mod wire;

/// One reader under attack.
pub struct Target {
    /// Its name: that of its program in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Reads the bytes.
    pub run: fn(&[u8]),
    /// Good inputs, from which mutations begin.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "image_manifest", run: image::manifest, seeds: image::manifest_seeds },
    Target { name: "image_signature", run: image::signature, seeds: image::signature_seeds },
    Target { name: "wire_control", run: wire::control, seeds: wire::control_seeds },
    Target { name: "wire_frame", run: wire::frame, seeds: wire::frame_seeds },
    Target { name: "wire_round", run: wire::round, seeds: wire::round_seeds },
    Target { name: "wire_demand", run: wire::demand, seeds: wire::demand_seeds },
    Target { name: "wire_greeting", run: wire::greeting, seeds: wire::greeting_seeds },
    Target { name: "proc_maps", run: proc::maps, seeds: proc::maps_seeds },
    Target { name: "proc_smaps", run: proc::smaps, seeds: proc::smaps_seeds },
    Target { name: "proc_stat", run: proc::stat, seeds: proc::stat_seeds },
    Target { name: "proc_status", run: proc::status, seeds: proc::status_seeds },
    Target { name: "proc_limits", run: proc::limits, seeds: proc::limits_seeds },
    Target { name: "proc_timers", run: proc::timers, seeds: proc::timers_seeds },
    Target { name: "proc_mountinfo", run: proc::mountinfo, seeds: proc::mountinfo_seeds },
];
