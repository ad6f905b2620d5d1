//! The cgroups of a capsule, `<own cgroup>/ferry/<name>/{work,init}`, and its limits.
//!
//! Memory and processor limits need a controller. In the version 2 tree it must be handed down from the root; in the
//! hybrid layout the version 1 hierarchies hold it, and then the capsule gets a directory there too, which init enters
//! and its children inherit. Where neither is to be had, that is said, not ignored.

use super::error::{Doing, Error, Result};
use super::spec::Limits;
use ferry_sys::cgroup::Cgroup;
use ferry_sys::mountinfo;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Length of the period in which processor time is counted, µs.
const CPU_PERIOD_US: u64 = 100_000;

/// How long killed tasks may take to leave.
const UNFINISHED_END_MAX: Duration = Duration::from_secs(5);

/// The cgroups of one capsule.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) whole: Cgroup,
    pub(super) work: Cgroup,
    pub(super) init: Cgroup,
}

impl Groups {
    /// Makes them beneath this process' own cgroup.
    pub(super) fn create(name: &str) -> Result<Self> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Error::Invalid(format!("A capsule cannot be named {name:?}")));
        }
        let own = Cgroup::own().map_err(|error| Error::Unable {
            what: format!("Workloads need version 2 cgroups: {error}"),
            hint: "See `ferry check`".into(),
        })?;
        let below = format!("ferry/{name}");
        if own.path().join(&below).exists() {
            return Err(Error::Invalid(format!("There is a capsule named {name} already")));
        }
        let make = |part: &str| make_child(&own, &below, part);
        let whole = make("").doing(|| format!("make the cgroup {below} in {}", own.path().display()))?;
        let rest = || -> io::Result<Self> {
            Ok(Self { work: make("work")?, init: make("init")?, whole: Cgroup::open(whole.path())? })
        };
        rest().doing(|| format!("make cgroups in {}", whole.path().display())).inspect_err(|_| {
            let _ = remove(whole.path(), &[]);
        })
    }

    /// Finds them again.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open =
            |path: PathBuf| Cgroup::open(&path).doing(|| format!("open the cgroup {}", path.display()));
        Ok(Self {
            whole: open(path.to_owned())?,
            work: open(path.join("work"))?,
            init: open(path.join("init"))?,
        })
    }
}

/// Another capsule may be removing the empty parent at this moment: then try again.
pub(crate) fn make_child(own: &Cgroup, below: &str, part: &str) -> io::Result<Cgroup> {
    let name = if part.is_empty() { below.to_owned() } else { format!("{below}/{part}") };
    let mut result = own.child(&name);
    for _ in 0..8 {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => result = own.child(&name),
            _ => break,
        }
    }
    result
}

/// Removes a capsule's cgroups, and the common parent if nothing else is in it.
pub(crate) fn remove(whole: &Path, others: &[PathBuf]) -> io::Result<()> {
    ferry_sys::cgroup::remove_tree(whole)?;
    if let Some(parent) = whole.parent() {
        let _ = fs::remove_dir(parent);
    }
    for other in others {
        ferry_sys::cgroup::remove_tree(other)?;
    }
    Ok(())
}

/// Removes what is left of a capsule whose maker was killed before it could write down what it had made: kills all that is in the
/// cgroups of that name beneath this process' own.
pub(super) fn remove_unfinished(name: &str) -> io::Result<()> {
    let whole = Cgroup::own()?.path().join("ferry").join(name);
    let others =
        ["memory", "cpu"].into_iter().filter_map(version1).map(|own| own.join(format!("ferry-{name}")));
    let others: Vec<PathBuf> = others.filter(|path| path.is_dir()).collect();
    if !whole.is_dir() && others.is_empty() {
        return Ok(());
    }
    if let Ok(cgroup) = Cgroup::open(&whole) {
        cgroup.kill()?;
        cgroup.wait_empty(UNFINISHED_END_MAX)?;
    }
    remove(&whole, &others)
}

/// Applies `limits` and moves init (with all its children to come) under them; the version 1 directories made for it.
pub(super) fn limit(groups: &Groups, limits: &Limits, name: &str, init: i32) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        let bytes = bytes.to_string();
        let files = [("memory.max", bytes.as_str())];
        let old = [("memory.limit_in_bytes", bytes.as_str())];
        made.extend(limit_one(groups, "memory", &files, &old, name, init)?);
    }
    if let Some(millis) = limits.cpu_millis {
        let quota = (u64::from(millis) * CPU_PERIOD_US / 1000).max(1000);
        let both = format!("{quota} {CPU_PERIOD_US}");
        let (quota, period) = (quota.to_string(), CPU_PERIOD_US.to_string());
        let files = [("cpu.max", both.as_str())];
        let old = [("cpu.cfs_period_us", period.as_str()), ("cpu.cfs_quota_us", quota.as_str())];
        made.extend(limit_one(groups, "cpu", &files, &old, name, init)?);
    }
    Ok(made)
}

type Values<'a> = [(&'a str, &'a str)];

fn limit_one(
    groups: &Groups,
    controller: &str,
    new: &Values<'_>,
    old: &Values<'_>,
    name: &str,
    init: i32,
) -> Result<Option<PathBuf>> {
    let second = hand_down(groups, controller)
        .and_then(|()| new.iter().try_for_each(|(file, value)| groups.whole.write(file, value)));
    let Err(why) = second else { return Ok(None) };
    match version1(controller) {
        Some(parent) => {
            let directory = parent.join(format!("ferry-{name}"));
            let set = || -> io::Result<()> {
                fs::create_dir_all(&directory)?;
                old.iter().try_for_each(|(file, value)| fs::write(directory.join(file), value))?;
                fs::write(directory.join("cgroup.procs"), init.to_string())
            };
            set()
                .inspect_err(|_| drop(fs::remove_dir(&directory)))
                .doing(|| format!("set the {controller} limit in {}", directory.display()))?;
            Ok(Some(directory))
        }
        None => Err(Error::Unable {
            what: format!("A {controller} limit cannot be set here: {why}"),
            hint: format!(
                "Start the node in a cgroup that the {controller} controller is delegated to (systemd: Delegate=yes), or \
                 leave the limit out"
            ),
        }),
    }
}

/// Enables a controller from the node's own cgroup down to the capsule's.
fn hand_down(groups: &Groups, controller: &str) -> io::Result<()> {
    let path = groups.whole.path();
    let levels = [path.parent().and_then(Path::parent), path.parent()];
    for level in levels.into_iter().flatten() {
        let level = Cgroup::open(level)?;
        if !level.controllers()?.iter().any(|each| each == controller) {
            let what = format!("{} has no {controller} controller", level.path().display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        level.write("cgroup.subtree_control", &format!("+{controller}"))?;
    }
    Ok(())
}

/// This process' own directory in the version 1 hierarchy of a controller.
fn version1(controller: &str) -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|each| each == controller);
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        has(fields.next()?).then(|| fields.next()).flatten()
    })?;
    let mounts = mountinfo::read(Path::new("/proc/self")).ok()?;
    let found = mounts.iter().filter(|mount| mount.kind == "cgroup" && has(&mount.super_options)).find_map(
        |mount| {
            let beneath = Path::new(own).strip_prefix(&mount.root).ok()?;
            Some(mount.point.join(beneath))
        },
    )?;
    found.join("cgroup.procs").exists().then_some(found)
}
