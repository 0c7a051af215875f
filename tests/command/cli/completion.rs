//! What a shell offers: names of snapshots and sources, by the script that `completions` prints.

use std::path::Path;

use super::support::{Place, Run};

/// What bash offers for the last of these words, with nothing said on standard error.
fn offered(place: &Place, words: &[&str]) -> Vec<String> {
    std::fs::write(place.path("icecore.bash"), place.ok(["completions", "bash"]).stdout).unwrap();
    let script = "source ./icecore.bash; [[ $(complete -p icecore) == *'-F _icecore_names '* ]] || exit 9
        COMP_WORDS=(icecore \"$@\"); COMP_CWORD=$#; _icecore_names icecore \"${@: -1}\" \"${COMP_WORDS[COMP_CWORD-1]}\"
        [[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' \"${COMPREPLY[@]}\"";
    let programs = Path::new(env!("CARGO_BIN_EXE_icecore")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let run: Run = place.program("bash").env("PATH", path).args(["--norc", "-c", script, "bash"]).args(words).output().unwrap().into();
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{words:?}: {}", run.stdout);
    run.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_offers_snapshots_and_sources() {
    let place = Place::new();
    assert_eq!(place.command().env("ICECORE_PASSWORD", "phrase").arg("init").output().unwrap().status.code(), Some(0));
    place.database("a.db", 10);
    let backup = |args: &[&str]| {
        let done: Run = place
            .command()
            .env("ICECORE_PASSWORD", "phrase")
            .args(["--json", "backup", "sqlite", "a.db"])
            .args(args)
            .output()
            .unwrap()
            .into();
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.json()["snapshot"].as_str().unwrap()[..12].to_owned()
    };
    let ids = [backup(&["--time", "2026-01-01"]), backup(&["--source", "it's", "--time", "2026-01-02"])];
    // From here on nobody knows the passphrase.
    let newest_first = vec!["latest".to_owned(), ids[1].clone(), ids[0].clone()];
    assert_eq!(offered(&place, &["show", ""]), newest_first);
    assert_eq!(offered(&place, &["restore", "--to", "out", ""]), newest_first);
    assert_eq!(offered(&place, &["forget", &ids[0], ""]), newest_first);
    assert_eq!(offered(&place, &["-R", ".icecore", "show", &ids[0][..5]]), [ids[0].clone()]);
    assert_eq!(offered(&place, &["show", "latest", "--source", ""]), ["a.db", "it\\'s"]);
    assert_eq!(offered(&place, &["show", "latest", "--source", "=", "it"]), ["it\\'s"]);
    assert_eq!(offered(&place, &["backup", "files", "--source", "a"]), ["a.db"]);
    // All else comes from the arguments themselves.
    assert!(offered(&place, &["show", "--sou"]).contains(&"--source".to_owned()));
    assert!(offered(&place, &["snapsh"]).contains(&"snapshots".to_owned()));
    assert_eq!(offered(&place, &["-R", "nowhere", "show", ""]).iter().filter(|word| newest_first.contains(word)).count(), 0);
    // A catalog that is not one, and none.
    for catalog in std::fs::read_dir(place.path("cache")).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        std::fs::write(catalog, "damaged").unwrap();
    }
    assert!(!offered(&place, &["show", ""]).contains(&ids[0]));
    std::fs::remove_dir_all(place.path("cache")).unwrap();
    assert!(!offered(&place, &["show", ""]).contains(&ids[0]));
    assert!(!place.path("cache").exists(), "nothing is made");
}
