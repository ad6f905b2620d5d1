//! epoll sets: what each watches. The kernel keeps the number under which a target was added and the description behind
//! it; the number may have been closed or used again since, so `kcmp` says which description it is.

use super::{Capture, Error};
use crate::records::file::{EpollTarget, Kind};
use ferry_sys::kcmp::compare_epoll;
use std::cmp::Ordering;
use std::collections::HashMap;

/// What description number `number`, an epoll set, watches.
pub(super) fn capture(capture: &Capture<'_>, number: usize) -> Result<Kind, Error> {
    let survey = capture.survey;
    let look = &survey.looks[number];
    let mut targets = Vec::with_capacity(look.info.targets.len());
    // Entries that were added under the same number (of descriptions that live on elsewhere) are told apart by their offset.
    let mut seen: HashMap<i32, u32> = HashMap::new();
    for line in &look.info.targets {
        let offset = seen.entry(line.fd).or_insert(0);
        let is = |task: i32, fd: i32| {
            compare_epoll(task, fd, look.task.host_pid, look.fd, line.fd, *offset)
                .is_ok_and(|order| order == Ordering::Equal)
        };
        // First the obvious: a table that holds the set, under the number itself. Else any description with that inode.
        let here = survey.tables.iter().find_map(|table| {
            let host = table.tasks[0].host_pid;
            table.descriptors.iter().any(|own| own.description as usize == number).then_some(())?;
            let place = table.descriptors.binary_search_by_key(&line.fd, |own| own.fd).ok()?;
            is(host, line.fd).then_some(table.descriptors[place].description)
        });
        let found = here.or_else(|| {
            survey.looks.iter().enumerate().find_map(|(other, candidate)| {
                let alike = candidate.stat.st_ino == line.inode;
                (alike && is(candidate.task.host_pid, candidate.fd)).then_some(other as u32)
            })
        });
        *offset += 1;
        let Some(description) = found else {
            return Err(Error::Unsupported(vec![super::class::blocker(
                look,
                &format!(
                    "an epoll set that watches descriptor {}, which only a process outside holds",
                    line.fd
                ),
                "Move the process that holds it too (adopt the common parent)",
            )]));
        };
        targets.push(EpollTarget { fd: line.fd, description, events: line.events, data: line.data });
    }
    Ok(Kind::Epoll { targets })
}
