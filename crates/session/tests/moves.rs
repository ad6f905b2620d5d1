//! Moves between two nodes, for real: everything but the network and the processor is each node's own.

mod common;

use common::hosts::{Net, TestNode};
use common::{Place, count_in, counter, spec, wait_for_count_in};
use ferry_model::error::Kind;
use ferry_model::event::{Cause, Phase, What};
use ferry_model::handover::Outcome;
use ferry_model::ids::WorkloadId;
use ferry_model::planning::Method;
use ferry_session::movement::{CloneSpec, Node};
use ferry_session::shim::protocol::Exit;
use ferry_session::shim::stream::Frame;
use ferry_session::shim::{Client, Size};
use libtest_mimic::{Arguments, Trial};
use std::sync::Arc;

fn main() {
    if common::is_helper() {
        return;
    }
    let trials = vec![
        Trial::test("a_program_goes_there_and_back_and_counts_on", common::run(there_and_back)),
        Trial::test("a_clone_goes_on_beside_its_original", common::run(clone)),
        Trial::test("a_cold_move_starts_it_anew_with_its_files", common::run(cold)),
        Trial::test("a_refused_move_touches_nothing", common::run(refused)),
        Trial::test("a_target_that_cannot_take_it_leaves_it_running_at_the_source", common::run(unable)),
        Trial::test("a_cut_link_before_the_decision_leaves_it_running_at_the_source", common::run(cut)),
        Trial::test("what_the_workload_wrote_goes_along", common::run(files)),
        Trial::test(
            "files_that_change_all_the_time_arrive_as_they_were_at_the_freeze",
            common::run(changing),
        ),
        Trial::test("a_big_file_that_was_written_long_before_is_not_in_the_pause", common::run(big)),
        Trial::test("lines_that_were_typed_and_not_read_go_along", common::run(typed_lines)),
        Trial::test("keys_that_were_typed_and_not_read_go_along", common::run(typed_keys)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn clone() {
    let two = two();
    let id = two.a.start(spec(2, &counter()));
    wait_for_count_in(&two.a.directory(id), 5);
    let mut request = two.a.request(id, &two.b);
    let clone = WorkloadId([0xc1; 16]);
    request.clone = Some(CloneSpec { id: clone, name: "twin".into(), address: None });
    let mv = two.a.movements().begin(request).unwrap();
    assert_eq!(two.a.movements().wait(mv), Ok(Outcome::Moved));
    let (here, there) = (count_in(&two.a.directory(id)), count_in(&two.b.directory(clone)));
    wait_for_count_in(&two.a.directory(id), here + 5);
    wait_for_count_in(&two.b.directory(clone), there + 5);
    let stream = Client::connect(&two.b.directory(clone)).unwrap().exec(common::exec_spec(&["hostname"]));
    assert_eq!(common::read_all(&mut stream.unwrap()).0, "twin\n");
    assert_eq!(two.b.shim(clone).status().unwrap().spec.unwrap().name, "twin");
}

fn cold() {
    let two = two();
    let script = "echo begin; echo kept >>/var/tmp/kept; cat /var/tmp/kept; exec sleep 1000";
    let id = two.a.start(spec(3, &["/bin/sh", "-c", script]));
    two.wait_for_log(&two.a, id, "begin\nkept\n");
    let mut request = two.a.request(id, &two.b);
    request.method = Method::Cold;
    let mv = two.a.movements().begin(request).unwrap();
    assert_eq!(two.a.movements().wait(mv), Ok(Outcome::Moved));
    two.wait_for_log(&two.b, id, "begin\nkept\nbegin\nkept\nkept\n");
}

fn refused() {
    let two = two();
    let id = two.a.start(spec(4, &counter()));
    *two.b.refusal.lock().unwrap() = Some("not on a Saturday".into());
    let mv = two.a.movements().begin(two.a.request(id, &two.b)).unwrap();
    let error = two.a.movements().wait(mv).unwrap_err();
    assert_eq!(error.kind, Kind::Refused);
    assert!(format!("{error:?}").contains("not on a Saturday"), "{error:?}");
    two.still_runs_at_a(id);
}

fn unable() {
    let two = two();
    let id = two.a.start(spec(5, &counter()));
    wait_for_count_in(&two.a.directory(id), 5);
    // Where the target wants to make its capsule, there is a file.
    let in_the_way = two.b.directory(id).parent().unwrap().to_owned();
    std::fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    std::fs::write(&in_the_way, "").unwrap();
    let mv = two.a.movements().begin(two.a.request(id, &two.b)).unwrap();
    assert!(two.a.movements().wait(mv).is_err());
    std::fs::remove_file(&in_the_way).unwrap();
    two.still_runs_at_a(id);
    let mv = two.a.movements().begin(two.a.request(id, &two.b)).unwrap();
    assert_eq!(two.a.movements().wait(mv), Ok(Outcome::Moved));
}

fn cut() {
    let two = two();
    let id = two.a.start(spec(6, &counter()));
    wait_for_count_in(&two.a.directory(id), 5);
    two.net.cut_after(1);
    let mv = two.a.movements().begin(two.a.request(id, &two.b)).unwrap();
    let error = two.a.movements().wait(mv).unwrap_err();
    assert_eq!(error.kind, Kind::RolledBack, "{error:?}");
    two.still_runs_at_a(id);
    two.net.cut_after(usize::MAX);
    let mv = two.a.movements().begin(two.a.request(id, &two.b)).unwrap();
    assert_eq!(two.a.movements().wait(mv), Ok(Outcome::Moved));
    wait_for_count_in(&two.b.directory(id), 50);
}

fn files() {
    let two = two();
    let script = "echo a >/etc/made; rm /etc/hostname; mkdir -p /srv/d; echo b >/srv/d/f; echo c >/dev/shm/s; \
                  echo ready; \
                  while [ ! -e /go ]; do sleep 0.02; done; cat /etc/made /srv/d/f /dev/shm/s; ls /etc/hostname; echo end; sleep 1000";
    let id = two.a.start(spec(7, &["/bin/bash", "-c", script]));
    two.wait_for_log(&two.a, id, "ready\n");
    let mv = two.a.movements().begin(two.a.request(id, &two.b)).unwrap();
    assert_eq!(two.a.movements().wait(mv), Ok(Outcome::Moved));
    let stream = two.b.shim(id).exec(common::exec_spec(&["/bin/sh", "-c", "echo >/go"])).unwrap();
    assert_eq!(common::read_all(&mut { stream }).2, Exit::Code(0));
    two.wait_for_log(
        &two.b,
        id,
        "ready\na\nb\nc\nls: cannot access '/etc/hostname': No such file or directory\nend\n",
    );
}

/// Writes in place, makes, renames, links and removes files as fast as it can, and knows what each must hold. Told to end, it looks.
const CHANGES: &str = r#"
import os, random, time
root, model, number = '/srv/w/', {}, 0
os.makedirs(root)
print('ready', flush=True)
while not os.path.exists('/go'):
    number += 1
    a, b, what = 'f%d' % random.randrange(12), 'f%d' % random.randrange(12), random.randrange(6)
    if what < 3:
        cell, content = model.setdefault(a, [b'']), b'%08d' % number
        with open(root + a, 'r+b' if os.path.exists(root + a) else 'wb') as file: file.write(content)
        cell[0] = content
    elif what == 3 and a in model and model[a] is not model.get(b):
        os.rename(root + a, root + b)
        model[b] = model.pop(a)
    elif what == 4 and a in model and b not in model:
        os.link(root + a, root + b)
        model[b] = model[a]
    elif what == 5 and a in model:
        os.remove(root + a)
        del model[a]
wrong = [name for name in set(model) | set(os.listdir(root)) if name not in model
    or not os.path.exists(root + name) or open(root + name, 'rb').read() != model[name][0]
    or os.stat(root + name).st_nlink != sum(cell is model[name] for cell in model.values())]
print('wrong', wrong) if wrong else print('right', flush=True)
time.sleep(1000)
"#;

fn changing() {
    let two = two();
    let id = two.a.start(spec(8, &["/usr/bin/python3", "-c", CHANGES]));
    two.wait_for_log(&two.a, id, "ready\n");
    for (from, to) in [(&two.a, &two.b), (&two.b, &two.a), (&two.a, &two.b)] {
        let mv = from.movements().begin(from.request(id, to)).unwrap();
        assert_eq!(from.movements().wait(mv), Ok(Outcome::Moved));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let stream = two.b.shim(id).exec(common::exec_spec(&["/bin/sh", "-c", "echo >/go"])).unwrap();
    assert_eq!(common::read_all(&mut { stream }).2, Exit::Code(0));
    two.wait_for_log(&two.b, id, "ready\nright\n");
}

fn big() {
    // On a disk: in memory every file is looked through again in the pause.
    let two = two_in(Place::on_disk());
    let script = "head -c 268435456 /dev/urandom >/srv/big; echo ready; \
                  while [ ! -e /go ]; do sleep 0.02; done; md5sum </srv/big; sleep 1000";
    let id = two.a.start(spec(9, &["/bin/bash", "-c", script]));
    two.wait_for_log(&two.a, id, "ready\n");
    let sum = std::process::Command::new("md5sum").arg(two.a.directory(id).join("upper/srv/big")).output();
    let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
    let mv = two.a.movements().begin(two.a.request(id, &two.b)).unwrap();
    assert_eq!(two.a.movements().wait(mv), Ok(Outcome::Moved));
    let events = two.a.movements().get(mv).unwrap().recorder.events();
    let at = |wanted: What| events.iter().find(|event| event.what == wanted).unwrap().at_us;
    let staged =
        at(What::PhaseEnd { phase: Phase::Prepare }) - at(What::PhaseStart { phase: Phase::Prepare });
    let spent = events.iter().find_map(|event| match event.what {
        What::Spent { cause: Cause::Files, us } => Some(us),
        _ => None,
    });
    assert!(spent.unwrap() * 4 < staged, "{spent:?} us in the pause, {staged} us before it: {events:#?}");
    let stream = two.b.shim(id).exec(common::exec_spec(&["/bin/sh", "-c", "echo >/go"])).unwrap();
    assert_eq!(common::read_all(&mut { stream }).2, Exit::Code(0));
    two.wait_for_log(&two.b, id, &format!("ready\n{}  -\n", sum.split(' ').next().unwrap()));
}

fn typed_lines() {
    let read = r#"while (<STDIN>) { chomp; print "<$_>\n"; }"#;
    typed_ahead(
        18,
        "stty -echo",
        read,
        b"one\rtwo\rpart",
        b"ial\r",
        "ready\r\n<one>\r\n<two>\r\n<partial>\r\n",
    );
}

fn typed_keys() {
    let read = r#"while (sysread STDIN, $key, 1) { printf "%d ", ord $key; }"#;
    // Ctrl-C and Ctrl-D are keys as any other in this mode.
    typed_ahead(19, "stty raw -echo", read, b"ab\x03\x04\r", b"q", "ready\n97 98 3 4 13 113 ");
}

/// A program on a terminal reads nothing until it is told to, which is at the target; `typed` at the source and `later` there.
fn typed_ahead(number: u8, mode: &str, read: &str, typed: &[u8], later: &[u8], wanted: &str) {
    let two = two();
    let program = format!(
        r#"$| = 1; system "{mode}"; print "ready\n"; select undef, undef, undef, 0.02 until -e "/go"; {read}"#
    );
    let mut what = spec(number, &["/usr/bin/perl", "-e", &program]);
    what.terminal = Some(Size { rows: 24, columns: 80 });
    let id = two.a.start(what);
    let begin = wanted.split_once('<').map_or("ready\n", |(begin, _)| begin);
    two.wait_for_log(&two.a, id, begin);
    let mut stream = two.a.shim(id).attach(None).unwrap();
    Frame::Input(typed.to_vec()).send(&mut stream).unwrap();
    // It has typed what came before when it answers.
    two.a.shim(id).status().unwrap();
    let mv = two.a.movements().begin(two.a.request(id, &two.b)).unwrap();
    let ended = two.a.movements().wait(mv);
    assert_eq!(ended, Ok(Outcome::Moved), "{:#?}", two.a.movements().get(mv).unwrap().recorder.events());
    let mut stream = two.b.shim(id).attach(None).unwrap();
    Frame::Input(later.to_vec()).send(&mut stream).unwrap();
    let go = two.b.shim(id).exec(common::exec_spec(&["/bin/sh", "-c", "echo >/go"])).unwrap();
    assert_eq!(common::read_all(&mut { go }).2, Exit::Code(0));
    two.wait_for_log(&two.b, id, wanted);
}

impl Two {
    fn wait_for_log(&self, node: &TestNode, id: WorkloadId, wanted: &str) {
        let end = std::time::Instant::now() + common::LONG;
        loop {
            let log = std::fs::read_to_string(node.directory(id).join("log")).unwrap_or_default();
            if log == wanted {
                return;
            }
            assert!(std::time::Instant::now() < end, "{log:?} instead of {wanted:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// It runs on, and nothing of it is at the other node but its journal.
    fn still_runs_at_a(&self, id: WorkloadId) {
        let count = count_in(&self.a.directory(id));
        wait_for_count_in(&self.a.directory(id), count + 5);
        let left = std::fs::read_dir(self.b.directory(id)).into_iter().flatten().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != "journal").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

struct Two {
    place: Place,
    net: Arc<Net>,
    a: Arc<TestNode>,
    b: Arc<TestNode>,
}

fn two() -> Two {
    two_in(Place::new())
}

fn two_in(place: Place) -> Two {
    let net = Arc::new(Net::default());
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
