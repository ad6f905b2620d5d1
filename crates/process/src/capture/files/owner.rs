//! Who gets SIGIO for a description.

use super::class::Class;
use super::survey::Look;
use super::{Capture, Error};
use crate::records::file::Owner;
use ferry_sys::ioctl;

/// Reads `F_GETOWN_EX` and `F_GETSIG`, for kinds that can send SIGIO.
pub(super) fn capture(capture: &Capture<'_>, look: &Look) -> Result<Option<Owner>, Error> {
    let can = match look.class {
        Class::Pipe
        | Class::Fifo
        | Class::TerminalMaster(_)
        | Class::TerminalSlave(_)
        | Class::Unix
        | Class::Tcp
        | Class::Udp
        | Class::Netlink
        | Class::Inotify
        | Class::Furniture(_) => true,
        // Leases and directory notifications use it too; those are refused, so only a set owner of a plain file is left, and
        // that has no effect.
        _ => false,
    };
    if !can {
        return Ok(None);
    }
    let what = || format!("read the owner of {}", look.place());
    let fd = capture.take(look)?;
    let (sort, id) = ioctl::owner(&fd).map_err(Error::kernel(what()))?;
    let signal = ioctl::owner_signal(&fd).map_err(Error::kernel(what()))?;
    if id == 0 && signal == 0 {
        return Ok(None);
    }
    Ok(Some(Owner { sort, id: if id == 0 { 0 } else { capture.survey.inside(id).unwrap_or(0) }, signal }))
}
