//! A host's file system: an overlay over the machine's root, with everything that hosts must not share laid over it anew.

use crate::error::{At, Result};
use crate::spec::HostSpec;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat, symlink};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Makes the host's root and moves into it. Call in new mount, network, pid and cgroup namespaces.
pub(crate) fn enter(spec: &HostSpec) -> Result<()> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .at("Making mounts private")?;
    // In this mount namespace only: the machine sees an empty directory there.
    let base = &spec.scratch;
    tmpfs(base, "0755", None)?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| base.join(name));
    for directory in [&upper, &work, &root] {
        fs::create_dir(directory).at("Making the host's root")?;
    }
    identify(spec, &upper)?;
    for (from, to) in &spec.install {
        let to = upper.join(to.strip_prefix("/").unwrap_or(to));
        fs::create_dir_all(to.parent().unwrap_or(&upper)).at("Installing into a host")?;
        fs::copy(from, &to).at(format!("Installing {} into a host", from.display()))?;
    }
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    let options = CString::new(options).at("Naming the overlay's layers")?;
    mount(c"ferry-lab", &root, c"overlay", MountFlags::empty(), Some(options.as_c_str()))
        .at("Mounting the host's root")?;

    devices(&root)?;
    let none = None::<&std::ffi::CStr>;
    mount(c"proc", root.join("proc"), c"proc", MountFlags::NOSUID | MountFlags::NODEV, none)
        .at("Mounting /proc")?;
    mount(c"sysfs", root.join("sys"), c"sysfs", MountFlags::NOSUID | MountFlags::NODEV, none)
        .at("Mounting /sys")?;
    mount(c"cgroup2", root.join("sys/fs/cgroup"), c"cgroup2", MountFlags::NOSUID, none)
        .at("Mounting cgroup2")?;
    for (path, mode, limit) in [
        ("run", "0755", None),
        ("tmp", "1777", None),
        ("var/tmp", "1777", None),
        ("var/lib/ferry", "0700", spec.state_bytes_max),
    ] {
        fs::create_dir_all(root.join(path)).at(format!("Making /{path}"))?;
        tmpfs(&root.join(path), mode, limit)?;
    }
    new_boot_id(&root)?;
    if let Some(shared) = &spec.shared {
        let at = root.join(shared.at.strip_prefix("/").unwrap_or(&shared.at));
        fs::create_dir_all(&at).at("Making the shared directory")?;
        mount_bind(&shared.from, &at).at("Binding the shared directory")?;
    }

    std::env::set_current_dir(&root).at("Entering the host's root")?;
    rustix::process::pivot_root(".", ".").at("Changing the root")?;
    unmount(".", UnmountFlags::DETACH).at("Letting go of the machine's root")?;
    std::env::set_current_dir("/").at("Entering the host's root")
}

/// Empties what a crash loses and gives the host a new boot id.
pub(crate) fn reboot() -> Result<()> {
    for (path, mode) in [("/run", "0755"), ("/tmp", "1777"), ("/dev/shm", "1777")] {
        while unmount(path, UnmountFlags::DETACH).is_ok() {}
        tmpfs(Path::new(path), mode, None)?;
    }
    let _ = unmount("/proc/sys/kernel/random/boot_id", UnmountFlags::DETACH);
    new_boot_id(Path::new("/"))
}

/// The kernel's boot id is the machine's; a host shows another in its place.
fn new_boot_id(root: &Path) -> Result<()> {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").at("Making a boot id")?;
    let file = root.join("run/boot_id");
    fs::write(&file, id).at("Making a boot id")?;
    mount_bind(&file, root.join("proc/sys/kernel/random/boot_id")).at("Showing a boot id")
}

fn identify(spec: &HostSpec, upper: &Path) -> Result<()> {
    let etc = upper.join("etc");
    fs::create_dir_all(&etc).at("Making /etc")?;
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").at("Making a machine id")?;
    let id: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    let hosts = format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {}\n", spec.name);
    for (file, text) in
        [("machine-id", format!("{id}\n")), ("hostname", format!("{}\n", spec.name)), ("hosts", hosts)]
    {
        fs::write(etc.join(file), text).at(format!("Writing /etc/{file}"))?;
    }
    rustix::system::sethostname(spec.name.as_bytes()).at("Setting the host's name")
}

fn tmpfs(path: &Path, mode: &str, bytes_max: Option<u64>) -> Result<()> {
    let limit = bytes_max.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let options = CString::new(format!("mode={mode}{limit}")).at("Naming mount options")?;
    mount(c"tmpfs", path, c"tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .at(format!("Mounting a tmpfs at {}", path.display()))
}

/// The numbers of a device that this kernel has given some number.
fn misc_device(name: &str) -> Option<(u32, u32)> {
    let text = fs::read_to_string(format!("/sys/class/misc/{name}/dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn devices(root: &Path) -> Result<()> {
    let dev = root.join("dev");
    mount(c"tmpfs", &dev, c"tmpfs", MountFlags::NOSUID, Some(c"mode=0755")).at("Mounting /dev")?;
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
        ("fuse", 10, 229),
        ("net/tun", 10, 200),
    ] {
        let path = dev.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&dev)).at("Making /dev")?;
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))
            .at(format!("Making /dev/{name}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).at("Making /dev")?;
    }
    // Its number is another on each host.
    if let Some((major, minor)) = misc_device("cpu_dma_latency") {
        let path = dev.join("cpu_dma_latency");
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), makedev(major, minor))
            .at("Making /dev/cpu_dma_latency")?;
    }
    for directory in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(directory)).at("Making /dev")?;
    }
    let pts = Some(c"newinstance,ptmxmode=0666,mode=0620");
    mount(c"devpts", dev.join("pts"), c"devpts", MountFlags::NOSUID, pts).at("Mounting /dev/pts")?;
    tmpfs(&dev.join("shm"), "1777", None)?;
    let none = None::<&std::ffi::CStr>;
    let _ = mount(c"mqueue", dev.join("mqueue"), c"mqueue", MountFlags::NOSUID, none);
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, dev.join(name)).at("Making /dev")?;
    }
    Ok(())
}

/// File systems that belong to the given processes' mount namespaces and not to ours, by device number (`major:minor`).
pub(crate) fn private_devices(pids: &[i32]) -> std::collections::BTreeSet<String> {
    let mounted = |text: String| {
        let third = |line: &str| line.split(' ').nth(2).map(str::to_owned);
        text.lines().filter_map(third).collect::<std::collections::BTreeSet<_>>()
    };
    let ours = mounted(fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    let all = pids
        .iter()
        .flat_map(|pid| mounted(fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default()));
    all.filter(|device| !ours.contains(device)).collect()
}

/// File systems that a process can reach: by mount, and by open file. Each with words for it.
pub(crate) fn devices_of(pid: i32) -> Vec<(String, String)> {
    use std::os::unix::fs::MetadataExt as _;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let mut found: Vec<(String, String)> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(2);
            Some((words.next()?.to_owned(), format!("mount {}", words.nth(1)?)))
        })
        .collect();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        if let Ok(meta) = fs::metadata(entry.path()) {
            let device = format!("{}:{}", rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
            found.push((device, format!("descriptor {}", entry.file_name().to_string_lossy())));
        }
    }
    found
}
