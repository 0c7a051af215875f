//! Several threads and several processes with one catalog.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use icecore::id::SnapshotId;
use icecore::store::repo::catalog::{Catalog, ChunkAt, prefix};

use super::{Made, Random, assert_one_generation, open};

const CHILD_DIR: &str = "ICECORE_TEST_CATALOG_DIR";
const CHILD_FROM: &str = "ICECORE_TEST_CATALOG_FROM";
const CHILD_PACKS: u64 = 60;

fn made(num: u64) -> Made {
    Made::from(num, 100 + (num % 7) as usize * 50)
}

/// Everything of this pack is there, and right.
fn assert_whole(catalog: &Catalog, made: &Made) {
    let num = catalog.pack_num(&made.pack.id).unwrap().expect("a pack that was added is not there");
    assert_eq!(catalog.trailer(num).unwrap().unwrap(), made.trailer);
    let answers = catalog.find_many(&made.ids.iter().map(prefix).collect::<Vec<_>>()).unwrap();
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, [ChunkAt { pack: num, index: index as u32 }]);
    }
}

#[test]
fn threads_with_their_own_instances_and_a_common_one() {
    let dir = tempfile::tempdir().unwrap();
    let common = open(dir.path());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0;
                    while !done.load(Ordering::Relaxed) {
                        let packs = common.packs().unwrap();
                        assert!(packs.len() >= seen, "packs went away");
                        seen = packs.len();
                        if let Some(last) = packs.last() {
                            assert_whole(&common, &made(last.pack.trailer_offset));
                        }
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..4_u64)
            .map(|thread| {
                let (dir, common) = (dir.path(), &common);
                scope.spawn(move || {
                    let own = open(dir);
                    for num in thread * 40..(thread + 1) * 40 {
                        let catalog = if num % 2 == 0 { &own } else { common };
                        catalog.add_packs(&[made(num).listed()]).unwrap();
                        assert_whole(common, &made(num));
                        assert_whole(&own, &made(num / 40 * 40));
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    let catalog = open(dir.path());
    assert!(!catalog.was_rebuilt());
    assert_eq!(catalog.packs().unwrap().len(), 160);
    (0..160).for_each(|num| assert_whole(&catalog, &made(num)));
}

/// What a child process does; without the variables it is no child, and there is nothing to do.
#[test]
fn child() {
    let (Ok(dir), Ok(from)) = (std::env::var(CHILD_DIR), std::env::var(CHILD_FROM)) else { return };
    let from: u64 = from.parse().unwrap();
    let catalog = open(Path::new(&dir));
    for num in from..from + CHILD_PACKS {
        catalog.add_packs(&[made(num).listed()]).unwrap();
        assert_whole(&catalog, &made(num));
        catalog.put_snapshots(&[(SnapshotId(made(num).pack.id.0), made(num).trailer)]).unwrap();
        // Straight to the parent: the test harness holds back what is printed.
        let mut stderr = std::io::stderr().lock();
        writeln!(stderr, "added {num}").unwrap();
    }
}

fn spawn(dir: &Path, from: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["catalog::sharing::child", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_FROM, from.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The numbers that a child says it has added, as they come.
fn added(child: &mut Child) -> impl Iterator<Item = u64> + use<> {
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    lines.filter_map(|line| line.strip_prefix("added ")?.parse().ok())
}

#[test]
fn processes_make_and_fill_one_catalog_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> = (0..4).map(|child| spawn(dir.path(), child * CHILD_PACKS)).collect();
    for child in &mut children {
        assert_eq!(added(child).count() as u64, CHILD_PACKS);
        assert!(child.wait().unwrap().success());
    }
    let catalog = open(dir.path());
    assert!(!catalog.was_rebuilt());
    assert_eq!(catalog.packs().unwrap().len() as u64, 4 * CHILD_PACKS);
    assert_eq!(catalog.snapshots().unwrap().len() as u64, 4 * CHILD_PACKS);
    (0..4 * CHILD_PACKS).for_each(|num| assert_whole(&catalog, &made(num)));
    drop(catalog);
    assert_one_generation(dir.path(), "after four processes");
}

#[test]
fn a_killed_process_leaves_what_it_added() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::seeded(21);
    let mut sure: Vec<u64> = Vec::new();
    for round in 0..8 {
        let mut child = spawn(dir.path(), round * CHILD_PACKS);
        let enough = random.below(CHILD_PACKS - 5) as usize;
        let mut lines = added(&mut child);
        sure.extend(lines.by_ref().take(enough));
        // Somewhere inside of an addition, a merge or a snapshot: the child does not wait for its lines to be read.
        std::thread::sleep(std::time::Duration::from_micros(random.below(3000)));
        child.kill().unwrap();
        sure.extend(lines);
        child.wait().unwrap();
        let catalog = open(dir.path());
        assert!(!catalog.was_rebuilt(), "round {round}");
        sure.iter().for_each(|num| assert_whole(&catalog, &made(*num)));
        catalog.packs().unwrap().iter().for_each(|known| assert_whole(&catalog, &made(known.pack.trailer_offset)));
    }
    assert!(sure.len() > 40);
}

/// Many find the same damage at once: they end up with one new file.
#[test]
fn opening_a_damaged_file_from_many_threads() {
    for round in 0..10_u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = open(dir.path()).path().to_path_buf();
        std::fs::write(&path, vec![round as u8; 8192]).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let dir = dir.path();
                scope.spawn(move || open(dir).add_packs(&[made(thread).listed()]).unwrap());
            }
        });
        let catalog = open(dir.path());
        assert_ne!(catalog.path(), path);
        (0..8).for_each(|num| assert_whole(&catalog, &made(num)));
        drop(catalog);
        assert_one_generation(dir.path(), "after eight threads");
    }
}

/// A writer that stands still in the middle of a write does not hold up look-ups.
#[test]
fn readers_do_not_wait_for_writers() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    catalog.add_packs(&[made(1).listed()]).unwrap();
    let other = rusqlite::Connection::open(catalog.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; DELETE FROM pack;").unwrap();
    assert_whole(&catalog, &made(1));
    assert_whole(&open(dir.path()), &made(1));
    other.execute_batch("ROLLBACK").unwrap();
    catalog.add_packs(&[made(2).listed()]).unwrap();
    assert_whole(&catalog, &made(2));
}
