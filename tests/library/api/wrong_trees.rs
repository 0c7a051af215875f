//! Trees that contradict themselves, though each of their chunks is whole. A writer with an error could make them, or somebody who may write to the storage of an
//! unencrypted repository.

use icecore::ops::check::{CheckOptions, check};
use icecore::ops::mark::Author;
use icecore::ops::repair::{RepairOptions, execute, plan};
use icecore::ops::restore::dump;
use icecore::progress::Silent;
use icecore::store::format::snapshot::StreamRoot;

use super::salvage::{Scene, chunk, encoded, entry};

type Change = fn(StreamRoot) -> StreamRoot;

/// A check says of a stream that it is damaged exactly if it cannot be read.
#[test]
fn a_check_finds_what_a_restore_refuses() {
    let changes: [(&str, Change); 6] = [
        ("nothing", |root| root),
        ("longer", |root| StreamRoot { len: root.len + 1, ..root }),
        ("shorter", |root| StreamRoot { len: root.len - 1, ..root }),
        ("empty, with a length", |root| StreamRoot { top: None, levels: 0, ..root }),
        ("a chunk as a node", |root| StreamRoot { levels: 1, ..root }),
        ("a chunk as a node beyond all levels", |root| StreamRoot { levels: 200, ..root }),
    ];
    for (what, change) in changes {
        let mut scene = Scene::new();
        let (_, id, _) = scene.store(&[&[chunk(1, 5000)]], &|roots| vec![encoded(&[entry("a", change(roots[0])), entry("b", roots[0])])]);
        let repo = scene.bed.open();
        let snapshots = repo.refresh().unwrap().snapshots;
        let (_, record) = snapshots.iter().find(|(other, _)| *other == id).unwrap();
        let is_whole = dump(&repo, record, b"a", &mut std::io::sink(), &Silent).is_ok();
        assert_eq!(is_whole, what == "nothing", "{what}");
        for options in [CheckOptions::default(), CheckOptions::read_all()] {
            let report = check(&repo, &options, &Silent).unwrap();
            let touched: Vec<_> = report.touched.iter().map(|touched| touched.stream.as_deref()).collect();
            let expected: &[Option<&[u8]>] = if is_whole { &[] } else { &[Some(b"a")] };
            assert_eq!(touched, expected, "{what}: {:?}", report.findings);
        }
    }
}

/// A whole chunk in the place of a node stays wanted, however often it is stored anew.
#[test]
fn a_repair_of_what_cannot_be_mended_ends() {
    let mut scene = Scene::new();
    let cut = |root: StreamRoot| StreamRoot { levels: 1, ..root };
    let (_, id, _) = scene.store(&[&[chunk(1, 5000)]], &|roots| vec![encoded(&[entry("a", cut(roots[0])), entry("b", roots[0])])]);
    let repo = scene.bed.open();
    let options =
        RepairOptions { author: Author { now_ns: 1 << 60, host: "test".into(), user: "tester".into() }, ..RepairOptions::default() };
    let report = execute(&repo, plan(&repo, &options, &Silent).unwrap(), &options, &Silent).unwrap();
    assert!(report.written <= 1, "{report:?}");
    assert_eq!(report.lost.iter().map(|lost| (lost.snapshot, lost.stream.as_deref())).collect::<Vec<_>>(), [(id, Some(&b"a"[..]))]);
}
