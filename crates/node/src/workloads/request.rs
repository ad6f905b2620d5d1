//! From what a user asks for to what a shim is told: names, environment, network identity, everything checked.

use ferry_model::api::{self, AdoptRequest, RunRequest, Segments};
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::WorkloadId;
use ferry_model::plan::Resource;
use ferry_session::movement::own_mac;
use ferry_session::shim::{Network, Size, Spec, With};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Longest name of a workload, characters: it is also its host name.
const NAME_MAX: usize = 63;

/// Where programs are looked for, unless the user says otherwise.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A new identity.
pub fn new_id() -> Result<WorkloadId> {
    let mut id = [0; 16];
    crate::trust::fill_random(&mut id)?;
    Ok(WorkloadId(id))
}

/// Checks a name: it becomes the capsule's host name and stands in paths of the API.
pub fn check_name(name: &str) -> Result<String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    let fits = (1..=NAME_MAX).contains(&name.len())
        && name.chars().all(inner)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !name.starts_with("w-");
    if fits {
        return Ok(name.to_owned());
    }
    Err(Error::new(Kind::Usage, format!("'{name}' cannot be the name of a workload"))
        .hint("1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit, not with 'w-'"))
}

/// What the shim is told.
pub fn spec(id: WorkloadId, name: &str, request: RunRequest, bridge: &str) -> Result<Spec> {
    let usage = |message: String| Err(Error::new(Kind::Usage, message));
    if request.command.is_empty() || request.command[0].is_empty() {
        return usage("No program is named".to_owned());
    }
    let texts = request.command.iter().chain(&request.env).chain(request.cwd.iter());
    if texts.clone().any(|text| text.contains('\0')) {
        return usage("Arguments and environment cannot hold a NUL".to_owned());
    }
    if let Some(bad) = request.env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0)) {
        return usage(format!("'{bad}' is not NAME=VALUE"));
    }
    let cwd = request.cwd.unwrap_or_else(|| "/".to_owned());
    if !cwd.starts_with('/') {
        return usage(format!("The working directory '{cwd}' is not an absolute path"));
    }
    let with = named(&request.with)?;
    let network = request.net.map(|net| identity(id, &net, bridge)).transpose()?;
    Ok(Spec {
        id,
        name: name.to_owned(),
        env: environment(&request.env, request.user.as_deref(), request.terminal),
        command: request.command,
        cwd,
        user: request.user,
        terminal: request.terminal.then_some(Size { rows: 24, columns: 80 }),
        network,
        with,
        memory_bytes_max: request.memory_bytes,
        cpu_milli_max: request.cpu_milli,
        hostname: None,
    })
}

/// Paths that a workload needs, checked.
fn named(with: &[api::With]) -> Result<Vec<With>> {
    let usage = |message: String| Err(Error::new(Kind::Usage, message));
    let mut all = Vec::new();
    for with in with {
        if !with.path.starts_with('/') || with.path.contains('\0') {
            return usage(format!("'{}' is not an absolute path", with.path));
        }
        if !Path::new(&with.path).exists() {
            return usage(format!("{} is not there", with.path));
        }
        // Without a slash at the end, or two in the middle.
        let path: PathBuf = Path::new(&with.path).components().collect();
        let path = path.to_string_lossy().into_owned();
        if path == "/" {
            return usage("The whole root is no part of a workload".to_owned());
        }
        all.push(With { path, binding: with.binding });
    }
    Ok(all)
}

/// As for a workload that already runs: under the name by which the kernel knows it, so that what is beneath can be told.
pub fn declared(with: &[api::With]) -> Result<Vec<With>> {
    let all = named(with)?;
    for with in &all {
        let real = std::fs::canonicalize(&with.path).map_err(|e| Error::from_source(Kind::Usage, &e))?;
        if real != Path::new(&with.path) {
            return Err(Error::new(Kind::Usage, format!("{} leads to {}", with.path, real.display()))
                .hint(format!("name that: --with {}", real.display())));
        }
    }
    Ok(all)
}

/// What the shim is told of a tree that already runs; what it was started with is read from the kernel.
pub fn adopted(id: WorkloadId, name: &str, request: &AdoptRequest) -> Result<Spec> {
    let pid = request.pid;
    let with = declared(&request.with)?;
    let no_such = || Error::new(Kind::Usage, format!("There is no process {pid}"));
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| no_such())?;
    let command: Vec<String> = bytes
        .split(|&byte| byte == 0)
        .filter(|arg| !arg.is_empty())
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect();
    if command.is_empty() {
        return Err(Error::new(Kind::Refused, format!("Process {pid} is a task of the kernel or has ended")));
    }
    // What a cold move starts anew.
    let status = ferry_sys::proc::status::read(&pid.to_string()).map_err(|_| no_such())?;
    let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let env = environ.split(|&byte| byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned());
    let cwd =
        std::fs::read_link(format!("/proc/{pid}/cwd")).ok().and_then(|path| path.to_str().map(str::to_owned));
    Ok(Spec {
        id,
        name: name.to_owned(),
        command,
        env: env.filter(|entry| entry.find('=').is_some_and(|at| at > 0)).collect(),
        cwd: cwd.unwrap_or_else(|| "/".to_owned()),
        user: (status.uid[1] != 0).then(|| format!("{}:{}", status.uid[1], status.gid[1])),
        terminal: None,
        network: None,
        with,
        memory_bytes_max: None,
        cpu_milli_max: None,
        hostname: None,
    })
}

/// The network identity of a workload: its MAC address comes from its id, so that it is unique and stays.
fn identity(id: WorkloadId, net: &str, bridge: &str) -> Result<Network> {
    let bad = || {
        Error::new(Kind::Usage, format!("'{net}' is not an address and prefix length, such as 10.7.0.5/24"))
    };
    let (address, length) = net.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let length: u8 = length.parse().map_err(|_| bad())?;
    if length > if address.is_ipv4() { 32 } else { 128 } || address.is_unspecified() || address.is_multicast()
    {
        return Err(bad());
    }
    Ok(Network {
        bridge: bridge.to_owned(),
        addresses: vec![format!("{address}/{length}")],
        mac: own_mac(id),
        gateways: Vec::new(),
    })
}

/// The whole environment: defaults, then what the user said.
pub fn environment(given: &[String], user: Option<&str>, terminal: bool) -> Vec<String> {
    let mut variables: BTreeMap<&str, String> = BTreeMap::new();
    let home = format!("HOME={}", user.and_then(home_of).unwrap_or_else(|| "/root".to_owned()));
    let defaults = [PATH.to_owned(), home, "TERM=xterm".to_owned()];
    let count = if terminal { 3 } else { 2 };
    for entry in defaults[..count].iter().chain(given) {
        variables.insert(entry.split('=').next().unwrap_or_default(), entry.clone());
    }
    variables.into_values().collect()
}

/// Home directory of `USER[:GROUP]`, by name or number.
fn home_of(user: &str) -> Option<String> {
    let user = user.split(':').next()?;
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|line| line.len() > 5 && (line[0] == user || line[2] == user)).map(|line| line[5].to_owned())
}

/// What a workload holds, by segment. Executables and libraries are code; tasks and memory are execution.
pub fn segments(resources: Vec<Resource>) -> Segments {
    let mut segments = Segments::default();
    for resource in resources {
        match resource.sort.as_str() {
            "executable" | "library" => segments.code.push(resource),
            "memory" | "task" | "thread" | "process" => {
                segments
                    .execution
                    .push(format!("{} {} ({} bytes)", resource.sort, resource.name, resource.bytes));
            }
            _ => segments.resource.push(resource),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(net: Option<&str>) -> RunRequest {
        RunRequest { command: vec!["true".to_owned()], net: net.map(str::to_owned), ..RunRequest::default() }
    }

    #[test]
    fn what_the_user_says_wins_over_defaults() {
        let env = environment(&["PATH=/x".to_owned(), "A=1".to_owned(), "A=2".to_owned()], None, false);
        assert_eq!(env, ["A=2", "HOME=/root", "PATH=/x"]);
        assert!(environment(&[], None, true).contains(&"TERM=xterm".to_owned()));
    }

    #[test]
    fn a_network_identity_is_a_unicast_address_with_a_mac_of_its_own() {
        let id = WorkloadId([9; 16]);
        let network = spec(id, "web", asked(Some("10.7.0.5/24")), "br0").unwrap().network.unwrap();
        assert_eq!((network.addresses, network.mac), (vec!["10.7.0.5/24".to_owned()], own_mac(id)));
        for bad in ["10.7.0.5", "10.7.0.5/33", "0.0.0.0/0", "224.0.0.1/4", "x/8", "fd00::1/129"] {
            assert_eq!(spec(id, "web", asked(Some(bad)), "br0").unwrap_err().kind, Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn bad_requests_are_refused_before_anything_is_made() {
        let id = WorkloadId([9; 16]);
        let bad = [
            RunRequest::default(),
            RunRequest { env: vec!["=x".to_owned()], ..asked(None) },
            RunRequest { env: vec!["x".to_owned()], ..asked(None) },
            RunRequest { cwd: Some("here".to_owned()), ..asked(None) },
            RunRequest { command: vec!["a\0b".to_owned()], ..asked(None) },
        ];
        for request in bad {
            assert_eq!(spec(id, "web", request.clone(), "br0").unwrap_err().kind, Kind::Usage, "{request:?}");
        }
        for name in ["", "-a", "a/b", "w-1234", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
