//! Pseudo-terminals, made again under their old numbers, or bound to one whose master Ferry holds.

use super::plain::open_flags;
use super::{Error, Restore};
use crate::records::file::{Kind, Terminal};
use crate::terminal::{Quiet, Waiting};
use ferry_sys::ioctl::{self, Int, TERMINAL_SETTINGS_LEN};
use rustix::fd::OwnedFd;
use rustix::fs::{Gid, Mode, OFlags, Uid};

/// How many numbers are tried to reach the wanted one.
const NUMBERS_MAX: u32 = 4096;

/// Makes every terminal and opens its descriptions.
pub(super) fn create(restore: &mut Restore<'_>) -> Result<(), Error> {
    // Ascending: a new terminal gets the lowest free number, so those below are taken meanwhile.
    let mut order: Vec<usize> = (0..restore.files.terminals.len()).collect();
    order.sort_by_key(|&at| restore.files.terminals[at].index);
    for at in order {
        let record = &restore.files.terminals[at];
        let what = || format!("make the terminal /dev/pts/{} again", record.index);
        let master = match record.furniture.as_ref().and_then(|name| restore.ctx.furniture.get(name)) {
            Some(master) => master.try_clone_to_owned().map_err(Error::kernel(what()))?,
            None => match super::early::take(restore.ctx.init, record.index) {
                Some(master) => master,
                None => new_master(record)?,
            },
        };
        let index = ioctl::get(&master, Int::TerminalNumber).map_err(Error::kernel(what()))?;
        ioctl::set(&master, Int::SetTerminalLock, 0).map_err(Error::kernel(what()))?;
        let path = format!("/dev/pts/{index}");
        let open = |flags| {
            rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::kernel(format!("open {path}")))
        };
        let slave = open(OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC)?;
        settle(record, &master, &slave).map_err(Error::kernel(what()))?;
        for number in 0..restore.files.descriptions.len() {
            let description = &restore.files.descriptions[number];
            match description.kind {
                Kind::TerminalSlave { terminal } if terminal as usize == at => {
                    let fd = open(open_flags(description))?;
                    restore.put(number, fd);
                }
                Kind::TerminalMaster { terminal } if terminal as usize == at => {
                    let fd = master.try_clone().map_err(Error::kernel(what()))?;
                    restore.put(number, fd);
                }
                _ => {}
            }
        }
        if record.exclusive {
            ioctl::set_exclusive(&slave, true).map_err(Error::kernel(what()))?;
        }
        if record.locked {
            ioctl::set(&master, Int::SetTerminalLock, 1).map_err(Error::kernel(what()))?;
        }
    }
    Ok(())
}

/// A master with the number of `record`.
pub(super) fn new_master(record: &Terminal) -> Result<OwnedFd, Error> {
    let what = || format!("make the terminal /dev/pts/{} again", record.index);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut below = Vec::new();
    for _ in 0..NUMBERS_MAX {
        let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).map_err(Error::kernel(what()))?;
        let index = ioctl::get(&master, Int::TerminalNumber).map_err(Error::kernel(what()))? as u32;
        match index.cmp(&record.index) {
            std::cmp::Ordering::Equal => return Ok(master),
            std::cmp::Ordering::Less => below.push(master),
            std::cmp::Ordering::Greater => break,
        }
    }
    Err(Error::broken(format!("The terminal number {} is taken here", record.index)))
}

fn settle(record: &Terminal, master: &OwnedFd, slave: &OwnedFd) -> std::io::Result<()> {
    let settings: &[u8; TERMINAL_SETTINGS_LEN] =
        record.settings.as_slice().try_into().map_err(|_| std::io::Error::other("bad terminal settings"))?;
    ioctl::set_terminal_settings(slave, settings)?;
    ioctl::set_terminal_size(slave, &record.size)?;
    if record.mode != 0 {
        rustix::fs::fchown(slave, Some(Uid::from_raw(record.uid)), Some(Gid::from_raw(record.gid)))?;
        rustix::fs::fchmod(slave, Mode::from_raw_mode(record.mode))?;
    }
    // `quiet` turns packet mode off and puts it back as it found it, so it is set after.
    let quiet = Quiet::new(master, slave)?;
    quiet.fill(&Waiting { input: record.input.clone(), output: record.output.clone() })?;
    drop(quiet);
    if record.packet_mode {
        ioctl::set(master, Int::SetPacketMode, 1)?;
    }
    Ok(())
}
