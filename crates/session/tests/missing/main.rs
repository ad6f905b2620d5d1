//! A workload that runs before its memory is there: captured in one shim, restored in another without it, and fed from the frozen tasks.
//!
//! This executable is the tests, and the program `ferry` (when its first argument is `shim`). The workloads are self-verifying programs of
//! `tests/objects`: each says itself whether it ever read anything but what was there.

#[path = "../common/mod.rs"]
mod common;
mod moving;
mod prepared;

use ferry_session::shim::client::Client;
use ferry_session::shim::protocol::Phase;
use libtest_mimic::{Arguments, Trial};
use moving::{Move, wait_until};
use prepared::{opened_early, refused, stale};
use std::time::Duration;

/// Programs whose memory, threads or tree put the pager to the test.
const OBJECTS: &[&str] = &[
    "altstack",
    "areas",
    "file_mappings",
    "image",
    "many_tasks",
    "memory",
    "pages",
    "registers",
    "rseq",
    "shared_descriptors",
    "signals",
    "stopped",
    "threads",
    "timeouts",
    "tree",
];

fn main() {
    if common::is_helper() {
        return;
    }
    let mut trials: Vec<Trial> = OBJECTS
        .iter()
        .map(|name| {
            let work = move || {
                let mut moving = Move::begin(name, Duration::ZERO);
                if *name == "areas" {
                    // It looks at its mappings, which are marked while pages of them are missing.
                    moving.give_ways(2);
                    wait_until("all pages", || moving.pager().complete.is_some());
                }
                moving.resume().end();
                Ok(())
            };
            Trial::test(format!("{name}::missing"), work)
        })
        .collect();
    trials.extend([
        Trial::test("a_killed_pager_is_replaced_and_nobody_reads_zeros", common::run(pager_killed)),
        Trial::test("a_killed_shim_takes_over_from_its_pager", common::run(shim_killed)),
        Trial::test("init_holds_what_pager_and_shim_have_let_go_of", common::run(both_killed)),
        Trial::test("a_full_disk_at_the_end_keeps_what_holds_it", common::run(unwritten)),
        Trial::test("all_is_in_though_everybody_who_held_it_has_died", common::run(let_go_of)),
        Trial::test("a_way_that_is_cut_and_given_anew_loses_nothing", common::run(cut)),
        Trial::test("pages_that_never_come_freeze_it_for_good", common::run(held)),
        Trial::test("what_cannot_be_missing_is_refused", common::run(refused)),
        Trial::test("what_waits_for_pages_is_opened_with_the_draft", common::run(opened_early)),
        Trial::test("what_was_there_before_and_is_missing_again_is_not_seen", common::run(stale)),
        Trial::test("nothing_reads_memory_that_is_missing", common::run(not_whole)),
        Trial::test("faults_are_served_while_the_rest_follows", common::run(latency)),
    ]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

const SLOWLY: Duration = Duration::from_millis(2);

fn pager_killed() {
    let mut moving = Move::begin("pages", SLOWLY).resume();
    let (mut killed, mut last) = (0, 0);
    while killed < 12 && moving.pager().complete.is_none() {
        let Some(pager) = moving.pager_pid().filter(|pid| *pid != last) else { continue };
        // At whatever it is doing: reading, placing, in the middle of a fork.
        std::thread::sleep(Duration::from_micros(killed * 3701 % 20_000));
        if moving.pager().complete.is_some() {
            break;
        }
        common::kill(pager);
        (killed, last) = (killed + 1, pager);
        wait_until("another pager", || moving.to.pager().unwrap().restarts >= killed as u32);
        moving.give_ways(3);
    }
    assert!(killed >= 3, "it was complete after {killed} pagers");
    let status = moving.end();
    assert!(u64::from(status.restarts) >= killed, "{status:?}");
}

fn shim_killed() {
    let mut moving = Move::begin("pages", SLOWLY).resume();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(30));
        let shim = moving.to.status().unwrap().shim_pid;
        common::kill(shim);
        moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
        assert_ne!(moving.to.status().unwrap().shim_pid, shim);
        moving.give_ways(2);
    }
    moving.end();
}

fn both_killed() {
    let mut moving = Move::begin("memory", Duration::ZERO);
    // Nobody gives it any page yet.
    moving.let_go();
    std::thread::sleep(Duration::from_millis(30));
    let (shim, pager) = (moving.to.status().unwrap().shim_pid, moving.pager_pid().unwrap());
    // Stopped first, so that neither sees the other die.
    let stop = |pid: i32| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    };
    stop(shim);
    stop(pager);
    common::kill(pager);
    common::kill(shim);
    std::thread::sleep(Duration::from_millis(100));
    moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
    assert!(moving.pager().missing_bytes > 0);
    moving.give_ways(2);
    moving.end();
}

fn unwritten() {
    let mut moving = Move::begin("memory", Duration::ZERO);
    moving.to.resume().unwrap();
    // In the way of whatever the shim writes down next.
    let hindrance = ferry_sys::replace::beside(&moving.place.dir("to").join("shim.cbor"));
    std::fs::create_dir(&hindrance).unwrap();
    moving.give_ways(2);
    wait_until("all pages", || moving.pager().complete.is_some());
    std::thread::sleep(Duration::from_millis(600));
    assert!(moving.pager_pid().is_some(), "it has gone, and nobody knows that all is in");
    common::kill(moving.to.status().unwrap().shim_pid);
    std::fs::remove_dir(&hindrance).unwrap();
    moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
    moving.give_ways(2);
    wait_until("the end of the pager", || moving.pager_pid().is_none());
    moving.let_go();
    moving.end();
}

fn let_go_of() {
    let mut moving = Move::begin("memory", Duration::ZERO);
    moving.to.resume().unwrap();
    moving.give_ways(2);
    wait_until("the end of the pager", || moving.pager().complete.is_some() && moving.pager_pid().is_none());
    let before = moving.pager().complete;
    common::kill(moving.to.status().unwrap().shim_pid);
    moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
    assert_eq!(moving.pager().complete, before);
    moving.let_go();
    moving.end();
}

fn cut() {
    let mut moving = Move::begin("pages", SLOWLY).resume();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(25));
        for way in moving.ways.drain(..) {
            let _ = way.shutdown(std::net::Shutdown::Both);
        }
        wait_until("the loss of the way", || !moving.to.pager().unwrap().connected);
        std::thread::sleep(Duration::from_millis(10));
        moving.give_ways(3);
        wait_until("the new way", || {
            let status = moving.to.pager().unwrap();
            status.connected || status.complete.is_some()
        });
    }
    moving.end();
}

fn held() {
    let mut moving = Move::begin("memory", Duration::ZERO);
    moving.to.resume().unwrap();
    wait_until("the pager to know what is missing", || moving.to.pager().unwrap().missing_bytes > 0);
    let before = moving.pager();
    assert!(before.missing_bytes > 0 && !before.connected && before.complete.is_none(), "{before:?}");
    moving.to.hold().unwrap();
    moving.to.hold().unwrap();
    assert_eq!(moving.to.status().unwrap().phase, Phase::Held);
    assert!(moving.to.resume().is_err());
    common::kill(moving.to.status().unwrap().shim_pid);
    moving.to = Client::spawn(&common::program(), &moving.place.dir("to"), true).unwrap();
    assert_eq!(moving.to.status().unwrap().phase, Phase::Held);
    assert_eq!(moving.pager().missing_bytes, before.missing_bytes);
    moving.to.destroy().unwrap();
    moving.place.assert_empty("to");
    moving.from.destroy().unwrap();
}

fn not_whole() {
    let mut moving = Move::begin("memory", Duration::from_millis(20)).resume();
    let refused = |done: Result<(), ferry_model::error::Error>| {
        let error = done.unwrap_err();
        assert!(error.message.contains("still on its way"), "{error:?}");
    };
    refused(moving.to.inspect(&[]).map(drop));
    refused(moving.to.track().map(drop));
    refused(moving.to.freeze());
    refused(moving.to.look());
    moving.end();
}

fn latency() {
    let moving = Move::begin("pages", Duration::ZERO).resume();
    let status = moving.end();
    println!("{status:?}");
    assert!(status.faults > 0 && status.fault_us_median > 0 && status.fault_us_median <= status.fault_us_p99);
}
