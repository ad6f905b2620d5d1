//! The self-verifying programs of `tests/objects` that need nothing but what the heart of Ferry moves: captured in one capsule,
//! killed, restored in another, twice; or captured and released; or tracked, as before a live move, and moved. Each says itself whether all is as it was.

mod harness;
mod tracked;

use harness::{Way, object};

macro_rules! objects {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use super::*;

            #[test]
            fn moved_twice() {
                object(stringify!($name), Way::Moved(2));
            }

            #[test]
            fn released() {
                object(stringify!($name), Way::Released(3));
            }

            #[test]
            fn tracked_and_moved() {
                object(stringify!($name), Way::Tracked(2));
            }
        }
    )*};
}

objects!(
    altstack,
    events,
    files,
    locks,
    memfd,
    multicast,
    pipes,
    tcp4,
    tcp6,
    tcp_ends,
    terminal,
    udp,
    unix_sockets,
    areas,
    credentials,
    file_mappings,
    image,
    itimers,
    many_tasks,
    memory,
    posix_timers,
    registers,
    robust,
    rseq,
    scheduling,
    shared_descriptors,
    sigio,
    signals,
    sigsuspend,
    stopped,
    threads,
    timeouts,
    tree,
);

/// Programs whose tree or memory puts early puppets to the test.
mod moved_early {
    use super::*;

    macro_rules! early {
        ($($name:ident),* $(,)?) => {$(
            #[test]
            fn $name() {
                object(stringify!($name), Way::Early(3));
            }
        )*};
    }

    early!(
        areas,
        changing,
        file_mappings,
        many_tasks,
        memfd,
        memory,
        shared_descriptors,
        terminal,
        threads,
        tree,
    );
}

mod tracer_killed {
    use super::*;

    #[test]
    fn threads_go_on() {
        object("threads", Way::TracerKilled(100));
    }

    #[test]
    fn waits_go_on() {
        object("timeouts", Way::TracerKilled(40));
    }

    #[test]
    fn registers_and_signals_go_on() {
        object("registers", Way::TracerKilled(60));
        object("signals", Way::TracerKilled(60));
    }

    #[test]
    fn trees_go_on() {
        object("tree", Way::TracerKilled(60));
    }

    #[test]
    fn tracked_ones_go_on() {
        object("threads", Way::TrackerKilled(60));
        object("timeouts", Way::TrackerKilled(40));
        object("signals", Way::TrackerKilled(60));
        object("tree", Way::TrackerKilled(60));
    }
}
