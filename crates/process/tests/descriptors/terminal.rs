//! Pseudo-terminals.

use crate::holder::{Holder, number, read};
use ferry_sys::ioctl::{self, Int};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

fn terminal() -> (OwnedFd, OwnedFd, u32) {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).unwrap();
    ioctl::set(&master, Int::SetTerminalLock, 0).unwrap();
    let index = ioctl::get(&master, Int::TerminalNumber).unwrap() as u32;
    let slave = rustix::fs::open(format!("/dev/pts/{index}"), flags, Mode::empty()).unwrap();
    (master, slave, index)
}

#[test]
fn settings_size_and_what_waits() {
    let (master, slave, index) = terminal();
    ioctl::set_terminal_size(&slave, &[33, 111, 5, 6]).unwrap();
    let mut settings = ioctl::terminal_settings(&slave).unwrap();
    settings[17 + libc::VINTR] = 7;
    ioctl::set_terminal_settings(&slave, &settings).unwrap();
    rustix::io::write(&master, b"a line\nand another\nhalf").unwrap();
    rustix::io::write(&slave, b"printed\n").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let (m, s) = (number(&master), number(&slave));
    let holder = Holder::with(vec![master, slave]);
    // The first capture must put everything back.
    holder.capture().unwrap();
    let moved = holder.move_here();
    assert_eq!(moved.files.terminals[0].index, index);
    assert_eq!(ioctl::get(moved.fd(m), Int::TerminalNumber).unwrap() as u32, index);
    assert_eq!(ioctl::terminal_size(moved.fd(s)).unwrap(), [33, 111, 5, 6]);
    assert_eq!(ioctl::terminal_settings(moved.fd(s)).unwrap(), settings);
    assert_eq!(read(moved.fd(s), 100), b"a line\n");
    assert_eq!(read(moved.fd(s), 100), b"and another\n");
    // The line that was being typed is finished now.
    rustix::io::write(moved.fd(m), b" done\n").unwrap();
    assert_eq!(read(moved.fd(s), 100), b"half done\n");
    let output = read(moved.fd(m), 1000);
    // What was typed was echoed once, when it was typed.
    let text = String::from_utf8_lossy(&output).into_owned();
    assert!(text.contains("a line\r\nand another\r\nhalf"), "{text:?}");
    assert!(text.contains("printed\r\n"), "{text:?}");
    assert_eq!(text.matches("a line").count(), 1, "{text:?}");
}

#[test]
fn a_raw_terminal_keeps_bytes_that_are_special_elsewhere() {
    let (master, slave, _) = terminal();
    let mut settings = ioctl::terminal_settings(&slave).unwrap();
    settings[..16].fill(0);
    settings[8..12].copy_from_slice(&(libc::CS8 | libc::CREAD).to_ne_bytes());
    ioctl::set_terminal_settings(&slave, &settings).unwrap();
    let typed: Vec<u8> = (0..=255).collect();
    rustix::io::write(&master, &typed).unwrap();
    rustix::io::write(&slave, &typed).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let (m, s) = (number(&master), number(&slave));
    let moved = Holder::with(vec![master, slave]).move_here();
    assert_eq!(read(moved.fd(s), 1000), typed);
    assert_eq!(read(moved.fd(m), 1000), typed);
}
