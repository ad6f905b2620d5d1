//! Numbers of spaces and memory objects: one counter for both. A capture for its own sake numbers the spaces first, in its order, and
//! the objects after them; one of a tracked tree goes on with the numbers that the tracking gave.

use std::collections::{HashMap, HashSet};

/// What a memory object is told by on this host: device and inode.
pub(crate) type ObjectKey = ((u32, u32), u64);

/// Which numbers were given, and the next one.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    next: u32,
    spaces: HashMap<i32, u32>,
    objects: HashMap<ObjectKey, u32>,
    /// Processes, as this host sees them, whose memory Ferry itself watches by a userfaultfd.
    watched: HashSet<i32>,
}

impl Numbers {
    /// The number of the address space of this process (as this host sees it): the one that it has, or a new one.
    pub(crate) fn space(&mut self, pid: i32) -> u32 {
        let next = &mut self.next;
        *self.spaces.entry(pid).or_insert_with(|| take(next))
    }

    /// The number of a memory object: the one that it has, or a new one.
    pub(crate) fn object(&mut self, key: ObjectKey) -> u32 {
        let next = &mut self.next;
        *self.objects.entry(key).or_insert_with(|| take(next))
    }

    /// The address space of this process is another one now, or none: the old number is not used again.
    pub(crate) fn forget_space(&mut self, pid: i32) {
        self.spaces.remove(&pid);
        self.watched.remove(&pid);
    }

    /// Keeps the numbers of these objects only.
    pub(crate) fn keep_objects(&mut self, keep: impl Fn(&ObjectKey) -> bool) {
        self.objects.retain(|key, _| keep(key));
    }

    /// Notes that Ferry watches the memory of this process.
    pub(crate) fn watch(&mut self, pid: i32) {
        self.watched.insert(pid);
    }

    /// Whether Ferry watches the memory of this process.
    pub(crate) fn watches(&self, pid: i32) -> bool {
        self.watched.contains(&pid)
    }

    /// Processes whose memory Ferry watches, as this host sees them.
    #[must_use]
    pub fn watched(&self) -> &HashSet<i32> {
        &self.watched
    }
}

fn take(next: &mut u32) -> u32 {
    let number = *next;
    *next += 1;
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_kept_and_never_given_twice() {
        let mut numbers = Numbers::default();
        let object = ((0, 1), 7);
        assert_eq!((numbers.space(100), numbers.space(101), numbers.object(object)), (0, 1, 2));
        numbers.watch(100);
        assert_eq!((numbers.space(101), numbers.object(object)), (1, 2));
        numbers.forget_space(100);
        assert!(!numbers.watches(100), "another program is not watched yet");
        assert_eq!(numbers.space(100), 3);
        numbers.keep_objects(|key| *key != object);
        assert_eq!(numbers.object(object), 4);
    }
}
