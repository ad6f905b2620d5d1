//! The brief fuzzer: every target, its good inputs, and thousands of mutations of them.

use ferry_fuzz::TARGETS;
use ferry_fuzz::mutate::{Numbers, mutate};
use std::time::{Duration, Instant};

const MUTATIONS: u64 = 20_000;
/// No input of a few hundred bytes may keep a reader busy for longer.
const ONE_INPUT_MAX: Duration = Duration::from_secs(2);

fn attack(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty());
    for seed in &seeds {
        (target.run)(seed);
    }
    for number in 0..MUTATIONS {
        let mut numbers = Numbers::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let seed = &seeds[numbers.below(seeds.len())];
        let input = mutate(seed, &mut numbers);
        let start = Instant::now();
        let done = std::panic::catch_unwind(|| (target.run)(&input));
        assert!(done.is_ok(), "{name}: mutation {number} of a seed ends in a panic: {input:02x?}");
        assert!(
            start.elapsed() < ONE_INPUT_MAX,
            "{name}: mutation {number} takes {:?}: {input:02x?}",
            start.elapsed()
        );
    }
}

/// Each program of cargo-fuzz belongs to a target, and each target has one.
#[test]
fn every_target_has_its_program() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/fuzz_targets");
    let mut programs: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    programs.sort();
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    assert_eq!(programs, names);
}

macro_rules! brief {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            attack(stringify!($name));
        })*

        #[test]
        fn every_target_is_attacked() {
            let attacked = [$(stringify!($name)),*];
            assert!(TARGETS.iter().all(|target| attacked.contains(&target.name)));
        }
    };
}

brief!(proc_maps proc_smaps proc_stat proc_status proc_limits proc_timers proc_mountinfo image_manifest image_signature wire_control wire_frame wire_demand wire_greeting wire_round);
