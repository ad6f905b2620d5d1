//! Moves between two nodes, for real: everything but the network and the processor is each node's own.

mod common;

use common::hosts::{Net, TestNode};
use common::{Place, count_in, counter, spec, wait_for_count_in};
use ferry_model::handover::Outcome;
use ferry_session::movement::Node;
use ferry_session::shim::protocol::Exit;
use libtest_mimic::{Arguments, Trial};
use std::sync::Arc;

fn main() {
    if common::is_helper() {
        return;
    }
    let trials =
        vec![Trial::test("a_program_goes_there_and_back_and_counts_on", common::run(there_and_back))];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

struct Two {
    place: Place,
    net: Arc<Net>,
    a: Arc<TestNode>,
    b: Arc<TestNode>,
}

fn two() -> Two {
    let (place, net) = (Place::new(), Arc::new(Net::default()));
    let (a, b) = (TestNode::new(&net, &place, "a"), TestNode::new(&net, &place, "b"));
    Two { place, net, a, b }
}

fn there_and_back() {
    let two = two();
    let id = two.a.start(spec(1, &counter()));
    wait_for_count_in(&two.a.directory(id), 5);
    for (from, to) in [(&two.a, &two.b), (&two.b, &two.a), (&two.a, &two.b)] {
        let mv = from.movements().begin(from.request(id, to)).unwrap();
        let ended = from.movements().wait(mv);
        let recorder = from.movements().get(mv).unwrap().recorder;
        assert_eq!(ended, Ok(Outcome::Moved), "{:#?}", recorder.events());
        if std::env::var_os("SHOW").is_some() {
            eprintln!(
                "{:#?} downtime {:?}",
                recorder.events(),
                ferry_model::event::downtime_us(&recorder.events())
            );
        }
        let count = count_in(&to.directory(id));
        assert!(count >= 5);
        wait_for_count_in(&to.directory(id), count + 5);
        assert!(!from.directory(id).join("shim.cbor").exists());
    }
    let mut shim = two.b.shim(id);
    shim.signal(15).unwrap();
    assert_eq!(shim.wait().unwrap(), Exit::Signal(15));
    let _ = (&two.net, &two.place);
}
