//! Lists all snapshots, and says of the newest two which streams differ, and from which byte on: `compare_snapshots REPOSITORY`.
//! The passphrase is in ICECORE_PASSWORD.

use std::io::{BufReader, Read};
use std::path::Path;

use icecore::{Key, Settings, Snapshot, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let repository = std::env::args().nth(1).ok_or("usage: compare_snapshots REPOSITORY")?;
    let passphrase = std::env::var("ICECORE_PASSWORD")?;
    let settings = Settings::new(std::env::temp_dir().join("icecore-example"), "example");
    let store = Store::open(Path::new(&repository), Key::Passphrase(&passphrase), settings)?;
    let snapshots = store.snapshots()?;
    for snapshot in &snapshots {
        let state = if snapshot.flags().is_empty() { "good" } else { "flagged" };
        println!("{} {} {} {} bytes, {state}", snapshot.id(), snapshot.kind(), snapshot.source(), snapshot.bytes());
    }
    let [.., old, new] = snapshots.as_slice() else { return Ok(()) };
    for stream in new.streams()? {
        let name = String::from_utf8_lossy(&stream.name).into_owned();
        match first_difference(old, new, &stream.name) {
            Ok(None) => println!("{name}: the same"),
            Ok(Some(at)) => println!("{name}: differs from byte {at} on"),
            Err(error) => println!("{name}: {error}"),
        }
    }
    Ok(())
}

/// The first byte that differs, counted from 0.
fn first_difference(old: &Snapshot<'_>, new: &Snapshot<'_>, name: &[u8]) -> Result<Option<u64>, Box<dyn std::error::Error>> {
    let (old, new) = (old.stream(name)?, new.stream(name)?);
    let shorter = old.len().min(new.len());
    let is_longer = old.len() != new.len();
    let pairs = BufReader::new(old).bytes().zip(BufReader::new(new).bytes());
    for (at, (one, other)) in pairs.enumerate() {
        if one? != other? {
            return Ok(Some(at as u64));
        }
    }
    Ok(is_longer.then_some(shorter))
}
