//! Multicast groups that a UDP socket has joined. The kernel lists them by device only; which of them are a socket's own it says
//! when asked for its filter of sources.

use super::survey::Look;
use crate::records::socket::Membership;
use ferry_sys::sockopt;
use rustix::fd::OwnedFd;
use std::io;

/// `MCAST_MSFILTER` and the layout of `struct group_filter`.
const FILTER: i32 = 48;
const GROUP: usize = 8;
const ADDRESS_BYTES: usize = 128;
const MODE: usize = GROUP + ADDRESS_BYTES;
const COUNT: usize = MODE + 4;
const SOURCES: usize = COUNT + 4;
/// More sources than the kernel lets a socket have, unless a person raised its limit (64 by default for IPv6, 10 for IPv4).
const SOURCES_MAX: usize = 256;

/// Some group that some socket of the network namespace has joined on a device.
struct Joined {
    index: u32,
    device: String,
    /// `sockaddr` without a port.
    group: Vec<u8>,
}

/// The groups that the socket behind `look` has joined.
pub(super) fn memberships(look: &Look, fd: &OwnedFd, domain: i32) -> io::Result<Vec<Membership>> {
    let pid = look.task.host_pid;
    let mut all = Vec::new();
    let four = groups4(&std::fs::read_to_string(format!("/proc/{pid}/net/igmp")).unwrap_or_default());
    for joined in &four {
        all.extend(membership(fd, libc::IPPROTO_IP, joined)?);
    }
    if domain == libc::AF_INET6 {
        let six = groups6(&std::fs::read_to_string(format!("/proc/{pid}/net/igmp6")).unwrap_or_default());
        for joined in &six {
            all.extend(membership(fd, libc::IPPROTO_IPV6, joined)?);
        }
    }
    Ok(all)
}

fn membership(fd: &OwnedFd, level: i32, joined: &Joined) -> io::Result<Option<Membership>> {
    let mut filter = vec![0; SOURCES + SOURCES_MAX * ADDRESS_BYTES];
    filter[..4].copy_from_slice(&joined.index.to_ne_bytes());
    filter[GROUP..GROUP + joined.group.len()].copy_from_slice(&joined.group);
    filter[COUNT..SOURCES].copy_from_slice(&(SOURCES_MAX as u32).to_ne_bytes());
    match sockopt::get_into(fd, level, FILTER, &mut filter) {
        Ok(_) => {}
        // Another socket's.
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => return Ok(None),
        Err(error) => return Err(error),
    }
    let word = |at: usize| u32::from_ne_bytes([filter[at], filter[at + 1], filter[at + 2], filter[at + 3]]);
    let count = word(COUNT) as usize;
    if count > SOURCES_MAX {
        return Err(io::Error::other("it filters a multicast group by too many sources"));
    }
    let sources = filter[SOURCES..].chunks_exact(ADDRESS_BYTES).take(count);
    Ok(Some(Membership {
        device: joined.device.clone(),
        group: joined.group.clone(),
        mode: word(MODE),
        sources: sources.map(|source| source[..joined.group.len()].to_vec().into()).collect(),
    }))
}

/// `/proc/net/igmp`: a line for each device, below it one for each group.
fn groups4(text: &str) -> Vec<Joined> {
    let mut device: Option<(u32, String)> = None;
    let mut all = Vec::new();
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if !line.starts_with(char::is_whitespace) {
            device = first.parse().ok().zip(words.next().map(str::to_owned));
        } else if let (Some((index, device)), Ok(group)) = (&device, u32::from_str_radix(first, 16)) {
            let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
            address.extend([0; 2]);
            address.extend(group.to_ne_bytes());
            address.extend([0; 8]);
            all.push(Joined { index: *index, device: device.clone(), group: address });
        }
    }
    all
}

/// `/proc/net/igmp6`: index, device and group in each line.
fn groups6(text: &str) -> Vec<Joined> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (index, device) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        let group = u128::from_str_radix(words.next()?, 16).ok()?;
        let mut address = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
        address.extend([0; 6]);
        address.extend(group.to_be_bytes());
        address.extend([0; 4]);
        Some(Joined { index, device, group: address })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_lists() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
                    7\teth0      :     2      V3\n\t\t\t\t070000EF     1 0:00000000\t\t0\n";
        let found = groups4(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].index, &*found[1].device), (7, "eth0"));
        assert_eq!(found[1].group[4..8], [239, 0, 0, 7]);
        let found = groups6("7    eth0            ff150000000000000000000000000007     1 00000004 0\n");
        assert_eq!((found[0].index, found[0].group[8], found[0].group[23]), (7, 0xff, 7));
        assert!(groups4("x\ny").is_empty() && groups6("x").is_empty());
    }
}
