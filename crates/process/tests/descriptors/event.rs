//! eventfd, timerfd, signalfd, epoll, inotify.

use crate::holder::{Holder, number, read};
use ferry_process::capture::files::Error;
use ferry_process::records::file::Kind;
use ferry_sys::remote::Argument;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::inotify;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_gettime,
    timerfd_settime,
};
use std::time::Duration;

fn counter(bytes: Vec<u8>) -> u64 {
    u64::from_ne_bytes(bytes.try_into().unwrap())
}

#[test]
fn counters_and_semaphores() {
    let plain = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&plain, &(1_u64 << 40).to_ne_bytes()).unwrap();
    let semaphore = eventfd(3, EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE).unwrap();
    let (p, s) = (number(&plain), number(&semaphore));
    let moved = Holder::with(vec![plain, semaphore]).move_here();
    assert_eq!(counter(read(moved.fd(p), 8)), 1 << 40);
    for _ in 0..3 {
        assert_eq!(counter(read(moved.fd(s), 8)), 1);
    }
}

fn spec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

#[test]
fn timers_go_on_with_what_was_left() {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
    let setting =
        Itimerspec { it_interval: spec(Duration::from_secs(7)), it_value: spec(Duration::from_secs(100)) };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting).unwrap();
    // Fired some times and not read: a period of 1 ms, then a long one.
    let ticked = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC).unwrap();
    let quick = spec(Duration::from_millis(300));
    let first = spec(Duration::from_millis(1));
    timerfd_settime(&ticked, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: quick, it_value: first })
        .unwrap();
    let idle = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC).unwrap();
    let (t, k, i) = (number(&timer), number(&ticked), number(&idle));
    std::thread::sleep(Duration::from_millis(50));
    let moved = Holder::with(vec![timer, ticked, idle]).move_here();
    let left = timerfd_gettime(moved.fd(t)).unwrap();
    assert!((95..100).contains(&left.it_value.tv_sec), "{left:?}");
    assert_eq!(left.it_interval.tv_sec, 7);
    assert!(counter(read(moved.fd(k), 8)) >= 1);
    assert_eq!(timerfd_gettime(moved.fd(i)).unwrap().it_value.tv_sec, 0);
    // And the period goes on.
    assert!(counter(read(moved.fd(k), 8)) >= 1);
}

#[test]
fn a_signalfd_keeps_its_mask() {
    let mask = 1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGTERM - 1);
    let fd = ferry_sys::signalfd::signalfd(mask).unwrap();
    let number = number(&fd);
    let moved = Holder::with(vec![fd]).move_here();
    assert_eq!(moved.description(number).kind, Kind::Signal { mask });
    let link =
        std::fs::read_link(format!("/proc/self/fd/{}", crate::holder::number(moved.fd(number)))).unwrap();
    assert_eq!(link.to_str().unwrap(), "anon_inode:[signalfd]");
}

#[test]
fn epoll_sets_give_calls_for_each_target() {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let inner = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let event = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
    let data = epoll::EventData::new_u64(0x1234_5678_9abc_def0);
    epoll::add(&set, &event, data, epoll::EventFlags::IN | epoll::EventFlags::ET).unwrap();
    epoll::add(&set, &inner, epoll::EventData::new_u64(7), epoll::EventFlags::IN).unwrap();
    // Added under a number that is closed now; the description lives on as `event`.
    let closed = event.try_clone().unwrap();
    let closed_number = number(&closed);
    epoll::add(&set, &closed, epoll::EventData::new_u64(9), epoll::EventFlags::OUT).unwrap();
    drop(closed);
    let (s, e, n) = (number(&set), number(&event), number(&inner));
    let holder = Holder::with(vec![set, event, inner]);
    let pid = holder.task.ns_pid;
    let moved = holder.move_here();
    let Kind::Epoll { targets } = &moved.description(s).kind else { panic!("no epoll set") };
    let target = |fd| targets.iter().find(|target| target.fd == fd).unwrap();
    assert_eq!(target(e).data, 0x1234_5678_9abc_def0);
    assert_eq!(
        target(e).events & 0xffff,
        (epoll::EventFlags::IN | epoll::EventFlags::ERR | epoll::EventFlags::HUP).bits() & 0xffff
    );
    assert_eq!(target(e).description, moved.number(e));
    assert_eq!(target(n).description, moved.number(n));
    assert_eq!(
        target(closed_number).description,
        moved.number(e),
        "the number was closed, the description not"
    );
    let calls = moved.made.late(pid);
    let adds: Vec<_> = calls.iter().filter(|call| call.nr == libc::SYS_epoll_ctl).collect();
    assert_eq!(adds.len(), 3);
    assert!(adds.iter().all(|call| call.args[0] == Argument::from(s)));
    // The closed number is lent for the moment of its call.
    let dups = calls.iter().filter(|call| call.nr == libc::SYS_dup3).count();
    let closes = calls.iter().filter(|call| call.nr == libc::SYS_close).count();
    assert_eq!((dups, closes), (1, 1));
}

#[test]
fn inotify_watches_go_on_under_their_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).unwrap();
    let gone = inotify::add_watch(&fd, other.path(), inotify::WatchFlags::CREATE).unwrap();
    let wd = inotify::add_watch(&fd, directory.path(), inotify::WatchFlags::CREATE).unwrap();
    inotify::remove_watch(&fd, gone).unwrap();
    let _ = read(&fd, 4096);
    let number = number(&fd);
    let moved = Holder::with(vec![fd]).move_here();
    let Kind::Inotify { watches } = &moved.description(number).kind else { panic!("no watches") };
    assert_eq!(watches.len(), 1);
    std::fs::write(directory.path().join("new"), b"").unwrap();
    let event = read(moved.fd(number), 4096);
    assert_eq!(i32::from_ne_bytes(event[..4].try_into().unwrap()), wd);
}

#[test]
fn unread_inotify_events_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&fd, directory.path(), inotify::WatchFlags::CREATE).unwrap();
    std::fs::write(directory.path().join("new"), b"").unwrap();
    let holder = Holder::with(vec![fd]);
    let error = holder.capture().unwrap_err();
    let Error::Unsupported(blockers) = error else { panic!("{error}") };
    assert!(blockers[0].what.contains("unread events"), "{blockers:?}");
}
