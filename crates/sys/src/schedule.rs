//! Processors: running a question on each of several.
#![allow(unsafe_code)]

use std::collections::HashMap;

/// Runs `question` on each of `processors` (as far as this thread may run there), then goes back to where this thread may run.
pub fn on_each_processor<T>(
    processors: impl IntoIterator<Item = i32>,
    mut question: impl FnMut() -> T,
) -> HashMap<i32, T> {
    let mut answers = HashMap::new();
    // SAFETY: cpu_set_t is plain data; all sets outlive the calls, and processor numbers are checked against its size.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) != 0 {
            return answers;
        }
        for processor in processors {
            let Ok(number) = usize::try_from(processor) else { continue };
            if number >= libc::CPU_SETSIZE as usize || answers.contains_key(&processor) {
                continue;
            }
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(number, &mut one);
            if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const one) == 0 {
                answers.insert(processor, question());
            }
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const allowed);
    }
    answers
}

/// Now, in nanoseconds of CLOCK_BOOTTIME.
#[must_use]
pub fn boottime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_runs_where_it_was_asked_for() {
        // SAFETY: no memory is involved.
        let answers = on_each_processor([0], || unsafe { libc::sched_getcpu() });
        assert_eq!(answers.get(&0), Some(&0));
    }
}
