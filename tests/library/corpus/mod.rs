//! The bench corpora are named by their seed: the same seed must give the same database.

use crate::common;

use std::path::Path;

use common::args::parse_bytes;
use common::pages::Pages;
use common::report::median;
use common::store::{PAGE_BYTES, Shape, Store, StoreSpec};

const TINY: u64 = 4_000_000;

fn spec(seed: u64) -> StoreSpec {
    StoreSpec { bytes: TINY, seed, vacuum_steps: vec![4], shape: Shape::Memory }
}

/// A history of ten steps, long enough for every kind of change; the pages after each.
fn history(path: &Path, spec: &StoreSpec, reopen: bool) -> Vec<Pages> {
    let mut store = Store::create(path, spec.clone()).unwrap();
    let mut states = vec![Pages::of(path).unwrap()];
    for n in 1..=10 {
        if reopen {
            drop(store);
            store = Store::open(path, spec.clone()).unwrap();
        }
        store.step(n).unwrap();
        states.push(Pages::of(path).unwrap());
    }
    let answer: String = store.connection().pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
    assert_eq!(answer, "ok");
    states
}

#[test]
fn a_seed_names_every_byte_of_a_history() {
    let dir = tempfile::tempdir().unwrap();
    let first = history(&dir.path().join("first.db"), &spec(7), false);
    let again = history(&dir.path().join("again.db"), &spec(7), true);
    let other = history(&dir.path().join("other.db"), &spec(8), false);
    assert_eq!(first, again);
    // Free pages and the schema may be equal; the content is not.
    assert!(other[0].changed_since(&first[0]) > first[0].count() / 2);
}

#[test]
fn steps_change_few_pages_and_a_vacuum_most() {
    let dir = tempfile::tempdir().unwrap();
    let states = history(&dir.path().join("store.db"), &spec(7), false);
    let bytes = states[0].count() * PAGE_BYTES;
    assert!((TINY as usize..TINY as usize * 2).contains(&bytes), "{bytes} bytes");
    for n in 1..states.len() {
        let changed = states[n].changed_since(&states[n - 1]);
        // Tiny stores change a larger share of their pages: roots and the first pages of indexes change in every step.
        let pages = states[n].count();
        let expected = if n == 4 { pages / 2..=pages } else { 2..=pages / 5 };
        assert!(expected.contains(&changed), "step {n} changed {changed} of {pages} pages");
    }
}

#[test]
fn the_full_text_index_follows_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::create(&dir.path().join("store.db"), spec(7)).unwrap();
    (1..=20).for_each(|n| store.step(n).unwrap());
    let deleted: i64 = store.connection().query_row("SELECT max(id) - count(*) FROM memories", [], |row| row.get(0)).unwrap();
    assert!(deleted > 0);
    // Fails when the index and the table that it is about differ (https://sqlite.org/fts5.html#the_integrity_check_command).
    store.connection().execute("INSERT INTO memories_text (memories_text, rank) VALUES ('integrity-check', 1)", []).unwrap();
}

#[test]
fn bulk_stores_are_deterministic_too() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        let mut store = Store::create(&path, StoreSpec::bulk(TINY)).unwrap();
        store.step(1).unwrap();
        Pages::of(&path).unwrap()
    };
    assert_eq!(make("first.db"), make("again.db"));
}

#[test]
fn medians_and_sizes() {
    assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    assert_eq!(parse_bytes("100MB"), Some(100_000_000));
    assert_eq!(parse_bytes("4GiB"), Some(4 << 30));
    assert_eq!(parse_bytes("12"), Some(12));
    assert_eq!(parse_bytes("12 parsecs"), None);
}
