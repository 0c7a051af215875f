//! Another repository in the place of one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use icecore::fs::disk::RealDisk;
use icecore::store::backend::LocalBackend;
use icecore::store::repo::{InitOptions, Repository};
use zeroize::Zeroizing;

use super::bed::{Bed, CHEAP};
use super::support::{Place, Run};

const PHRASE: &str = "correct horse";

fn init(path: &Path, encrypted: bool) -> String {
    let backend = LocalBackend::create(path, Arc::new(RealDisk)).unwrap();
    let passphrase = encrypted.then(|| Zeroizing::new(PHRASE.to_owned()));
    Repository::init(&backend, &InitOptions { passphrase, cost: CHEAP, parity_percent: 0 }).unwrap().to_string()
}

fn run(place: &Place, phrase: bool, args: &[&str]) -> Run {
    let mut command = place.command();
    if phrase {
        command.env("ICECORE_PASSWORD", PHRASE);
    }
    command.args(args).output().unwrap().into()
}

fn packs(place: &Place) -> usize {
    place.stored("packs").len()
}

#[test]
fn a_plain_repository_in_the_place_of_an_encrypted_one() {
    let place = Place::new();
    place.database("a.db", 10);
    let (here, away, other) = (place.path(".icecore"), place.path("away"), place.path("other"));
    init(&here, true);
    let plain = init(&other, false);
    assert_eq!(run(&place, true, &["backup", "sqlite", "a.db"]).code, Some(0));

    fs::rename(&here, &away).unwrap();
    fs::rename(&other, &here).unwrap();
    run(&place, true, &["backup", "sqlite", "a.db"]).failed(1, &["not encrypted", "ICECORE_PASSWORD"]);
    assert_eq!(packs(&place), 0, "nothing is stored in it");
    // Without a passphrase this machine still knows what was here.
    run(&place, false, &["backup", "sqlite", "a.db"]).failed(1, &["--accept-repository", &plain[..12]]);
    run(&place, false, &["snapshots", "--accept-repository", "000000000000"]).failed(1, &["exchanged"]);
    assert_eq!(packs(&place), 0);
    let accepted = run(&place, false, &["--accept-repository", &plain[..12], "backup", "sqlite", "a.db"]);
    assert_eq!(accepted.code, Some(0), "{}", accepted.stderr);
    assert_eq!(run(&place, false, &["snapshots"]).code, Some(0), "it is known now");
}

#[test]
fn another_id_is_refused_until_it_is_accepted() {
    let place = Place::new();
    let (here, away, other) = (place.path(".icecore"), place.path("away"), place.path("other"));
    let (first, second) = (init(&here, true), init(&other, true));
    assert_eq!(run(&place, true, &["snapshots"]).code, Some(0));
    fs::rename(&here, &away).unwrap();
    fs::rename(&other, &here).unwrap();
    run(&place, true, &["snapshots"]).failed(1, &[&first[..12], &second[..12]]);
    assert_eq!(run(&place, true, &["snapshots", "--accept-repository", &second]).code, Some(0));
    // Disks that are exchanged in turn.
    fs::rename(&here, &other).unwrap();
    fs::rename(&away, &here).unwrap();
    assert_eq!(run(&place, true, &["snapshots"]).code, Some(0));
    assert_eq!(run(&place, true, &["snapshots", "--accept-repository", "abc"]).code, Some(2), "too short to mean one");
}

#[test]
fn a_repository_that_was_made_on_purpose_is_not_refused() {
    let place = Place::without_parity();
    place.ok(["backup", "sqlite", "a.db"]);
    fs::remove_dir_all(place.path(".icecore")).unwrap();
    place.ok(["init", "--no-encryption"]);
    place.ok(["backup", "sqlite", "a.db"]);
}

#[test]
fn an_odd_key_record_beside_a_good_one() {
    let bed = Bed::new(true);
    let keys = bed.path("repo/keys");
    let good = fs::read_dir(&keys).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.extension().is_none()).unwrap();
    let mut newer = fs::read(&good).unwrap();
    newer[8] = 9;
    fs::write(keys.join("0".repeat(64)), newer).unwrap();
    fs::create_dir(keys.join("1".repeat(64))).unwrap();
    fs::write(keys.join("2".repeat(64)), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", keys.join("3".repeat(64))).unwrap();
    assert!(bed.open().refresh().unwrap().damage.is_empty());
}
