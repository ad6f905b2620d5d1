//! Trees of sleeping shells, in cgroups of the test's own.

use super::*;
use std::process::{Child, Command};

/// A shell with two children, in a cgroup of its own.
struct Tree {
    shell: Child,
    home: Cgroup,
    directory: tempfile::TempDir,
}

impl Tree {
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let unique = directory.path().file_name().unwrap().to_string_lossy().into_owned();
        let home = Cgroup::own().unwrap().child(&format!("ferry-test/adoption-{unique}")).unwrap();
        let shell = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
        home.move_in(shell.id().cast_signed()).unwrap();
        let tree = Self { shell, home, directory };
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while tree.members().len() < 3 {
            assert!(std::time::Instant::now() < end, "the shell started no children");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Born before the shell was moved, or after: they begin in one place.
        for pid in tree.members() {
            let _ = tree.home.move_in(pid);
        }
        tree
    }

    fn pid(&self) -> i32 {
        self.shell.id().cast_signed()
    }

    fn members(&self) -> Vec<i32> {
        members(&Scope::Tree(self.pid())).unwrap()
    }

    /// The name of the cgroup: not one of a workload, which may not be adopted again.
    fn name(&self) -> String {
        format!("test-{}", self.directory.path().file_name().unwrap().to_string_lossy())
    }

    fn places(&self) -> Vec<std::path::PathBuf> {
        let place = |pid: i32| Cgroup::of(&pid.to_string()).unwrap().path().to_owned();
        self.members().into_iter().map(place).collect()
    }

    fn is_home(&self) -> bool {
        self.places().iter().all(|place| place == self.home.path())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = self.home.kill();
        if let Ok(adoption) = Adoption::open(self.directory.path()) {
            let _ = adoption.end(self.directory.path());
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        let _ = self.home.wait_empty(Duration::from_secs(10));
        let _ = self.home.remove();
        let _ = std::fs::remove_dir(self.home.path().parent().unwrap());
    }
}

const SLEEPERS: &str = "sleep 1000 & sleep 1000 & wait";

#[test]
fn a_tree_is_taken_and_put_back() {
    let tree = Tree::new(SLEEPERS);
    let adoption = Adoption::take(tree.directory.path(), &tree.name(), tree.pid()).unwrap();
    assert!(adoption.lives());
    assert!(tree.places().iter().all(|place| place == adoption.cgroup().path()));
    let found = Adoption::open(tree.directory.path()).unwrap();
    assert_eq!((found.pid(), found.lives()), (tree.pid(), true));
    let whole = found.cgroup().path().parent().unwrap().to_owned();
    found.put_back(tree.directory.path()).unwrap();
    assert!(tree.is_home() && !whole.exists() && !left_in(tree.directory.path()));
}

#[test]
fn who_fails_half_way_puts_everybody_back() {
    let tree = Tree::new(SLEEPERS);
    for at in 0..3 {
        let mut moved = 0;
        let failed =
            Adoption::take_by(tree.directory.path(), &tree.name(), tree.pid(), &mut |cgroup, pid| {
                if moved == at {
                    return Err(io::ErrorKind::PermissionDenied.into());
                }
                moved += 1;
                cgroup.move_in(pid)
            });
        assert!(failed.is_err() && tree.is_home(), "{:?}", tree.places());
        assert!(!left_in(tree.directory.path()));
    }
}

#[test]
fn a_successor_puts_back_what_was_half_done() {
    let tree = Tree::new(SLEEPERS);
    let adoption = Adoption::take(tree.directory.path(), &tree.name(), tree.pid()).unwrap();
    drop(adoption);
    let found = Adoption::open(tree.directory.path()).unwrap();
    // The home of one was removed meanwhile, as a service manager does with what is empty.
    found.put_back(tree.directory.path()).unwrap();
    assert!(tree.is_home());
}

#[test]
fn a_tree_that_forks_without_end_is_taken_whole() {
    // Each child bears the next and ends: some are orphans when they are found.
    let line = "sleep 1000 & sleep 1000 & (while :; do (sleep 0.002 & sleep 0.003) & sleep 0.01; done)";
    let tree = Tree::new(line);
    let adoption = Adoption::take(tree.directory.path(), &tree.name(), tree.pid()).unwrap();
    for pid in tree.members() {
        if let Ok(place) = Cgroup::of(&pid.to_string()) {
            assert_eq!(place.path(), adoption.cgroup().path());
        }
    }
    adoption.end(tree.directory.path()).unwrap();
    assert!(!left_in(tree.directory.path()));
}

#[test]
fn the_end_of_the_root_is_known_although_it_is_nobodys_child_here() {
    let mut tree = Tree::new("sleep 1000 & first=$!; sleep 1000 & trap 'kill $first $!; exit 7' TERM; wait");
    let adoption = Adoption::take(tree.directory.path(), &tree.name(), tree.pid()).unwrap();
    adoption.signal(Signal::TERM).unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while adoption.lives() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(adoption.status(), Some(7 << 8), "a zombie");
    tree.shell.wait().unwrap();
    assert_eq!(adoption.status(), Some(7 << 8), "and collected");
    adoption.end(tree.directory.path()).unwrap();
}

#[test]
fn what_cannot_be_a_workload_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let said = |pid: i32| {
        let error = Adoption::take(directory.path(), "test-refused", pid).unwrap_err();
        error.to_string()
    };
    assert!(said(1).contains("init"));
    assert!(said(0).contains("no process id"));
    assert!(said(4_194_303).contains("no process"));
    assert!(said(std::process::id().cast_signed()).contains("Ferry itself"));
    // Where there are any to be seen: in a pid namespace of its own a machine shows none.
    let is_kernel = |pid: &i32| stat::read(*pid).is_ok_and(|stat| stat.flags & 0x0020_0000 != 0);
    match proc::numbers("/proc").unwrap().into_iter().find(is_kernel) {
        Some(kernel) => assert!(said(kernel).contains("is a task of the kernel")),
        None => eprintln!("no task of the kernel is seen here"),
    }
    let tree = Tree::new(SLEEPERS);
    let last = *tree.members().last().unwrap();
    ferry_sys::ptrace::seize(last, 0).unwrap();
    let words = said(tree.pid());
    ferry_sys::ptrace::interrupt(last).unwrap();
    ferry_sys::ptrace::wait(last).unwrap();
    ferry_sys::ptrace::detach(last, 0).unwrap();
    assert!(words.contains(&format!("Process {last}")) && words.contains("traced by process"), "{words}");
    let workload = Cgroup::own().unwrap().child(&format!("ferry-test/ferry/w-00aa-{}", tree.pid())).unwrap();
    workload.move_in(last).unwrap();
    let words = said(tree.pid());
    tree.home.move_in(last).unwrap();
    let _ = workload.remove();
    let _ = std::fs::remove_dir(workload.path().parent().unwrap());
    assert!(words.contains(&format!("Process {last}")) && words.contains("w-00aa already"), "{words}");
}
