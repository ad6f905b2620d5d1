//! What only the task itself can do, once its descriptors are at their numbers: epoll sets remember the number under which a
//! target was added, record locks belong to a table, owners of SIGIO and terminals are named in the task's own pid namespace.

use super::Recreated;
use crate::records::file::{EpollTarget, Kind, Table};
use ferry_sys::remote::{Argument, RemoteCall};

const EPOLL_CTL_ADD: u64 = 1;
const F_SETLK: u64 = 6;
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;
const ASYNC: u32 = libc::O_ASYNC as u32;

fn call(nr: i64, what: String, args: &[Argument]) -> RemoteCall {
    RemoteCall::new(nr, what, args)
}

fn value(number: impl Into<i64>) -> Argument {
    Argument::Value(number.into() as u64)
}

/// The calls for `task`.
pub(super) fn calls(made: &Recreated, task: i32) -> Vec<RemoteCall> {
    let mut calls = Vec::new();
    let Some(number) = made.files.tables.iter().position(|table| table.tasks.contains(&task)) else {
        return calls;
    };
    terminals(made, number, task, &mut calls);
    // One task speaks for a table.
    if made.files.tables[number].tasks.first() != Some(&task) {
        return calls;
    }
    locks(&made.files.tables[number], &mut calls);
    owners(made, number, &mut calls);
    epolls(made, number, &mut calls);
    calls
}

/// The number of a description in a table.
fn find(table: &Table, description: u32) -> Option<i32> {
    table.descriptors.iter().find(|own| own.description == description).map(|own| own.fd)
}

/// The first table that has a description: its first task speaks for it.
fn first_table(made: &Recreated, description: u32) -> Option<usize> {
    made.files.tables.iter().position(|table| find(table, description).is_some())
}

fn terminals(made: &Recreated, table: usize, task: i32, calls: &mut Vec<RemoteCall>) {
    let table = &made.files.tables[table];
    for (index, terminal) in made.files.terminals.iter().enumerate() {
        if terminal.session != task {
            continue;
        }
        let slave = Kind::TerminalSlave { terminal: index as u32 };
        let own = table
            .descriptors
            .iter()
            .find(|own| made.files.descriptions[own.description as usize].kind == slave);
        // A leader that closed its terminal opens it for a moment, under the lowest free number.
        let fd = own.map_or_else(|| lowest_free(table), |own| own.fd);
        if own.is_none() {
            let path = format!("/dev/pts/{}\0", terminal.index).into_bytes();
            let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK;
            let args = [value(libc::AT_FDCWD), Argument::Bytes(path), value(flags), value(0)];
            calls.push(call(libc::SYS_openat, format!("open /dev/pts/{}", terminal.index), &args));
        }
        let what = format!("take control of /dev/pts/{}", terminal.index);
        calls.push(call(libc::SYS_ioctl, what, &[value(fd), Argument::Value(libc::TIOCSCTTY), value(0)]));
        if terminal.foreground > 0 {
            let what = format!("put group {} in the foreground", terminal.foreground);
            let group = Argument::Bytes(terminal.foreground.to_ne_bytes().to_vec());
            calls.push(call(libc::SYS_ioctl, what, &[value(fd), Argument::Value(libc::TIOCSPGRP), group]));
        }
        if own.is_none() {
            calls.push(call(libc::SYS_close, "close the terminal".into(), &[value(fd)]));
        }
    }
}

fn lowest_free(table: &Table) -> i32 {
    let mut free = 0;
    for own in &table.descriptors {
        if own.fd == free {
            free += 1;
        }
    }
    free
}

fn locks(table: &Table, calls: &mut Vec<RemoteCall>) {
    for lock in &table.locks {
        let Ok(bytes) = ferry_sys::ioctl::flock(lock.exclusive, lock.start, lock.len) else { continue };
        let args = [value(lock.fd), Argument::Value(F_SETLK), Argument::Bytes(bytes)];
        calls.push(call(libc::SYS_fcntl, format!("take the record lock on descriptor {}", lock.fd), &args));
    }
}

fn owners(made: &Recreated, number: usize, calls: &mut Vec<RemoteCall>) {
    let table = &made.files.tables[number];
    for (index, description) in made.files.descriptions.iter().enumerate() {
        let index = index as u32;
        let wanted = description.owner.is_some() || description.flags & ASYNC != 0;
        if !wanted || first_table(made, index) != Some(number) {
            continue;
        }
        let Some(fd) = find(table, index) else { continue };
        if let Some(owner) = description.owner {
            let mut bytes = owner.sort.to_ne_bytes().to_vec();
            bytes.extend(owner.id.to_ne_bytes());
            let args = [value(fd), Argument::Value(F_SETOWN_EX), Argument::Bytes(bytes)];
            calls.push(call(libc::SYS_fcntl, format!("set the owner of descriptor {fd}"), &args));
            if owner.signal != 0 {
                let args = [value(fd), Argument::Value(F_SETSIG), value(owner.signal)];
                calls.push(call(libc::SYS_fcntl, format!("set the signal of descriptor {fd}"), &args));
            }
        }
        if description.flags & ASYNC != 0 {
            let args = [value(fd), value(libc::F_SETFL), Argument::Value(u64::from(description.flags))];
            calls.push(call(libc::SYS_fcntl, format!("set O_ASYNC of descriptor {fd}"), &args));
        }
    }
}

/// Targets are added from a table that has set and target; best one in which the target has the number that it was added
/// under. Where none has, the target is put there for the moment of the call.
fn epolls(made: &Recreated, number: usize, calls: &mut Vec<RemoteCall>) {
    for (index, description) in made.files.descriptions.iter().enumerate() {
        let Kind::Epoll { targets } = &description.kind else { continue };
        let index = index as u32;
        let table = &made.files.tables[number];
        let Some(set) = find(table, index) else { continue };
        // Oneshot entries that already fired come first: they are made to fire again, into a buffer that nobody reads.
        let (spent, rest): (Vec<_>, Vec<_>) = targets.iter().partition(|target| is_spent(target));
        let mut fired = 0;
        for target in spent {
            if place_for(made, index, target) == Some(number) {
                let events = ready_events(made, target.description);
                add(table, set, target, target.events | events, calls);
                fired += u32::from(events != 0);
            }
        }
        if fired > 0 {
            let room = Argument::Bytes(vec![0; fired as usize * EVENT_LEN]);
            let args = [value(set), room, Argument::Value(u64::from(fired)), value(0)];
            calls.push(call(
                libc::SYS_epoll_wait,
                format!("disarm spent targets of descriptor {set}"),
                &args,
            ));
        }
        for target in rest {
            if place_for(made, index, target) == Some(number) {
                add(table, set, target, target.events, calls);
            }
        }
    }
}

/// A oneshot entry that fired has nothing left to wait for.
fn is_spent(target: &EpollTarget) -> bool {
    let modes = (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLWAKEUP | libc::EPOLLEXCLUSIVE) as u32;
    target.events & libc::EPOLLONESHOT as u32 != 0 && target.events & !modes == 0
}

/// What a description is ready for now, of reading and writing.
fn ready_events(made: &Recreated, description: u32) -> u32 {
    use rustix::event::{PollFd, PollFlags, poll};
    let Some(fd) = made.descriptor(description) else { return 0 };
    let mut state = [PollFd::from_borrowed_fd(fd, PollFlags::IN | PollFlags::OUT)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut state, Some(&now)) {
        Ok(_) => u32::from((state[0].revents() & (PollFlags::IN | PollFlags::OUT)).bits()),
        Err(_) => 0,
    }
}

/// The table from which a target is added.
fn place_for(made: &Recreated, set: u32, target: &EpollTarget) -> Option<usize> {
    let with_set = || made.files.tables.iter().enumerate().filter(|(_, table)| find(table, set).is_some());
    let at_its_number = |table: &Table| {
        table.descriptors.iter().any(|own| own.fd == target.fd && own.description == target.description)
    };
    let exact = with_set().find(|(_, table)| at_its_number(table));
    exact
        .or_else(|| with_set().find(|(_, table)| find(table, target.description).is_some()))
        .map(|(number, _)| number)
}

#[cfg(target_arch = "x86_64")]
const EVENT_LEN: usize = 12;
#[cfg(not(target_arch = "x86_64"))]
const EVENT_LEN: usize = 16;

fn add(table: &Table, set: i32, target: &EpollTarget, events: u32, calls: &mut Vec<RemoteCall>) {
    let there = table.descriptors.iter().find(|own| own.fd == target.fd);
    let mut event = events.to_ne_bytes().to_vec();
    event.resize(EVENT_LEN - 8, 0);
    event.extend(target.data.to_ne_bytes());
    let args = [value(set), Argument::Value(EPOLL_CTL_ADD), value(target.fd), Argument::Bytes(event)];
    let add = call(libc::SYS_epoll_ctl, format!("add descriptor {} to epoll set {set}", target.fd), &args);
    if there.is_some_and(|own| own.description == target.description) {
        calls.push(add);
        return;
    }
    let Some(source) = find(table, target.description) else { return };
    // Where the occupant waits: a number that nothing has.
    let spare = table.descriptors.last().map_or(0, |own| own.fd).max(target.fd) + 1;
    let dup = |from: i32, to: i32, close_on_exec: bool| {
        let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
        call(libc::SYS_dup3, format!("lend number {to}"), &[value(from), value(to), value(flags)])
    };
    let close = |fd: i32| call(libc::SYS_close, format!("close descriptor {fd}"), &[value(fd)]);
    match there {
        None => calls.extend([dup(source, target.fd, true), add, close(target.fd)]),
        // The set itself has the number: it watches through its other self.
        Some(own) => {
            let mut add = add;
            if target.fd == set {
                add.args[0] = value(spare);
            }
            calls.extend([
                dup(target.fd, spare, true),
                dup(source, target.fd, true),
                add,
                dup(spare, target.fd, own.close_on_exec),
                close(spare),
            ]);
        }
    }
}
