//! Hostile bytes: no panic, no endless walk, no unbounded memory.

use icecore::engine::sqlite::structure::{Level, Limit, PROBLEMS_MAX, Root, StructureInspector, TreeKind};

use super::support::{PLENTY, Rng, Spec, churn, create, page_size, schema};

/// A header that is right in what is checked before anything else.
fn header(page_size: u16, pages: u32) -> Vec<u8> {
    let mut bytes = vec![0; 100];
    bytes[..16].copy_from_slice(b"SQLite format 3\0");
    bytes[16..18].copy_from_slice(&page_size.to_be_bytes());
    bytes[18..24].copy_from_slice(&[1, 1, 0, 64, 32, 32]);
    bytes[28..32].copy_from_slice(&pages.to_be_bytes());
    bytes
}

fn set(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn mutated_databases_never_panic_or_hang() {
    let mut rng = Rng::new(20);
    let dir = tempfile::tempdir().unwrap();
    let mut reported = 0;
    let cases = std::env::var("ROUNDS").map_or(1_500, |text| text.parse::<usize>().unwrap() * 50);
    for (page_size_now, auto_vacuum) in [(512, 0), (512, 1), (1_024, 2), (65_536, 0)] {
        let path = dir.path().join(format!("{page_size_now}-{auto_vacuum}"));
        let spec = Spec { page_size: page_size_now, reserved: 0, auto_vacuum, rootless: true };
        let mut conn = create(&path, spec);
        schema(&conn, spec);
        churn(&mut conn, &mut rng, spec, 250);
        drop(conn);
        let bytes = std::fs::read(&path).unwrap();
        let good_roots = super::support::roots(&path).unwrap();
        for _ in 0..if page_size_now > 10_000 { cases / 10 } else { cases } {
            let mut damaged = bytes.clone();
            let count = damaged.len() / page_size_now;
            for _ in 0..1 + rng.below(20) {
                // Mostly page starts, with small numbers: those make cycles.
                let at = (rng.below(count) * page_size_now + rng.below(40)).min(damaged.len() - 4);
                match rng.below(4) {
                    0 => set(&mut damaged, at, rng.below(count + 2) as u32),
                    1 => set(&mut damaged, at, rng.next() as u32),
                    2 => damaged[at] = [0, 2, 5, 10, 13, 255][rng.below(6)],
                    _ => set(&mut damaged, 16 + rng.below(80), rng.next() as u32 >> rng.below(32)),
                }
            }
            let mut roots = good_roots.clone();
            if rng.below(3) == 0 {
                roots.push(Root { page: rng.below(count + 3) as u32, kind: TreeKind::Any });
            }
            let limit = [PLENTY, PLENTY, 3_000, 30_000][rng.below(4)];
            let claimed = if rng.below(5) == 0 { rng.next() >> rng.below(64) } else { (damaged.len() / page_size(&damaged)) as u64 };
            let inspector = StructureInspector::new(&damaged, claimed, limit);
            inspector.pages(1, &damaged);
            let report = inspector.finish(Some(&roots));
            assert!(report.problems.len() <= PROBLEMS_MAX);
            reported += usize::from(!report.problems.is_empty());
        }
    }
    assert!(reported > cases, "{reported}");
}

#[test]
fn pure_noise_never_panics() {
    let mut rng = Rng::new(21);
    for _ in 0..300 {
        let pages = 1 + rng.below(40);
        let mut start = header(512, 0);
        for at in [20, 32, 36, 52, 64] {
            if rng.below(2) == 0 {
                set(&mut start, at, rng.below(pages + 1) as u32);
            }
        }
        start[21..24].copy_from_slice(&[64, 32, 32]);
        let inspector = StructureInspector::new(&start, pages as u64, PLENTY);
        for number in 1..=pages {
            let mut page = rng.bytes(512);
            page[if number == 1 { 100 } else { 0 }] = [0, 2, 5, 10, 13][rng.below(5)];
            inspector.page(number as u64, &page);
        }
        let roots: Vec<Root> = (0..10).map(|_| Root { page: rng.below(pages + 1) as u32, kind: TreeKind::Any }).collect();
        inspector.finish(Some(&roots));
    }
}

#[test]
fn cycles_end_and_are_reported() {
    let size = 512;
    let leaf = |at: usize| {
        let mut page = vec![0; size];
        page[at] = 0x0d;
        page[at + 5..at + 7].copy_from_slice(&(size as u16).to_be_bytes());
        page
    };
    let parent_of = |child: u32| {
        let mut page = leaf(0);
        page[0] = 0x05;
        set(&mut page, 8, child);
        page
    };
    let look = |free: (u32, u32), pages: &[Vec<u8>]| {
        let mut start = header(512, pages.len() as u32 + 1);
        set(&mut start, 32, free.0);
        set(&mut start, 36, free.1);
        let inspector = StructureInspector::new(&start, pages.len() as u64 + 1, PLENTY);
        inspector.page(1, &leaf(100));
        for (page, number) in pages.iter().zip(2..) {
            inspector.page(number, page);
        }
        let report = inspector.finish(Some(&[Root { page: 2, kind: TreeKind::Table }]));
        assert_eq!(report.level, Level::Full);
        report.problems.into_iter().map(|problem| problem.page).collect::<Vec<_>>()
    };
    assert_eq!(look((0, 0), &[leaf(0)]), [0u32; 0]);
    // A tree that contains itself, directly and over a page.
    assert_eq!(look((0, 0), &[parent_of(2)]), [2]);
    assert_eq!(look((0, 0), &[parent_of(3), parent_of(2)]), [2]);
    // A tree one page too deep, and one just deep enough.
    let tower = |height: u32| (3..height + 2).map(parent_of).chain([leaf(0)]).collect::<Vec<_>>();
    assert_eq!(look((0, 0), &tower(20)), [0u32; 0]);
    assert_eq!(look((0, 0), &tower(21)), [22]);
    // A freelist that bites its tail, and one that a tree shares.
    let mut trunk = vec![0; size];
    set(&mut trunk, 0, 3);
    assert_eq!(look((3, 5), &[leaf(0), trunk.clone()]), [3]);
    set(&mut trunk, 0, 2);
    assert_eq!(look((3, 2), &[leaf(0), trunk]), [2, 2]);
}

#[test]
fn absurd_sizes_cost_nothing() {
    for pages in [0, 1, u64::from(u32::MAX), u64::MAX] {
        let inspector = StructureInspector::new(&header(512, 0), pages, PLENTY);
        assert!(inspector.memory_bytes() <= PLENTY);
        inspector.page(1, &[0; 512]);
        inspector.page(u64::MAX, &[0; 512]);
        inspector.page(0, &[0; 512]);
        inspector.page(7, &[0; 511]);
        inspector.finish(None);
    }
    let inspector = StructureInspector::new(&header(512, 0), 0x0200_0000, usize::MAX);
    assert_eq!(inspector.finish(Some(&[])).level, Level::PagesOnly(Limit::Pages));
    for bad in [&b"SQLite format 3\0"[..], &[0; 100], &header(513, 0), &header(512, 9)] {
        let report = StructureInspector::new(bad, 5, PLENTY).finish(Some(&[]));
        assert_eq!((report.level, report.problems.len()), (Level::PagesOnly(Limit::Header), 1));
    }
}
