//! The recipes in contrib: their commands are right, and systemd takes the units.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::Place;

fn contrib() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib")
}

/// The commands of the crontab and of the units, as a shell takes them.
fn commands() -> Vec<String> {
    let cron = std::fs::read_to_string(contrib().join("icecore.cron")).unwrap();
    let jobs = cron.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit() || c == '*'));
    let mut all: Vec<String> = jobs
        .map(|job| {
            let fields: Vec<&str> = job.split_whitespace().collect();
            assert_eq!((fields[5], fields[6]), ("root", "icecore"), "five times, a user, a command: {job}");
            fields[6..].join(" ")
        })
        .collect();
    for file in std::fs::read_dir(contrib().join("systemd")).unwrap().map(|entry| entry.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        let starts = text.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/"));
        all.extend(starts.map(str::to_owned));
    }
    assert_eq!(all.len(), 11, "{all:?}");
    all
}

/// Backups come first, so that the others find something.
#[test]
fn the_commands_do_what_they_say() {
    let place = Place::with_repository();
    place.database("model_registry.db", 10);
    std::fs::create_dir(place.path("uploads")).unwrap();
    std::fs::write(place.path("uploads/a.txt"), "uploaded").unwrap();
    let mut commands = commands();
    commands.sort_by_key(|command| !command.contains("backup"));
    for command in commands {
        let here = command.replace("/srv/app/memory.db", "a.db").replace("/srv/app/", "");
        let programs = Path::new(env!("CARGO_BIN_EXE_icecore")).parent().unwrap().to_owned();
        let path = std::env::join_paths([programs, "/usr/bin".into(), "/bin".into()]).unwrap();
        let mut shell = place.program("sh");
        shell.arg("-ec").arg(&here).env("PATH", path);
        shell.env("DATABASES", "memory.db=a.db model_registry.db=model_registry.db").env("UPLOADS", "uploads=uploads");
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{here}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, b"", "{here}: -q says nothing where all is well");
    }
}

/// With systemd's own judge, where it is there; its sections and the names of the units in any case.
#[test]
fn systemd_takes_the_units() {
    let place = Place::new();
    let mut units = Vec::new();
    for file in std::fs::read_dir(contrib().join("systemd")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        // The judge wants the program to be there.
        let text = std::fs::read_to_string(&file).unwrap().replace("/usr/local/bin/icecore", env!("CARGO_BIN_EXE_icecore"));
        let sections: &[&str] = match name.rsplit_once('.').unwrap().1 {
            "service" => &["[Unit]", "[Service]"],
            "timer" => &["[Unit]", "[Timer]", "[Install]"],
            _ => continue,
        };
        assert_eq!(text.lines().filter(|line| line.starts_with('[')).collect::<Vec<_>>(), sections, "{name}");
        let is_line = |line: &&str| line.is_empty() || line.starts_with(['[', '#']) || line.contains('=');
        assert!(text.lines().all(|line| is_line(&line)), "{name}");
        std::fs::write(place.path(&name), text).unwrap();
        units.push(place.path(&name));
    }
    assert_eq!(units.len(), 8);
    let Ok(judged) = Command::new("systemd-analyze").arg("verify").arg("--man=no").args(&units).output() else { return };
    let said = String::from_utf8_lossy(&judged.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("icecore")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}
