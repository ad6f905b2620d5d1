//! What a test relies on when it uses a lab: hosts share nothing, are joined by a network, and leave nothing behind.

use ferry_lab::{HostSpec, Lab, Shared};
use std::path::Path;
use std::time::Duration;

const HELPER: &str = env!("CARGO_BIN_EXE_lab-agent");

fn lab() -> Lab {
    Lab::new(Path::new(HELPER)).unwrap()
}

#[test]
fn hosts_share_nothing_and_can_talk() {
    let mut lab = lab();
    let one = lab.host("one").unwrap();
    let two = lab.host("two").unwrap();
    for kind in ["net", "mnt", "pid", "ipc", "uts", "time", "cgroup"] {
        let link = format!("/proc/self/ns/{kind}");
        let numbers = [&one, &two].map(|host| host.ok(&["readlink", &link]).unwrap());
        assert_ne!(numbers[0], numbers[1], "{kind} namespace");
        let ours = std::fs::read_link(&link).unwrap();
        assert_ne!(numbers[0].trim(), ours.to_string_lossy(), "{kind} namespace");
    }
    for (path, what) in [("/etc/machine-id", "machine id"), ("/proc/sys/kernel/random/boot_id", "boot id")] {
        assert_ne!(one.read(path).unwrap(), two.read(path).unwrap(), "{what}");
    }
    assert_eq!(one.ok(&["hostname"]).unwrap().trim(), "one");
    for path in ["/tmp/x", "/run/x", "/dev/shm/x", "/var/lib/ferry/x", "/root/x", "/etc/x"] {
        one.write(path, b"here").unwrap();
        assert_eq!(one.read(path).unwrap(), "here");
        assert_ne!(two.run(&["test", "-e", path]).unwrap().code, 0, "{path} is seen by the other host");
        assert!(!Path::new("/etc/x").exists(), "{path} is seen by the machine");
    }
    assert_eq!(one.reaches(&two), Vec::<String>::new());
    assert!(!one.reaches(&one).is_empty(), "the question itself finds nothing");
    assert_eq!(lab.clear(), Vec::<String>::new());
}

#[test]
fn the_network_can_be_cut_and_healed() {
    let mut lab = lab();
    let one = lab.host("one").unwrap();
    let two = lab.host("two").unwrap();
    let listen = "import socket; s = socket.create_server(('0.0.0.0', 4000)); print('up', flush=True)\n\
                  while True: s.accept()[0].close()";
    let server = two.spawn(&["/usr/bin/python3", "-c", listen]).unwrap();
    while server.stdout().is_empty() {
        assert!(!server.has_ended(), "{}", server.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    let connect = format!("import socket; socket.create_connection(('{}', 4000), 0.3)", two.address());
    one.ok(&["/usr/bin/python3", "-c", &connect]).unwrap();
    two.cut_link().unwrap();
    assert_ne!(one.run(&["/usr/bin/python3", "-c", &connect]).unwrap().code, 0);
    two.heal_link().unwrap();
    one.ok(&["/usr/bin/python3", "-c", &connect]).unwrap();
    two.limit_link(10_000_000).unwrap();
    one.ok(&["/usr/bin/python3", "-c", &connect]).unwrap();
    assert_eq!(lab.clear(), Vec::<String>::new());
}

#[test]
fn clocks_can_be_ahead() {
    let mut lab = lab();
    let mut spec = HostSpec::new("ahead");
    spec.clock_ahead_s = 1_000_000;
    let host = lab.add(spec).unwrap();
    let uptime = |text: String| text.split('.').next().unwrap().parse::<i64>().unwrap();
    let ours = uptime(std::fs::read_to_string("/proc/uptime").unwrap());
    let theirs = uptime(host.read("/proc/uptime").unwrap());
    assert!((theirs - ours - 1_000_000).abs() < 5, "{theirs} and {ours}");
    assert_eq!(lab.clear(), Vec::<String>::new());
}

#[test]
fn a_reboot_loses_memory_and_keeps_the_disk() {
    let mut lab = lab();
    let host = lab.host("one").unwrap();
    let sleeper = host.spawn(&["sleep", "600"]).unwrap();
    host.write("/var/lib/ferry/kept", b"kept").unwrap();
    host.write("/run/lost", b"lost").unwrap();
    host.sh("mkdir /sys/fs/cgroup/some").unwrap();
    let before = host.read("/proc/sys/kernel/random/boot_id").unwrap();
    host.reboot().unwrap();
    assert_eq!(sleeper.wait(Duration::from_secs(5)).unwrap().code, 128 + 9);
    assert_eq!(host.read("/var/lib/ferry/kept").unwrap(), "kept");
    assert_ne!(host.run(&["test", "-e", "/run/lost"]).unwrap().code, 0);
    assert_ne!(host.run(&["test", "-e", "/sys/fs/cgroup/some"]).unwrap().code, 0);
    assert_ne!(host.read("/proc/sys/kernel/random/boot_id").unwrap(), before);
    assert_eq!(lab.clear(), Vec::<String>::new());
}

#[test]
fn a_shared_directory_is_one() {
    let mut lab = lab();
    let from = lab.scratch().join("shared");
    std::fs::create_dir(&from).unwrap();
    let hosts = ["one", "two"].map(|name| {
        let mut spec = HostSpec::new(name);
        spec.shared = Some(Shared { from: from.clone(), at: "/srv/shared".into() });
        lab.add(spec).unwrap()
    });
    hosts[0].write("/srv/shared/x", b"both").unwrap();
    assert_eq!(hosts[1].read("/srv/shared/x").unwrap(), "both");
    assert_eq!(lab.clear(), Vec::<String>::new());
}

#[test]
fn nothing_is_left_when_the_owner_is_killed() {
    // The owner is a process of its own here: this test program, run again for one test that never ends by itself.
    let owner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_that_is_killed", "--ignored", "--nocapture"])
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut owner = owner.unwrap();
    let mut said = std::io::BufReader::new(owner.stdout.take().unwrap());
    let name = loop {
        let mut line = String::new();
        assert_ne!(std::io::BufRead::read_line(&mut said, &mut line).unwrap(), 0, "the owner ended");
        if let Some(at) = line.find("ferry-lab-") {
            break line[at..].trim().to_owned();
        }
    };
    let carried = format!("FERRY_LAB={name}");
    let alive = || {
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        pids.filter(|pid| {
            let environ = std::fs::read(pid.path().join("environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|one| one == carried.as_bytes())
        })
        .count()
    };
    // Keeper, door, agent, sleeper.
    assert!(alive() >= 4, "{}", alive());
    owner.kill().unwrap();
    owner.wait().unwrap();
    let scratch = std::env::temp_dir().join(&name);
    let start = std::time::Instant::now();
    while alive() > 0 || scratch.exists() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{} processes, scratch {}",
            alive(),
            scratch.exists()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "helper of nothing_is_left_when_the_owner_is_killed"]
fn owner_that_is_killed() {
    let mut lab = lab();
    let host = lab.host("one").unwrap();
    let _sleeper = host.spawn(&["sleep", "600"]).unwrap();
    println!("{}", lab.scratch().file_name().unwrap().to_string_lossy());
    std::thread::sleep(Duration::from_secs(60));
}
