//! `completions`, `man` and `--help`.

use std::collections::BTreeSet;

use super::support::Place;

#[test]
fn completions_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = place.ok(["completions", shell]).stdout;
        for word in ["snapshots", "status", "prometheus", "no-encryption", "keep-daily"] {
            assert!(script.contains(word), "{shell} does not complete {word}");
        }
    }
    place.run(["completions", "tcsh"]).failed(2, &[]);
    // A shell takes it; bash is there wherever the scripts run.
    std::fs::write(place.path("icecore.bash"), place.ok(["completions", "bash"]).stdout).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(place.path("icecore.bash")).status().unwrap();
    assert!(checked.success());
}

/// The commands of a help text, below each other.
fn commands(place: &Place, path: &[String], found: &mut BTreeSet<String>) {
    let help = place.ok(path.iter().map(String::as_str).chain(["--help"])).stdout;
    assert!(help.contains("\nExample"), "{path:?} has no example:\n{help}");
    found.insert([vec!["icecore".to_owned()], path.to_vec()].concat().join("-"));
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
    let below = list.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
    for name in below.filter(|name| *name != "help").map(str::to_owned).collect::<Vec<_>>() {
        commands(place, &[path, &[name]].concat(), found);
    }
}

#[test]
fn every_command_has_an_example_and_a_page() {
    let place = Place::new();
    let mut found = BTreeSet::new();
    commands(&place, &[], &mut found);
    assert!(found.len() > 20, "{found:?}");
    let written = place.json(["man", "pages"]);
    let pages: BTreeSet<String> = written["pages"].as_array().unwrap().iter().map(|page| page.as_str().unwrap().to_owned()).collect();
    assert_eq!(pages, found.iter().map(|name| format!("{name}.1")).collect());
    for page in &pages {
        let text = std::fs::read_to_string(place.path("pages").join(page)).unwrap();
        assert!(text.contains(".TH icecore") && text.contains("Example"), "{page}");
    }
    let first = place.ok(["man"]).stdout;
    assert_eq!(first, std::fs::read_to_string(place.path("pages/icecore.1")).unwrap());
    std::fs::write(place.path("file"), "").unwrap();
    place.run(["man", "file"]).failed(1, &["file"]);
}
