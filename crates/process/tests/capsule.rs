//! A capsule for real: made, used, captured, made again elsewhere, destroyed, and swept up after every kind of death.
//! Each test works in a forked process with one thread, as the shim does.

use ferry_process::capsule::{Capsule, Clocks, Command, Limits, Spec, With, pack_upper, sweep, unpack_upper};
use ferry_sys::fork::{Forked, exit_now, fork, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs `test` in a process of its own with one thread, and fails if it does.
/// It gets a directory on a disk; whatever capsule is left in there is swept up.
fn alone(test: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    match fork().unwrap() {
        Forked::Child => {
            let work = std::panic::AssertUnwindSafe(|| test(directory.path()));
            let result = std::panic::catch_unwind(work);
            exit_now(i32::from(result.is_err()));
        }
        Forked::Parent(pid, _) => {
            let end = wait(pid, true).unwrap();
            for place in ["", "s", "t"] {
                let _ = sweep(&directory.path().join(place).join("workload"), true);
            }
            assert_eq!(end, Some((pid, 0)), "see the message above");
        }
    }
}

fn spec(directory: &Path, name: &str) -> Spec {
    Spec {
        name: format!("test-{name}-{}", std::process::id()),
        directory: directory.join("workload"),
        hidden: vec![directory.to_owned()],
        hostname: "seven-seas".into(),
        end_with_creator: true,
        ..Spec::default()
    }
}

/// Runs a shell script inside and gives what it prints.
fn shell(capsule: &mut Capsule, script: &str) -> String {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let command = Command {
        argv: ["sh", "-c", script].map(Into::into).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin:/usr/sbin:/sbin".into())],
        stdio: vec![null.into(), writer.try_clone().unwrap().into(), writer.into()],
        ..Command::default()
    };
    let started = capsule.spawn(&command).unwrap();
    drop(command);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    let ended = capsule.next_ended(true).unwrap().unwrap();
    assert_eq!(ended.pid, started.pid);
    assert_eq!(ended.code(), 0, "{script}: {text}");
    text.trim().to_owned()
}

fn cgroup_of(capsule: &Capsule) -> std::path::PathBuf {
    capsule.cgroup().path().parent().unwrap().to_owned()
}

/// Nothing of a capsule is left: no process, cgroup, mount, file.
fn nothing_left(init: i32, cgroup: &Path, directory: &Path) {
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
    assert!(!Path::new(&format!("/proc/{init}")).exists(), "init is left");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(directory.to_str().unwrap()), "a mount is left");
    let files: Vec<_> = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(files.is_empty(), "{files:?} are left");
}

fn destroy(capsule: Capsule) {
    let (init, cgroup, directory) = (capsule.init_pid(), cgroup_of(&capsule), capsule.directory().to_owned());
    capsule.destroy().unwrap();
    nothing_left(init, &cgroup, &directory);
}

#[test]
fn a_program_sees_a_world_of_its_own() {
    alone(|directory| {
        fs::create_dir(directory.join("given")).unwrap();
        fs::write(directory.join("given/file"), "from the host").unwrap();
        let given = directory.join("given").to_str().unwrap().to_owned();
        let with = With { path: "/srv/given".into(), host: given, binding: None, read_only: false };
        let mut capsule = Capsule::create(&Spec { with: vec![with], ..spec(directory, "world") }).unwrap();
        assert_eq!(shell(&mut capsule, "echo $$"), "2");
        assert_eq!(
            shell(&mut capsule, "hostname; cat /proc/1/comm; ls /tmp; whoami"),
            "seven-seas\nferry-init\nroot"
        );
        assert_eq!(shell(&mut capsule, "cat /srv/given/file"), "from the host");
        shell(
            &mut capsule,
            "echo back > /srv/given/back; echo x > /etc/written; rm /etc/hostname /etc/hosts; echo > /dev/null",
        );
        assert_eq!(fs::read_to_string(directory.join("given/back")).unwrap(), "back\n");
        assert!(!Path::new("/etc/written").exists() && Path::new("/etc/passwd").exists());
        assert!(capsule.upper().join("etc/written").exists());
        assert_eq!(shell(&mut capsule, "cat /proc/self/cgroup | grep ^0:"), "0::/");
        assert_eq!(shell(&mut capsule, &format!("ls {}", directory.display())), "");
        assert_eq!(
            shell(&mut capsule, "touch /sys/x 2>/dev/null || echo read-only; tty; stat -fc %T /dev/shm"),
            "read-only\nnot a tty\ntmpfs"
        );
        assert_eq!(shell(&mut capsule, "ls /proc/1/fd | wc -l"), "6", "stdio, socket, signals, line");
        destroy(capsule);
    });
}

#[test]
fn users_directories_limits_and_failures() {
    alone(|directory| {
        let mut capsule = Capsule::create(&spec(directory, "user")).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let user = ferry_process::capsule::User { uid: 1234, gid: 2345, groups: vec![7, 8] };
        let mut command = Command {
            argv: ["sh", "-c", "id -u; id -g; id -G; pwd; ulimit -n; echo $A"].map(Into::into).to_vec(),
            env: vec![("A".into(), "b c".into()), ("PATH".into(), "/usr/bin:/bin".into())],
            cwd: Some("/usr/share".into()),
            user: Some(user),
            stdio: vec![File::open("/dev/null").unwrap().into(), writer.into()],
            rlimits: vec![(7, 77, 88)],
            ..Command::default()
        };
        capsule.spawn(&command).unwrap();
        command.stdio.clear();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1234\n2345\n2345 7 8\n/usr/share\n77\nb c\n");
        assert_eq!(capsule.next_ended(true).unwrap().unwrap().code(), 0);

        let failure =
            |command: &Command, capsule: &mut Capsule| capsule.spawn(command).unwrap_err().to_string();
        command.argv = vec!["/no/such/program".into()];
        assert_eq!(failure(&command, &mut capsule), "Could not start the program (/no/such/program)");
        command.cwd = Some("/no/such/directory".into());
        assert!(failure(&command, &mut capsule).contains("working directory"));
        assert_eq!(
            capsule.next_ended(false).unwrap(),
            None,
            "what never became a program does not end as one"
        );
        capsule.cgroup().freeze().unwrap();
        assert!(failure(&command, &mut capsule).contains("frozen"));
        destroy(capsule);
    });
}

#[test]
fn a_capsule_goes_on_elsewhere_with_its_files_clocks_mounts_and_segments() {
    alone(|directory| {
        let clocks = Clocks { monotonic_ns: 5_000_000_000_000, boottime_ns: 7_000_000_000_000 };
        let source = Spec { clocks: Some(clocks), own_network: true, ..spec(&directory.join("s"), "source") };
        let mut capsule = Capsule::create(&source).unwrap();
        shell(
            &mut capsule,
            "echo root > /etc/mine; rm /etc/issue; mkdir /opt/d; echo tmp > /tmp/t; mkfifo /run/f; \
             echo shm > /dev/shm/s; chown 5:6 /dev/shm/s; mkdir /srv/m /srv/b; mount -t tmpfs -o size=1m,mode=700 none /srv/m; \
             echo inner > /srv/m/i; mount --bind /etc /srv/b; mount -o remount,bind,ro /srv/b; \
             sysctl -qw kernel.shmmni=1234 net.core.somaxconn=777; hostname renamed",
        );
        let key = shell(
            &mut capsule,
            "ipcmk -M 100000 -p 0640 >/dev/null; ipcmk -S 3 >/dev/null; ipcmk -Q >/dev/null; \
             ipcs -m | grep 0x | cut -d' ' -f1",
        );
        let segments = capsule
            .inside(ferry_process::capsule::namespace::Kinds::INTER_PROCESS_COMMUNICATION, || {
                let object = ferry_sys::sysv::list(ferry_sys::sysv::Kind::Segment)?[0];
                ferry_sys::sysv::Attached::new(object.id, object.size)?.write(50_000, b"in shared memory")?;
                Ok(object.id)
            })
            .unwrap();
        assert_eq!(capsule.inspect().unwrap().len(), 0);
        capsule.cgroup().freeze().unwrap();
        capsule.cgroup().wait_frozen(Duration::from_secs(5)).unwrap();
        let record = capsule.capture().unwrap();
        let (mut upper, mut contents) = (Vec::new(), Vec::new());
        pack_upper(capsule.directory(), &mut upper).unwrap();
        capsule.pack_contents(&record, true, &mut contents).unwrap();
        destroy(capsule);
        let bytes = minicbor::to_vec(&record).unwrap();
        let record: ferry_process::records::capsule::Capsule = minicbor::decode(&bytes).unwrap();

        let target = directory.join("t");
        let target = Spec {
            end_with_creator: true,
            hidden: vec![target.clone()],
            ..Spec::restored(&record, format!("test-target-{}", std::process::id()), target.join("workload"))
        };
        unpack_upper(&target.directory, &mut &upper[..]).unwrap();
        let mut capsule = Capsule::create(&target).unwrap();
        capsule.restore_contents(&record, &mut &contents[..]).unwrap();
        assert_eq!(
            shell(
                &mut capsule,
                "cat /etc/mine /tmp/t /dev/shm/s /srv/m/i /srv/b/mine; hostname; ls -d /opt/d"
            ),
            "root\ntmp\nshm\ninner\nroot\nrenamed\n/opt/d"
        );
        assert_eq!(
            shell(
                &mut capsule,
                "ls /etc/issue 2>/dev/null; test -p /run/f && stat -c %u:%g /dev/shm/s; \
             stat -c %a /srv/m /dev/shm /tmp; touch /srv/b/x 2>/dev/null || echo ro"
            ),
            "5:6\n700\n1777\n1777\nro"
        );
        assert_eq!(shell(&mut capsule, "sysctl -n kernel.shmmni net.core.somaxconn"), "1234\n777");
        assert_eq!(shell(&mut capsule, "ipcs -m | grep 0x | cut -d' ' -f1"), key);
        assert_eq!(shell(&mut capsule, "ipcs -s | grep 0x | awk '{print $5}'; ipcs -q | grep -c 0x"), "3\n1");
        let text = capsule
            .inside(ferry_process::capsule::namespace::Kinds::INTER_PROCESS_COMMUNICATION, || {
                let mut buffer = [0; 16];
                ferry_sys::sysv::Attached::new(segments, 100_000)?.read(50_000, &mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer).into_owned())
            })
            .unwrap();
        assert_eq!(text, "in shared memory");
        let uptime: f64 = shell(&mut capsule, "cut -d' ' -f1 /proc/uptime").parse().unwrap();
        assert!((7000.0..7060.0).contains(&uptime), "{uptime}");
        let again = capsule.capture().unwrap();
        assert!((5_000_000_000_000..5_060_000_000_000).contains(&again.clocks.monotonic_ns));
        assert_eq!((again.mounts, again.ipc), (record.mounts, record.ipc));
        destroy(capsule);
    });
}

#[test]
fn what_cannot_be_made_again_is_refused_by_name() {
    alone(|directory| {
        let mut capsule = Capsule::create(&spec(directory, "refused")).unwrap();
        shell(
            &mut capsule,
            "umount /run; mkdir /srv/deb; mount -t debugfs none /srv/deb || mount -t ramfs none /srv/deb",
        );
        let words: Vec<String> = capsule.inspect().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].contains("/srv/deb") && words[1].contains("/run"));
        assert!(capsule.capture().is_err());
        let argv = ["unshare", "--uts", "sleep", "1000"].map(Into::into).to_vec();
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let nested = capsule.spawn(&Command { argv, env, ..Command::default() }).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let blockers = loop {
            let resources = ferry_process::inspect::capsule::capsule(&capsule).unwrap();
            assert!(resources.iter().any(|resource| resource.sort == "root-file-system"));
            let blockers: Vec<_> =
                resources.into_iter().filter(|resource| resource.unsupported.is_some()).collect();
            if blockers.len() > 2 || Instant::now() > deadline {
                break blockers;
            }
        };
        let last = blockers.last().unwrap();
        assert_eq!((last.sort.as_str(), last.holder.unwrap().pid), ("namespace", nested.pid), "{blockers:?}");
        destroy(capsule);
    });
}

/// Waits for a process to be gone, or a zombie that only its real parent can reap.
fn gone(pid: i32) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => return true,
            Ok(stat) if stat.contains(") Z") => return true,
            Ok(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    false
}

#[test]
fn the_workload_outlives_the_shim_and_the_next_one_finds_it() {
    alone(|directory| {
        // Orphans come to this process, as they would to the host's init.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let spec = Spec { end_with_creator: false, ..spec(directory, "shim") };
        let Forked::Parent(shim, _) = fork().unwrap() else {
            let mut capsule = Capsule::create(&spec).unwrap();
            let sleep = ["sh", "-c", "sleep 0.3; exit 5"].map(Into::into).to_vec();
            let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
            capsule.spawn(&Command { argv: sleep, env, ..Command::default() }).unwrap();
            kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
            exit_now(1)
        };
        assert_eq!(wait(shim, true).unwrap(), Some((shim, 9)));
        let mut capsule = Capsule::open(&spec.directory).unwrap();
        let ended = capsule.next_ended(true).unwrap().unwrap();
        assert_eq!((ended.pid, ended.code()), (2, 5));
        assert_eq!(shell(&mut capsule, "echo still here"), "still here");
        drop(capsule);
        let mut capsule = Capsule::open(&spec.directory).unwrap();
        assert_eq!(capsule.next_ended(true).unwrap().unwrap().pid, 2, "ends are told to each new shim");
        destroy(capsule);
    });
}

#[test]
fn nothing_is_left_after_init_or_the_shim_was_killed() {
    alone(|directory| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let first = Spec { end_with_creator: false, ..spec(directory, "killed-init") };
        let mut capsule = Capsule::create(&first).unwrap();
        let (init, cgroup) = (capsule.init_pid(), cgroup_of(&capsule));
        let argv = ["sleep", "1000"].map(Into::into).to_vec();
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let task = capsule.spawn(&Command { argv, env, ..Command::default() }).unwrap().host_pid;
        capsule.cgroup().freeze().unwrap();
        kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
        assert!(gone(task), "the kernel ends a frozen workload with its init");
        assert!(capsule.next_ended(true).is_err());
        assert!(Capsule::open(&first.directory).is_err());
        let found = sweep(&first.directory, true).unwrap();
        assert!(!found.is_empty());
        nothing_left(init, &cgroup, &first.directory);
        assert_eq!(sweep(&first.directory, true).unwrap(), [], "and once more finds nothing");

        let second = Spec { end_with_creator: false, ..spec(directory, "killed-shim") };
        let Forked::Parent(shim, _) = fork().unwrap() else {
            let mut capsule = Capsule::create(&second).unwrap();
            let argv = ["sleep", "1000"].map(Into::into).to_vec();
            let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
            capsule.spawn(&Command { argv, env, ..Command::default() }).unwrap();
            kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
            exit_now(1)
        };
        wait(shim, true).unwrap();
        let capsule = Capsule::open(&second.directory).unwrap();
        let (init, cgroup) = (capsule.init_pid(), cgroup_of(&capsule));
        drop(capsule);
        assert!(sweep(&second.directory, true).unwrap().len() > 3);
        nothing_left(init, &cgroup, &second.directory);
    });
}

#[test]
fn a_failed_attempt_leaves_nothing_and_says_why() {
    alone(|directory| {
        let given = With { path: "/srv/x".into(), host: "/no/such".into(), binding: None, read_only: false };
        let good = spec(directory, "failed");
        let error = Capsule::create(&Spec { with: vec![given], ..good.clone() }).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
        // Found out only inside: no such file system for a mount of the workload's.
        let mount = ferry_process::records::capsule::Mount {
            point: "/srv/y".into(),
            kind: "ext4".into(),
            source: "/dev/sda".into(),
            options: String::new(),
            super_options: String::new(),
        };
        let error = Capsule::create(&Spec { mounts: vec![mount], ..good.clone() }).unwrap_err();
        assert!(error.to_string().contains("ext4"), "{error}");
        let cgroup = ferry_process::capsule::Cgroup::own().unwrap().path().join("ferry").join(&good.name);
        assert!(!cgroup.exists());
        assert!(!good.directory.join("work").exists() && !good.directory.join("init.sock").exists());
        // Then it works.
        destroy(Capsule::create(&good).unwrap());
    });
}

#[test]
fn limits_hold_or_are_refused_clearly() {
    alone(|directory| {
        let limits = Limits { memory_bytes: Some(64 << 20), cpu_millis: Some(500) };
        match Capsule::create(&Spec { limits, ..spec(directory, "limits") }) {
            Ok(mut capsule) => {
                let script = "head -c 200M /dev/zero | tail -c 150M > /dev/null; echo $?";
                assert_ne!(shell(&mut capsule, script), "0", "tail keeps 150 MiB and may have only 64");
                destroy(capsule);
            }
            Err(error) => assert!(error.to_string().contains("limit cannot be set here"), "{error}"),
        }
    });
}

/// Puts this process into a host like the lab's: an overlay over `/` as its root, memory file systems beside it.
fn enter_a_lab_host(directory: &Path) {
    use ferry_sys::mounts::{
        MountAttrFlags as Attr, attach, clone_mount, make_private, new_mount, pivot_into,
    };
    use rustix::fd::{AsFd, OwnedFd};
    use rustix::fs::{CWD, Mode, OFlags};
    let open = |path: &Path| -> OwnedFd {
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    ferry_sys::unshare::unshare(ferry_sys::unshare::UnshareFlags::NEWNS).unwrap();
    make_private(open(Path::new("/")).as_fd()).unwrap();
    let memory = new_mount("tmpfs", "lab", &[], Attr::empty()).unwrap();
    attach(memory.as_fd(), open(directory).as_fd()).unwrap();
    for name in ["upper", "work", "root"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    let text = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (upper, work, root) = (text("upper"), text("work"), directory.join("root"));
    let options = [("lowerdir", "/"), ("upperdir", upper.as_str()), ("workdir", work.as_str())];
    let overlay = new_mount("overlay", "lab", &options, Attr::empty()).unwrap();
    attach(overlay.as_fd(), open(&root).as_fd()).unwrap();
    for path in ["proc", "sys", "dev"] {
        let copy = clone_mount(CWD, &Path::new("/").join(path), true).unwrap();
        attach(copy.as_fd(), open(&root.join(path)).as_fd()).unwrap();
    }
    // A disk beneath the root, and a single file of one, as containers have /etc/hosts.
    let disk = clone_mount(CWD, Path::new("/usr/share"), false).unwrap();
    attach(disk.as_fd(), open(&root.join("srv")).as_fd()).unwrap();
    fs::write(root.join("etc/one-file"), "").unwrap();
    let file = clone_mount(CWD, Path::new("/etc/passwd"), false).unwrap();
    attach(file.as_fd(), open(&root.join("etc/one-file")).as_fd()).unwrap();
    fs::create_dir(root.join("state")).unwrap();
    let state = new_mount("tmpfs", "lab", &[], Attr::empty()).unwrap();
    attach(state.as_fd(), open(&root.join("state")).as_fd()).unwrap();
    pivot_into(open(&root).as_fd()).unwrap();
}

#[test]
fn on_a_host_whose_root_is_an_overlay_the_state_must_be_elsewhere() {
    alone(|directory| {
        enter_a_lab_host(directory);
        fs::create_dir("/elsewhere").unwrap();
        let bad = spec(Path::new("/elsewhere"), "overlay");
        let error = ferry_model::error::Error::from(Capsule::create(&bad).unwrap_err());
        assert!(error.message.contains("overlay") && error.hints[0].contains("FERRY_STATE"), "{error:?}");
        let mut capsule = Capsule::create(&spec(Path::new("/state"), "tmpfs")).unwrap();
        shell(&mut capsule, "echo x > /etc/written; rm /etc/passwd");
        assert!(Path::new("/etc/passwd").exists() && !Path::new("/etc/written").exists());
        assert!(capsule.upper().join("etc/written").exists());
        assert_eq!(shell(&mut capsule, "ls /state"), "");
        // The host's disk at /srv and the file that it has mounted are seen, and never written to.
        assert_eq!(
            shell(
                &mut capsule,
                "ls -d /srv/doc; head -c 5 /etc/one-file; echo y > /srv/new; echo y >> /etc/one-file"
            ),
            "/srv/doc\nroot:"
        );
        assert!(capsule.upper().join("srv/new").exists() && !Path::new("/srv/new").exists());
        assert!(!fs::read_to_string("/etc/one-file").unwrap().ends_with("y\n"));
        destroy(capsule);
    });
}

#[test]
fn an_attached_segment_is_refused_with_its_process() {
    alone(|directory| {
        let mut capsule = Capsule::create(&spec(directory, "segment")).unwrap();
        let attach = "import ctypes,time\nc=ctypes.CDLL(None)\nc.shmat.restype=ctypes.c_void_p\n\
            i=c.shmget(0,4096,0o1600)\na=c.shmat(i,None,0)\nprint(a,flush=True)\ntime.sleep(1000)";
        let (mut reader, writer) = std::io::pipe().unwrap();
        let argv = ["python3", "-c", attach].map(Into::into).to_vec();
        let env = vec![("PATH".into(), "/usr/bin:/bin".into())];
        let stdio = vec![File::open("/dev/null").unwrap().into(), writer.into()];
        let task = capsule.spawn(&Command { argv, env, stdio, ..Command::default() }).unwrap();
        reader.read_exact(&mut [0; 4]).unwrap();
        let found = ferry_process::inspect::capsule::capsule(&capsule).unwrap();
        let refused: Vec<_> = found.iter().filter(|resource| resource.unsupported.is_some()).collect();
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert_eq!(refused[0].holder.unwrap().pid, task.pid);
        assert!(
            found.iter().any(|resource| resource.sort == "shared-memory-segment" && resource.bytes == 4096)
        );
        destroy(capsule);
    });
}
