//! What plans must say: the nine cells of the table, the copies that travel, and every reason to refuse.

use super::*;
use crate::facts::{Found, Holding, HostFacts};
use crate::ids::{Hash, WorkloadId};
use crate::plan::Holder;
use crate::resource::{Action, Attachment};

fn host(name: &str) -> HostFacts {
    HostFacts {
        host: HostName::new(name).unwrap(),
        architecture: "x86_64".into(),
        kernel_release: "6.18".into(),
        cpu_flags: vec!["avx".into(), "sse2".into()],
        xsave_bytes: 832,
        vdso: Some(Hash::of(b"vdso")),
        page_bytes: 4096,
        kernel_features: fit::NEEDED_AT_TARGET.iter().map(ToString::to_string).collect(),
        memory_available_bytes: 1 << 30,
        disk_available_bytes: 1 << 30,
        bridge: None,
    }
}

fn resource(sort: &str, name: &str, binding: Binding, attachment: Attachment) -> Resource {
    Resource {
        sort: sort.into(),
        name: name.into(),
        holder: Some(Holder { pid: 7, fd: Some(3) }),
        binding,
        attachment,
        bytes: 1000,
        hash: None,
        unsupported: None,
        shared: None,
    }
}

fn inventory(resources: Vec<Resource>) -> Inventory {
    Inventory { workload: WorkloadId([1; 16]), facts: host("here"), resources, memory_bytes: 1 << 20 }
}

fn answer(holdings: Vec<Holding>) -> Answer {
    Answer { facts: host("there"), holdings, refusals: vec![] }
}

fn options() -> Options {
    Options {
        target: HostName::new("there").unwrap(),
        method: Method::StopAndCopy,
        clone: false,
        bindings: vec![],
        end_connections: false,
        may_switch: false,
    }
}

fn holding(sort: &str, name: &str, found: Found) -> Holding {
    Holding { sort: sort.into(), name: name.into(), found, shared: None }
}

#[test]
fn rounds_need_a_kernel_that_tells_what_is_written() {
    let live = Options { method: Method::PreCopy, ..options() };
    let mut here = inventory(vec![]);
    let plan = make(&here, &answer(vec![]), &live);
    assert!(plan.blockers.len() == 1 && plan.blockers[0].what.contains(TRACKS_WRITES), "{:?}", plan.blockers);
    // Auto takes another method.
    assert!(make(&here, &answer(vec![]), &Options { method: Method::Auto, ..options() }).blockers.is_empty());
    here.facts.kernel_features.push(TRACKS_WRITES.into());
    assert!(make(&here, &answer(vec![]), &live).blockers.is_empty());
}

#[test]
fn a_library_that_is_there_is_bound_again_and_costs_nothing() {
    let mut library = resource("library", "/lib/libc.so.6", Binding::Value, Attachment::Unattached);
    library.hash = Some(Hash::of(b"libc"));
    let plan = make(
        &inventory(vec![library.clone()]),
        &answer(vec![holding("library", "/lib/libc.so.6", Found::Same)]),
        &options(),
    );
    assert_eq!((plan.items[0].action, plan.items[0].bytes), (Action::Rebind, 0));
    for found in [Found::Different, Found::Absent] {
        let plan = make(
            &inventory(vec![library.clone()]),
            &answer(vec![holding("library", "/lib/libc.so.6", found)]),
            &options(),
        );
        assert_eq!((plan.items[0].action, plan.items[0].bytes), (Action::Copy, 1000));
        assert!(plan.blockers.is_empty());
    }
}

#[test]
fn a_small_local_file_moves_and_a_shared_one_stays() {
    let mut file = resource("file", "/data/db", Binding::Identifier, Attachment::Unattached);
    let plan = make(&inventory(vec![file.clone()]), &answer(vec![]), &options());
    assert_eq!(plan.items[0].action, Action::Move);

    file.shared = Some("nfs4 server:/export".into());
    let there = Holding { shared: file.shared.clone(), ..holding("file", "/data/db", Found::Same) };
    let plan = make(&inventory(vec![file]), &answer(vec![there]), &options());
    assert_eq!((plan.items[0].action, plan.items[0].bytes), (Action::Rebind, 0));
}

#[test]
fn what_would_need_a_global_reference_is_refused_with_pid_descriptor_and_a_way_out() {
    let fixed = resource("file", "/sys/thing", Binding::Identifier, Attachment::Fixed);
    let plan = make(&inventory(vec![fixed]), &answer(vec![]), &options());
    assert!(plan.items.is_empty());
    let blocker = &plan.blockers[0];
    assert!(blocker.what.contains("pid 7, descriptor 3"), "{}", blocker.what);
    assert!(blocker.what.contains("global reference"), "{}", blocker.what);
    assert!(blocker.lifted_by.contains("--with /sys/thing"), "{}", blocker.lifted_by);
}

#[test]
fn a_directory_that_nobody_named_blocks_whatever_the_method_unless_both_hosts_share_it() {
    let mut directory = resource(UNDECLARED, "/srv/db", Binding::Identifier, Attachment::Unattached);
    directory.unsupported =
        Some(Blocker { what: "/srv/db is written to".into(), lifted_by: "name it".into() });
    for method in [Method::Cold, Method::Warm, Method::StopAndCopy] {
        let options = Options { method, ..options() };
        let plan = make(&inventory(vec![directory.clone()]), &answer(vec![]), &options);
        assert_eq!(plan.blockers, [directory.unsupported.clone().unwrap()], "{method:?}");
    }
    directory.shared = Some("nfs4 server:/export".into());
    let there =
        Holding { shared: directory.shared.clone(), ..holding(UNDECLARED, "/srv/db", Found::Different) };
    assert!(make(&inventory(vec![directory]), &answer(vec![there]), &options()).blockers.is_empty());
}

#[test]
fn what_cannot_be_tracked_is_named_where_memory_travels_in_rounds() {
    let mut memory =
        resource(UNTRACKED, "the private memory of seven", Binding::Identifier, Attachment::Unattached);
    memory.bytes = 3 << 20;
    for (method, count) in
        [(Method::PreCopy, 1), (Method::Auto, 1), (Method::StopAndCopy, 0), (Method::Cold, 0)]
    {
        let plan = make(&inventory(vec![memory.clone()]), &answer(vec![]), &Options { method, ..options() });
        let named =
            |said: &&String| said.contains("the private memory of seven") && said.contains("3072 KiB");
        assert_eq!(plan.exceptions.iter().filter(named).count(), count, "{method:?}: {:?}", plan.exceptions);
        assert!(plan.items.is_empty(), "{plan:?}");
    }
}

#[test]
fn what_an_inode_number_is_remembered_of_is_named_and_blocks_nothing() {
    let file = resource(REMEMBERED_INODE, "/srv/base", Binding::Identifier, Attachment::Unattached);
    let plan = make(&inventory(vec![file]), &answer(vec![]), &options());
    assert!(plan.items.is_empty() && plan.blockers.is_empty(), "{plan:?}");
    let named = |said: &String| said.contains("/srv/base (pid 7, descriptor 3) is an SQLite data base");
    assert!(plan.exceptions.iter().any(named), "{:?}", plan.exceptions);
}

#[test]
fn a_device_is_bound_again_by_type_and_a_taken_one_blocks() {
    let device = resource("device", "/dev/null", Binding::Type, Attachment::Fixed);
    let ask = |found| {
        make(
            &inventory(vec![device.clone()]),
            &answer(vec![holding("device", "/dev/null", found)]),
            &options(),
        )
    };
    assert_eq!(ask(Found::Same).items[0].action, Action::Rebind);
    assert!(ask(Found::Absent).items.is_empty());
    assert_eq!(ask(Found::Absent).blockers.len(), 1);
}

#[test]
fn a_connection_of_the_hosts_own_address_is_ended_only_if_the_user_says_so() {
    let name = "10.0.0.1:80 - 10.0.0.9:5000";
    let connection = resource("tcp-connection", name, Binding::Identifier, Attachment::Fixed);
    let plan = make(&inventory(vec![connection.clone()]), &answer(vec![]), &options());
    assert!(plan.blockers[0].lifted_by.contains("--end-connections"), "{:?}", plan.blockers);
    let ending = Options { end_connections: true, ..options() };
    let plan = make(&inventory(vec![connection]), &answer(vec![]), &ending);
    assert!(plan.blockers.is_empty() && plan.items[0].reason.contains("reset"), "{plan:?}");
    let listener = resource("listener", "10.0.0.1:80", Binding::Identifier, Attachment::Fixed);
    assert_eq!(make(&inventory(vec![listener]), &answer(vec![]), &ending).blockers.len(), 1);
}

#[test]
fn a_clone_does_not_take_the_address_along() {
    let address = resource("address", "10.0.0.2/24", Binding::Identifier, Attachment::Unattached);
    let plan = make(&inventory(vec![address]), &answer(vec![]), &Options { clone: true, ..options() });
    assert!(plan.blockers[0].what.contains("two places"), "{}", plan.blockers[0].what);
}

#[test]
fn a_host_that_does_not_fit_is_named_with_what_is_missing() {
    let mut other = answer(vec![]);
    other.facts.cpu_flags = vec!["sse2".into()];
    other.facts.xsave_bytes = 512;
    other.facts.vdso = Some(Hash::of(b"another"));
    other.facts.kernel_features.clear();
    other.facts.memory_available_bytes = 0;
    let plan = make(&inventory(vec![]), &other, &options());
    let all: Vec<&str> = plan.blockers.iter().map(|blocker| blocker.what.as_str()).collect();
    for word in ["avx", "832", "vDSO", "clone3-set-tid", "memory"] {
        assert!(all.iter().any(|what| what.contains(word)), "{word} in {all:?}");
    }
    let cold = make(&inventory(vec![]), &other, &Options { method: Method::Cold, ..options() });
    assert!(cold.blockers.is_empty(), "{:?}", cold.blockers);
}

#[test]
fn large_memory_moves_without_being_named_and_a_large_file_does_not() {
    let large = |sort: &str, name: &str| {
        let bytes = UNATTACHED_BYTES_MAX + 1;
        Resource { bytes, ..resource(sort, name, Binding::Identifier, Attachment::Unattached) }
    };
    let mut other = answer(vec![]);
    other.facts.disk_available_bytes = u64::MAX;
    for sort in [MEMORY, MEMORY_GROWTH] {
        let plan = make(&inventory(vec![large(sort, "private memory of seven")]), &other, &options());
        assert!(plan.blockers.is_empty(), "{:?}", plan.blockers);
    }
    let plan = make(&inventory(vec![large("file", "/data/db")]), &other, &options());
    assert!(plan.blockers.iter().any(|blocker| blocker.what.contains("without being named")));
}

#[test]
fn memory_needs_no_room_on_the_targets_disk_but_for_an_image() {
    let mut other = answer(vec![]);
    other.facts.disk_available_bytes = 1 << 20;
    let mut heap = resource(MEMORY, "[heap]", Binding::Identifier, Attachment::Unattached);
    heap.bytes = 2 << 20;
    let mut inventory = inventory(vec![heap]);
    inventory.memory_bytes = 2 << 20;
    let plan = make(&inventory, &other, &options());
    assert!(plan.blockers.is_empty(), "{:?}", plan.blockers);
    let warm = make(&inventory, &other, &Options { method: Method::Warm, ..options() });
    assert!(warm.blockers.iter().any(|blocker| blocker.what.contains("files")), "{:?}", warm.blockers);
    let mut file = resource("file", "/data/db", Binding::Identifier, Attachment::Unattached);
    file.bytes = 2 << 20;
    inventory.resources.push(file);
    assert_eq!(make(&inventory, &other, &options()).blockers.len(), 1);
}

#[test]
fn unsupported_objects_block_every_move_but_a_cold_one() {
    let mut ring = resource("io_uring", "anon_inode:[io_uring]", Binding::Type, Attachment::Unattached);
    ring.unsupported =
        Some(Blocker { what: "io_uring (pid 7, descriptor 3)".into(), lifted_by: "close it".into() });
    assert_eq!(make(&inventory(vec![ring.clone()]), &answer(vec![]), &options()).blockers.len(), 1);
    let cold = Options { method: Method::Cold, ..options() };
    assert!(make(&inventory(vec![ring]), &answer(vec![]), &cold).blockers.is_empty());
}

#[test]
fn the_facts_hash_ignores_what_changes_by_itself_and_notices_the_rest() {
    let base = inventory(vec![resource("file", "/data/db", Binding::Identifier, Attachment::Unattached)]);
    let hash = facts_hash(&base, &answer(vec![]), &options());
    let mut grown = base.clone();
    grown.resources[0].bytes += 1;
    grown.memory_bytes += 1;
    assert_eq!(facts_hash(&grown, &answer(vec![]), &options()), hash);
    let mut renamed = base.clone();
    renamed.resources[0].name = "/data/other".into();
    assert_ne!(facts_hash(&renamed, &answer(vec![]), &options()), hash);
    assert_ne!(facts_hash(&base, &answer(vec![holding("file", "/data/db", Found::Same)]), &options()), hash);
}

#[test]
fn policy_of_the_target_blocks() {
    let mut refusing = answer(vec![]);
    refusing.refusals = vec!["no workloads with devices".into()];
    assert!(
        make(&inventory(vec![]), &refusing, &options()).blockers[0]
            .what
            .contains("no workloads with devices")
    );
}
