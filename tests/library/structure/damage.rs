//! Damaged databases: what is reported, SQLite reports too; and little is missed.

use std::path::{Path, PathBuf};

use super::support::{PLENTY, Rng, Spec, bits_only, churn, complains, create, inspect, schema};

const KINDS: [&str; 11] = [
    "zeroed page",
    "garbage page",
    "half garbage",
    "two pages swapped",
    "page copied",
    "page from the past",
    "page header byte",
    "pointer byte",
    "list head byte",
    "any byte",
    "truncated",
];

/// Kinds that hit a whole page, which must be found as surely as by `quick_check`.
const WHOLE_PAGE: usize = 5;

/// A database and an earlier state of it.
struct Base {
    size: usize,
    old: Vec<u8>,
    now: Vec<u8>,
}

fn base(dir: &Path, spec: Spec, rng: &mut Rng) -> Base {
    let path = dir.join(format!("base-{}-{}", spec.page_size, spec.auto_vacuum));
    let mut conn = create(&path, spec);
    schema(&conn, spec);
    churn(&mut conn, rng, spec, 500);
    conn.execute_batch("DELETE FROM loose WHERE rowid % 3 = 0; DELETE FROM dropped").unwrap();
    let old = std::fs::read(&path).unwrap();
    churn(&mut conn, rng, spec, 40);
    drop(conn);
    super::support::assert_valid(&path, &format!("{spec:?}"));
    Base { size: spec.page_size, old, now: std::fs::read(&path).unwrap() }
}

/// Does one damage; `None` if nothing changed.
fn damage(base: &Base, kind: usize, rng: &mut Rng) -> Option<Vec<u8>> {
    let mut bytes = base.now.clone();
    let size = base.size;
    let count = bytes.len() / size;
    let page = 1 + rng.below(count - 1);
    let other = 1 + rng.below(count - 1);
    let at = page * size;
    let byte = rng.next() as u8;
    match KINDS[kind] {
        "zeroed page" => bytes[at..at + size].fill(0),
        "garbage page" => bytes[at..at + size].copy_from_slice(&rng.bytes(size)),
        "half garbage" => bytes[at..at + size / 2].copy_from_slice(&rng.bytes(size / 2)),
        "two pages swapped" => {
            let held = bytes[at..at + size].to_vec();
            bytes.copy_within(other * size..(other + 1) * size, at);
            bytes[other * size..(other + 1) * size].copy_from_slice(&held);
        }
        "page copied" => bytes.copy_within(other * size..(other + 1) * size, at),
        "page from the past" => bytes[at..at + size].copy_from_slice(base.old.get(at..at + size)?),
        "page header byte" => {
            let start = if rng.below(20) == 0 { rng.below(112) } else { at + rng.below(12) };
            bytes[start] = byte;
        }
        "pointer byte" => bytes[at + 8 + rng.below(40)] ^= 1 << rng.below(8),
        "list head byte" => bytes[at + rng.below(16)] ^= 1 << rng.below(8),
        "any byte" => {
            let start = rng.below(bytes.len());
            bytes[start] = byte;
        }
        _ => bytes.truncate(rng.below(bytes.len())),
    }
    (bytes != base.now).then_some(bytes)
}

#[test]
fn reports_are_true_and_whole_pages_are_found() {
    let mut rng = Rng::new(10);
    let dir = tempfile::tempdir().unwrap();
    let bases: Vec<Base> = [(512, 0, 0), (512, 32, 1), (1_024, 0, 2), (1_024, 100, 0), (4_096, 0, 0), (4_096, 0, 1), (65_536, 0, 0)]
        .into_iter()
        .map(|(page_size, reserved, auto_vacuum)| base(dir.path(), Spec { page_size, reserved, auto_vacuum, rootless: false }, &mut rng))
        .collect();
    let rounds = std::env::var("ROUNDS").map_or(30, |text| text.parse().unwrap());
    let path: PathBuf = dir.path().join("damaged.db");
    println!(
        "{:<20} {:>6} {:>6} {:>10} {:>6} {:>12} {:>10}",
        "damage", "cases", "quick", "integrity", "ours", "quick-not-us", "pages-only"
    );
    let (mut whole, mut whole_missed) = (0, 0);
    for (kind, name) in KINDS.iter().enumerate() {
        let (mut cases, mut quick, mut integrity, mut ours, mut missed, mut local) = (0, 0, 0, 0, 0, 0);
        for round in 0..rounds * bases.len() {
            let Some(bytes) = damage(&bases[round % bases.len()], kind, &mut rng) else { continue };
            std::fs::write(&path, &bytes).unwrap();
            let report = inspect(&path, PLENTY);
            let few = inspect(&path, bits_only(&path));
            let (by_quick, by_integrity) = (complains(&path, "quick_check"), complains(&path, "integrity_check"));
            for report in [&report, &few] {
                let alarm = !report.problems.is_empty() && !by_quick && !by_integrity;
                assert!(!alarm, "{name}, round {round}: only we complain: {:?}", report.problems);
            }
            cases += 1;
            quick += usize::from(by_quick);
            integrity += usize::from(by_integrity);
            ours += usize::from(!report.problems.is_empty());
            local += usize::from(!few.problems.is_empty());
            missed += usize::from(report.problems.is_empty() && by_quick);
        }
        println!("{name:<20} {cases:>6} {quick:>6} {integrity:>10} {ours:>6} {missed:>12} {local:>10}");
        if kind < WHOLE_PAGE {
            (whole, whole_missed) = (whole + quick, whole_missed + missed);
            assert!(missed * 20 <= quick, "{name}: {missed} of {quick} missed");
        }
    }
    println!("whole pages: {whole_missed} of {whole} missed");
    assert!(whole > 0 && whole_missed * 50 <= whole, "whole pages: {whole_missed} of {whole} missed");
}
