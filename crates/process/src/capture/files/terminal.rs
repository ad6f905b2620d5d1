//! Pseudo-terminals: settings, size, who is in control, and what was typed or printed and not read.
//!
//! What waits cannot be looked at without being taken. So it is taken and put back at once, by the same functions that fill
//! a terminal at the target; the tasks are stopped, so nobody sees it.

use super::class::Class;
use super::survey::Look;
use super::{Capture, Error, FurnitureKind};
use crate::records::file::Terminal;
use ferry_sys::ioctl::{self, Int};

/// Captures the terminal with the number `index`, once for all its descriptions.
pub(super) fn capture(capture: &mut Capture<'_>, look: &Look, index: u32) -> Result<u32, Error> {
    if let Some(&terminal) = capture.terminals.get(&index) {
        return Ok(terminal);
    }
    let survey = capture.survey;
    let what = || format!("read the terminal /dev/pts/{index} of {}", look.place());
    let side = |wanted: &Class| match survey.looks.iter().find(|other| other.class == *wanted) {
        Some(found) => capture.take(found).map(Some),
        None => Ok(None),
    };
    let master = side(&Class::TerminalMaster(index))?;
    let slave = side(&Class::TerminalSlave(index))?;
    let furniture = survey.furniture.iter().find(|piece| piece.what == FurnitureKind::Terminal(index));
    let Some(any) = slave.as_ref().or(master.as_ref()) else {
        return Err(Error::busy(format!("{}: the terminal is gone", look.place())));
    };
    let (session, foreground) = control(capture, index);
    let get = |request| master.as_ref().and_then(|master| ioctl::get(master, request).ok()).unwrap_or(0);
    let mut terminal = Terminal {
        index,
        settings: ioctl::terminal_settings(any).map_err(Error::kernel(what()))?.to_vec(),
        size: ioctl::terminal_size(any).map_err(Error::kernel(what()))?,
        locked: get(Int::TerminalLock) != 0,
        exclusive: ioctl::get(any, Int::TerminalExclusive).unwrap_or(0) != 0,
        packet_mode: get(Int::PacketMode) != 0,
        session,
        foreground,
        furniture: furniture.map(|piece| piece.name.clone()),
        ..Terminal::default()
    };
    if let Some(slave) = &slave
        && let Ok(stat) = rustix::fs::fstat(slave)
        && rustix::fs::major(stat.st_rdev) == 136
    {
        (terminal.mode, terminal.uid, terminal.gid) = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
    }
    let held = survey.masters.get(&index).copied();
    if let (Some(master), Some(slave)) = (master.as_ref().or(held), &slave) {
        // Descriptions of our own, so that non-blocking reads need no change of the workload's flags.
        let master_only = crate::terminal::Quiet::new(master, slave).map_err(Error::kernel(what()))?;
        let waiting = master_only.take().map_err(Error::kernel(what()))?;
        let back = master_only.fill(&waiting);
        drop(master_only);
        back.map_err(Error::kernel(format!("put back what waited in /dev/pts/{index}")))?;
        (terminal.input, terminal.output) = (waiting.input, waiting.output);
    }
    capture.carry(look, (terminal.input.len() + terminal.output.len()) as u64)?;
    let number = capture.files.terminals.len() as u32;
    capture.files.terminals.push(terminal);
    capture.terminals.insert(index, number);
    Ok(number)
}

/// The session that a terminal controls, and its foreground group, as ids inside of the capsule.
fn control(capture: &Capture<'_>, index: u32) -> (i32, i32) {
    for task in &capture.survey.tasks {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", task.host_pid)) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        // state ppid pgrp session tty_nr tpgid
        let words: Vec<i32> =
            rest.split_whitespace().skip(1).take(5).filter_map(|word| word.parse().ok()).collect();
        let &[_, _, session, terminal, foreground] = words.as_slice() else { continue };
        let number = terminal as u32;
        let is = number >> 8 & 0xfff == 136 && (number & 0xff | number >> 12 & 0xf_ff00) == index;
        if is {
            let inside = |id| capture.survey.inside(id).unwrap_or(0);
            return (inside(session), inside(foreground));
        }
    }
    (0, 0)
}
