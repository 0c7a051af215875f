//! Restores the newest snapshot to a new directory and asks SQLite whether each database in it is sound: `verify_restore REPOSITORY DIRECTORY`.
//! The passphrase is in ICECORE_PASSWORD.

use std::path::Path;

use icecore::{EntryKind, Key, RestoreOptions, Settings, Silent, Store};
use rusqlite::{Connection, OpenFlags};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [repository, directory] = args.as_slice() else { return Err("usage: verify_restore REPOSITORY DIRECTORY".into()) };
    let passphrase = std::env::var("ICECORE_PASSWORD")?;
    let settings = Settings::new(std::env::temp_dir().join("icecore-example"), "example");
    let store = Store::open(Path::new(repository), Key::Passphrase(&passphrase), settings)?;
    let snapshot = store.snapshot("latest")?;
    let report = snapshot.restore(Path::new(directory), "verify", &RestoreOptions::default(), &Silent)?;
    for failed in &report.failed {
        eprintln!("{}: {}", String::from_utf8_lossy(&failed.name), failed.error);
    }
    for stream in snapshot.streams()?.iter().filter(|stream| matches!(stream.kind, EntryKind::Sqlite(_))) {
        let name = String::from_utf8_lossy(&stream.name);
        let database = Connection::open_with_flags(Path::new(directory).join(&*name), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let said: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        println!("{name}: {said}");
    }
    match report.is_whole() {
        true => Ok(()),
        false => Err("not everything was restored".into()),
    }
}
