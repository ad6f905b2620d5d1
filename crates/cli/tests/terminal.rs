//! A terminal that is a workload's: typed on, left, come back to, ended with the program's own code.

mod common;

use common::person::Person;
use common::{Fleet, until};

#[test]
fn a_terminal_is_typed_on_left_and_come_back_to() {
    let fleet = Fleet::of(&["alpha"]);
    let alpha = &fleet.nodes[0];
    let mut person = Person::runs(alpha, &["run", "-it", "--name", "shell", "--", "/bin/sh"]);
    person.types("echo $((6*7)) $TERM; tty\n");
    person.sees("42 vt100");
    person.sees("/dev/pts/");
    // Ctrl-P Ctrl-Q: the client ends, the shell does not.
    person.types("KEPT=still; echo ready\n");
    person.sees("ready\r\n");
    person.types("\x10\x11");
    person.ends_with(0);
    assert_eq!(alpha.json(&["ps"])[0]["state"], "running");

    let mut person = Person::runs(alpha, &["attach", "shell"]);
    person.types("echo $KEPT here\n");
    person.sees("still here");
    person.types("exit 3\n");
    person.ends_with(3);
    assert_eq!(alpha.run(&["wait", "shell"]).status.code(), Some(3));
}

/// Who is attached while the workload moves is told where it went, and finds there the same terminal: size, modes, session.
#[test]
fn a_terminal_moves_while_somebody_is_attached() {
    let fleet = Fleet::of(&["alpha", "beta"]);
    let [alpha, beta] = &fleet.nodes[..] else { unreachable!() };
    let mut person = Person::runs(alpha, &["run", "-it", "--name", "shell", "--", "/bin/sh"]);
    person.types("KEPT=still; stty intr ^B; echo $((6*7)); tty\n");
    person.sees("42\r\n/dev/pts/0");
    person.types("stty size\n");
    person.sees("41 103");
    // Idle again: a tree in the middle of a fork is a blocker, for that moment.
    until("it moves", || alpha.run(&["move", "shell", "--to", "beta"]).status.success());
    person.sees("shell moved to beta");
    person.sees("ferry attach shell");
    person.ends_with(0);

    let mut person = Person::runs(beta, &["attach", "shell"]);
    person.types("echo $KEPT here; tty; stty -a | grep -o 'intr = ^B'; stty size\n");
    person.sees("still here\r\n/dev/pts/0\r\nintr = ^B\r\n41 103");
    // It is in control of its session: the changed key interrupts what is in the foreground.
    person.types("sleep 1000; echo after\n");
    std::thread::sleep(std::time::Duration::from_millis(300));
    person.types("\x02");
    person.sees("^B");
    person.types("echo $((9*9)) goes on\n");
    person.sees("81 goes on");
    person.types("exit 5\n");
    person.ends_with(5);
}
