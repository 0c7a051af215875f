//! Where the passphrase comes from. Few tests: deriving a key takes its time, and is meant to.

use std::os::unix::ffi::OsStrExt;

use super::support::{Place, Run};

const PHRASE: &str = "correct horse battery staple";

fn run(place: &Place, variable: &str, value: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Run {
    place.command().env(format!("ICECORE_{variable}"), value).args(args).output().unwrap().into()
}

#[test]
fn from_variable_file_or_command() {
    let place = Place::new();
    let made = run(&place, "PASSWORD", PHRASE, &["init"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    assert!(made.stdout.contains("without the passphrase the data is lost"), "{}", made.stdout);

    for ending in ["", "\n", "\r\n"] {
        std::fs::write(place.path("phrase"), format!("{PHRASE}{ending}")).unwrap();
        assert_eq!(run(&place, "PASSWORD_FILE", "phrase", &["snapshots"]).code, Some(0), "{ending:?}");
    }
    let command = format!("echo '{PHRASE}'");
    let stats = run(&place, "PASSWORD_COMMAND", &command, &["--json", "stats"]);
    assert_eq!(stats.code, Some(0), "{}", stats.stderr);
    assert_eq!(stats.json()["encrypted"], true);

    run(&place, "PASSWORD", "wrong", &["snapshots"]).failed(12, &["wrong passphrase"]);
    // What has two ends of line is not the same passphrase with one.
    std::fs::write(place.path("phrase"), format!("{PHRASE}\n\n")).unwrap();
    run(&place, "PASSWORD_FILE", "phrase", &["snapshots"]).failed(12, &["wrong passphrase"]);
    place.run(["snapshots"]).failed(1, &["ICECORE_PASSWORD,", "ICECORE_PASSWORD_FILE", "ICECORE_PASSWORD_COMMAND", "no terminal"]);
}

#[test]
fn one_that_cannot_be_used_is_no_passphrase() {
    let place = Place::new();
    std::fs::write(place.path("empty"), "\n").unwrap();
    std::fs::write(place.path("huge"), vec![b'x'; 70_000]).unwrap();
    for name in ["PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND"] {
        run(&place, name, "", &["init"]).failed(1, &[&format!("ICECORE_{name} is set, but empty")]);
    }
    run(&place, "PASSWORD", std::ffi::OsStr::from_bytes(b"\xff"), &["init"]).failed(1, &["not UTF-8"]);
    run(&place, "PASSWORD_FILE", "empty", &["init"]).failed(1, &["empty"]);
    run(&place, "PASSWORD_FILE", "huge", &["init"]).failed(1, &["huge", "longer"]);
    run(&place, "PASSWORD_FILE", "absent", &["init"]).failed(1, &["absent"]);
    run(&place, "PASSWORD_COMMAND", "true", &["init"]).failed(1, &["empty"]);
    let failing = run(&place, "PASSWORD_COMMAND", "echo secret; exit 3", &["init"]);
    failing.failed(1, &["ICECORE_PASSWORD_COMMAND failed"]);
    assert!(!failing.stderr.contains("secret"), "{}", failing.stderr);
    place.run(["init"]).failed(1, &["no terminal"]);
    assert!(!place.path(".icecore").exists());
}

/// Who may write the file chooses the passphrase; who may read it can read the backups.
#[test]
fn a_file_that_others_can_use() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let phrase = place.path("phrase");
    std::fs::write(&phrase, PHRASE).unwrap();
    let with = |mode: u32, args: &[&str]| {
        std::fs::set_permissions(&phrase, Permissions::from_mode(mode)).unwrap();
        run(&place, "PASSWORD_FILE", "phrase", args)
    };
    with(0o602, &["init"]).failed(1, &["other users may write", "phrase", "chmod 600"]);
    assert!(!place.path(".icecore").exists());
    let made = with(0o600, &["init"]);
    assert_eq!((made.code, made.stderr.as_str()), (Some(0), ""));
    let warned = with(0o604, &["snapshots"]);
    assert!(warned.code == Some(0) && warned.stderr.contains("every user of this machine may read"), "{}", warned.stderr);
    if rustix::process::getuid().is_root() {
        std::os::unix::fs::chown(&phrase, Some(65_534), None).unwrap();
        with(0o600, &["snapshots"]).failed(1, &["belongs to another user (number 65534)"]);
    }
}
