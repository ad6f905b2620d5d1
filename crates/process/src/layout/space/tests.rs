//! The changes, made to a model of the old mappings, give the new ones; what is said to stay is what stays.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;
/// Flags that are seen of a mapping in the model: those that a call gives it.
const SEEN: u32 = vma::SHARED | vma::GROWSDOWN | vma::NORESERVE | ADVISED;
const ADVISED: u32 = vma::SEQUENTIAL
    | vma::RANDOM
    | vma::HUGEPAGE
    | vma::NOHUGEPAGE
    | vma::DONTFORK
    | vma::WIPEONFORK
    | vma::DONTDUMP
    | vma::MERGEABLE;

/// One page of the model: what it is a page of, its protection and flags, and whether it still has what it had in the beginning.
#[derive(Clone, Debug, PartialEq)]
struct Page {
    backing: Backing,
    prot: u32,
    flags: u32,
    old_content: bool,
}

fn pages(space: &Space, advised: bool, old_content: bool) -> BTreeMap<u64, Page> {
    let mut all = BTreeMap::new();
    for vma in &space.vmas {
        map(&mut all, vma, if advised { SEEN } else { SEEN & !ADVISED }, old_content);
    }
    all
}

fn map(all: &mut BTreeMap<u64, Page>, vma: &Vma, seen: u32, old_content: bool) {
    for start in (vma.start..vma.end).step_by(PAGE as usize) {
        let Vma { backing, .. } = piece(vma, start, start + PAGE);
        let page = Page { backing, prot: filled_prot(vma), flags: vma.flags & seen, old_content };
        assert!(all.insert(start, page).is_none(), "{start:#x} is mapped already");
    }
}

fn advise_page(flags: u32, advice: i32) -> u32 {
    let huge = vma::HUGEPAGE | vma::NOHUGEPAGE;
    match advice {
        libc::MADV_NORMAL => flags & !(vma::SEQUENTIAL | vma::RANDOM),
        libc::MADV_SEQUENTIAL => flags & !vma::RANDOM | vma::SEQUENTIAL,
        libc::MADV_RANDOM => flags & !vma::SEQUENTIAL | vma::RANDOM,
        libc::MADV_HUGEPAGE => flags & !huge | vma::HUGEPAGE,
        libc::MADV_NOHUGEPAGE => flags & !huge | vma::NOHUGEPAGE,
        libc::MADV_DONTFORK => flags | vma::DONTFORK,
        libc::MADV_DOFORK => flags & !vma::DONTFORK,
        libc::MADV_WIPEONFORK => flags | vma::WIPEONFORK,
        libc::MADV_KEEPONFORK => flags & !vma::WIPEONFORK,
        libc::MADV_DONTDUMP => flags | vma::DONTDUMP,
        libc::MADV_DODUMP => flags & !vma::DONTDUMP,
        libc::MADV_MERGEABLE => flags | vma::MERGEABLE,
        libc::MADV_UNMERGEABLE => flags & !vma::MERGEABLE,
        other => panic!("advice {other}"),
    }
}

fn apply(all: &mut BTreeMap<u64, Page>, change: &Change) {
    match change {
        Change::Empty => all.clear(),
        Change::Unmap { start, end } => all.retain(|at, _| !(*start..*end).contains(at)),
        Change::Map(vma) => map(all, vma, SEEN & !ADVISED, false),
        Change::Protect { start, end, prot } => {
            all.range_mut(*start..*end).for_each(|(_, page)| page.prot = *prot);
        }
        Change::Advise { start, end, advice } => {
            for at in (*start..*end).step_by(PAGE as usize) {
                let page = all.get_mut(&at).expect("advice on what is not mapped");
                page.flags = advise_page(page.flags, *advice);
            }
        }
    }
}

fn backing() -> impl Strategy<Value = Backing> {
    let page = (0u64..2).prop_map(|page| page * PAGE);
    prop_oneof![
        4 => Just(Backing::Anonymous),
        3 => (0u8..2, page.clone(), 1u64..3).prop_map(|(path, offset, inode)| {
            Backing::File { path: vec![b'/', b'a' + path], offset: offset + 8 * PAGE, inode }
        }),
        1 => (7u32..9, page).prop_map(|(id, offset)| Backing::Object { id, offset: offset + 8 * PAGE }),
    ]
}

fn flags() -> impl Strategy<Value = u32> {
    let reading = prop_oneof![Just(0), Just(vma::SEQUENTIAL), Just(vma::RANDOM)];
    let huge = prop_oneof![3 => Just(0), 1 => Just(vma::HUGEPAGE), 1 => Just(vma::NOHUGEPAGE)];
    let others = prop_oneof![
        4 => Just(0),
        1 => Just(vma::DONTFORK | vma::DONTDUMP),
        1 => Just(vma::WIPEONFORK),
        1 => Just(vma::MERGEABLE),
        1 => Just(vma::NORESERVE),
        1 => Just(vma::GROWSDOWN),
    ];
    (reading, huge, others, any::<bool>())
        .prop_map(|(a, b, c, counted)| a | b | c | if counted { vma::ACCOUNTED } else { 0 })
}

fn space() -> impl Strategy<Value = Space> {
    let one = (0u64..3, 1u64..6, 0u32..8, flags(), backing(), any::<bool>());
    proptest::collection::vec(one, 0..12).prop_map(|list| {
        let mut at = 16 * PAGE;
        let mut space = Space { id: 1, ..Space::default() };
        for (gap, len, prot, flags, backing, shared) in list {
            let start = at + gap * PAGE;
            at = start + len * PAGE;
            let shared = matches!(backing, Backing::Object { .. })
                || (shared && matches!(backing, Backing::File { .. }));
            let flags = if shared { flags & !vma::WIPEONFORK | vma::SHARED } else { flags };
            space.vmas.push(Vma { start, end: at, prot, flags, backing, pkey: 0 });
        }
        space
    })
}

/// A later layout that has much in common with an earlier one.
fn pair() -> impl Strategy<Value = (Space, Space)> {
    let touched = proptest::collection::vec((0u8..6, 0u32..8, flags(), any::<u16>()), 12);
    (space(), touched).prop_map(|(old, touched)| {
        let mut new = Space { vmas: Vec::new(), ..old.clone() };
        for (vma, (what, prot, flags, where_)) in old.vmas.iter().zip(touched) {
            let inner = vma.start + (u64::from(where_) * PAGE) % (vma.end - vma.start);
            let cut = |start, end| piece(vma, start, end);
            match what {
                0 => {}
                1 => new.vmas.push(Vma { prot, ..vma.clone() }),
                2 => new.vmas.push(Vma { flags: flags | vma.flags & vma::SHARED, ..vma.clone() }),
                3 if inner > vma.start => {
                    new.vmas.extend([cut(vma.start, inner), Vma { prot, ..cut(inner, vma.end) }]);
                }
                4 => new.vmas.push(cut(inner, vma.end)),
                _ => new.vmas.push(vma.clone()),
            }
        }
        (old, new)
    })
}

fn check(old: &Space, new: &Space) {
    let mut all = pages(old, true, true);
    for change in changes(old, new) {
        apply(&mut all, &change);
    }
    let stayed: Vec<Range> = all
        .iter()
        .filter(|(_, page)| page.old_content && page.flags & vma::SHARED == 0)
        .map(|(at, _)| Range { start: *at, len: PAGE })
        .collect();
    all.values_mut().for_each(|page| page.old_content = false);
    assert_eq!(all, pages(new, true, false));
    assert_eq!(RangeSet::new(stayed), kept_of_space(old, new));
}

proptest! {
    #[test]
    fn changes_lead_from_any_layout_to_any_other(old in space(), new in space()) {
        check(&old, &new);
    }

    #[test]
    fn changes_lead_from_a_layout_to_a_later_one((old, new) in pair()) {
        check(&old, &new);
        check(&new, &old);
        prop_assert_eq!(changes(&old, &old), vec![]);
    }

    #[test]
    fn another_program_keeps_nothing((old, new) in pair(), which in 0u8..3) {
        let mut new = new;
        match which {
            0 => new.id += 1,
            1 => new.exe = b"/other".to_vec(),
            _ => new.vmas.push(Vma {
                start: 1 << 40,
                end: (1 << 40) + PAGE,
                backing: Backing::Kernel { name: "[vdso]".into() },
                ..Vma::default()
            }),
        }
        prop_assert!(kept_of_space(&old, &new).is_empty());
        let all = changes(&old, &new);
        prop_assert_eq!(all.first(), Some(&Change::Empty));
    }
}

#[test]
fn what_was_grown_is_one_call_and_keeps_the_rest() {
    let heap =
        |end| Vma { start: PAGE, end, prot: 3, flags: vma::ACCOUNTED, backing: Backing::Anonymous, pkey: 0 };
    let with = |vmas| Space { vmas, ..Space::default() };
    let (old, new) = (with(vec![heap(3 * PAGE)]), with(vec![heap(9 * PAGE)]));
    assert_eq!(changes(&old, &new), [Change::Map(Vma { start: 3 * PAGE, ..heap(9 * PAGE) })]);
    assert_eq!(kept_of_space(&old, &new).bytes(), 2 * PAGE);
}

#[test]
fn one_mapping_over_many_old_ones_is_mapped_by_as_few_calls_as_there_are_holes() {
    let file = |start: u64| Vma {
        start: start * PAGE,
        end: (start + 1) * PAGE,
        backing: Backing::File { path: b"/f".to_vec(), offset: 0, inode: 1 },
        ..Vma::default()
    };
    let old = Space { vmas: vec![file(1), file(2), file(4)], ..Space::default() };
    let whole = Vma { start: PAGE, end: 6 * PAGE, prot: 3, ..Vma::default() };
    let new = Space { vmas: vec![whole.clone()], ..Space::default() };
    let unmap = |start: u64, end: u64| Change::Unmap { start: start * PAGE, end: end * PAGE };
    assert_eq!(changes(&old, &new), [unmap(1, 3), unmap(4, 5), Change::Map(whole)]);
}
