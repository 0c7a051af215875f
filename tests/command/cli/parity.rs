//! `init --parity`: what is said of damage that heals.

use super::support::Place;

fn with_parity() -> Place {
    let place = Place::new();
    let said = place.ok(["init", "--no-encryption"]).stdout;
    assert!(said.contains("Packs carry 3 % of parity") && said.contains("lost files are not"), "{said}");
    place.database("a.db", 2000);
    place
}

#[test]
fn a_damaged_repository_restores_says_so_and_check_names_it() {
    let place = with_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    let whole = std::fs::read(place.path("a.db")).unwrap();
    for dir in ["packs", "snapshots"] {
        for file in place.stored(dir) {
            let mut bytes = std::fs::read(&file).unwrap();
            let end = bytes.len().min(5000);
            bytes[100..end.min(140)].fill(0xaa);
            bytes.truncate(bytes.len() - 10);
            std::fs::write(&file, bytes).unwrap();
        }
    }
    std::fs::write(place.path(".icecore/config"), "lost").unwrap();
    // On another machine, without a catalog.
    std::fs::remove_dir_all(place.path("cache")).unwrap();
    let run = place.ok(["restore", "latest", "--to", "out"]);
    assert!(run.stderr.contains("damaged and were read with the help of parity"), "{}", run.stderr);
    assert!(std::fs::read(place.path("out/a.db")).unwrap() == whole);
    let run = place.run(["--json", "check", "--read-data", "--mark"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let document = run.json();
    let codes: Vec<&str> = document["findings"].as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect();
    let kinds: std::collections::BTreeSet<&str> = codes.iter().copied().collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["config-copy", "pack-healable", "record-healable"]);
    assert_eq!(document["touched"].as_array().unwrap().len(), 0);
    assert_eq!(document["marked_damaged"].as_array().unwrap().len(), 0);
    assert_eq!(place.run(["scrub"]).code, Some(4));
    // The history goes on.
    place.database("a.db", 10);
    place.ok(["backup", "sqlite", "a.db"]);
    assert_eq!(place.snapshots()[1]["parent"], place.snapshots()[0]["id"]);
}

#[test]
fn shares_that_make_no_sense() {
    let place = Place::new();
    for share in ["51%", "-1", "3.5%", "much", "", "%"] {
        let run = place.run(["init", "--no-encryption", &format!("--parity={share}")]);
        run.failed(2, &["0% to 50%"]);
        assert!(!place.path(".icecore").exists());
    }
    assert_eq!(place.json(["init", "--no-encryption", "--parity", "5"])["parity"], 5);
    let none = place.ok(["-R", "none", "init", "--no-encryption", "--parity", "0"]).stdout;
    assert!(!none.contains("parity"), "{none}");
}
