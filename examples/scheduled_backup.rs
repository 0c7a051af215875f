//! Backs up a SQLite database every so many seconds, keeps a day of snapshots and frees the space of older ones:
//! `scheduled_backup DATABASE REPOSITORY SECONDS [ROUNDS]`. The passphrase is in ICECORE_PASSWORD.

use std::path::Path;
use std::time::Duration;

use icecore::{BackupOptions, Error, Keep, Key, Rules, Settings, Silent, SqliteOptions, SqliteSource, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [database, repository, seconds, rest @ ..] = args.as_slice() else {
        return Err("usage: scheduled_backup DATABASE REPOSITORY SECONDS [ROUNDS]".into());
    };
    let pause = Duration::from_secs(seconds.parse()?);
    let rounds: u32 = rest.first().map_or(Ok(u32::MAX), |text| text.parse())?;
    let passphrase = std::env::var("ICECORE_PASSWORD")?;
    let (location, key) = (Path::new(repository), Key::Passphrase(&passphrase));
    let settings = Settings::new(std::env::temp_dir().join("icecore-example"), "example");
    let store = match Store::open(location, key, settings.clone()) {
        Err(Error::NoRepository { .. }) => Store::create(location, key, settings)?,
        opened => opened?,
    };
    let name = Path::new(database).file_name().ok_or("the database has no name")?.to_string_lossy().into_owned();
    let source = SqliteSource::new(vec![(name, database.into())], SqliteOptions::default())?;
    // The newest 24 hours that have a snapshot.
    let mut rules = Rules::default();
    rules.count[1] = Keep::Newest(24);
    for round in 0..rounds {
        if round > 0 {
            std::thread::sleep(pause);
        }
        match store.backup(&source, &BackupOptions::default(), &Silent) {
            Ok(report) => println!("snapshot {}: {} bytes stored", report.snapshot, report.stored_bytes),
            // A backup that fails leaves no snapshot; the next one is tried all the same.
            Err(error) => eprintln!("no snapshot: {error}"),
        }
        let forgotten = store.forget(&rules, &Silent)?.forgotten;
        if forgotten > 0 {
            println!("{forgotten} snapshots forgotten, {} bytes freed", store.prune(&Silent)?.deleted_bytes);
        }
    }
    Ok(())
}
