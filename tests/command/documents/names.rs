//! Commands and options that documents name are those of the program.

use std::collections::{BTreeMap, BTreeSet};

use crate::page::{Part, pages};
use crate::place::Place;

/// Options of other programs that the documents name.
const OF_OTHERS: [&str; 28] = [
    "--path",
    "--quick",
    "--release",
    "--example",
    "--bench",
    "--test",
    "--patch-from",
    "--large",
    "--steps",
    "--open",
    "--ignored",
    "--memory-db",
    "--registry-db",
    "--out-dir",
    "--backup-dir",
    "--backup-file",
    "--role-passwords",
    "--check",
    "--workspace",
    "--all-targets",
    "--locked",
    "--create",
    "--clean",
    "--restrict-key",
    "--now",
    "--reload",
    "--no-sync",
    "--enable-cassert",
];

struct Commands {
    /// The options of each command: `backup sqlite`; those of all commands under the empty name.
    options: BTreeMap<String, BTreeSet<String>>,
}

impl Commands {
    fn of_the_program() -> Self {
        let mut commands = Commands { options: BTreeMap::new() };
        commands.read(&Place::new(), &[]);
        assert!(commands.options.len() > 20);
        commands
    }

    fn read(&mut self, place: &Place, path: &[&str]) {
        let help = place.ok(path.iter().chain(&["--help"])).stdout;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let words = help.split(|c: char| !is_name(c));
        let listed = words.filter(|word| word.len() > 2 && word.starts_with("--")).map(str::to_owned).collect();
        self.options.insert(path.join(" "), listed);
        let list = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| line.starts_with("  "));
        let below = list.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
        for name in below.filter(|name| *name != "help") {
            self.read(place, &[path, &[name]].concat());
        }
    }

    /// What is wrong with a command line that begins with `icecore`.
    fn wrong(&self, line: &str) -> Option<String> {
        // Options of all commands may stand before the command. `-R` takes a value.
        let line = line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        let line = line.strip_prefix("-R ").and_then(|rest| rest.split_once(' ')).map_or(line.as_str(), |(_, rest)| rest);
        let mut words = line.split_whitespace().skip_while(|word| word.starts_with('-')).peekable();
        let mut command = String::new();
        while let Some(word) = words.peek() {
            let longer = if command.is_empty() { (*word).to_owned() } else { format!("{command} {word}") };
            if !self.options.contains_key(&longer) {
                break;
            }
            command = longer;
            words.next();
        }
        let is_placeholder = |word: &str| word.chars().next().is_some_and(|c| c.is_ascii_uppercase() || "-[.<\"'".contains(c));
        match words.peek() {
            Some(word) if command.is_empty() && !is_placeholder(word) => return Some(format!("there is no command `{word}`")),
            _ => (),
        }
        let options = self.options.get(&command)?;
        let written = words.take_while(|word| *word != "--" && *word != "|" && *word != "&&" && !word.starts_with('#'));
        let names = written.filter_map(option_name);
        names.into_iter().find(|name| !options.contains(*name)).map(|name| format!("`icecore {command}` has no option {name}"))
    }
}

/// The name of an option: `--keep-daily` of `--keep-daily=30,`.
fn option_name(word: &str) -> Option<&str> {
    let word = word.trim_start_matches(['[', '(', '`']);
    let end = word.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')).unwrap_or(word.len());
    word.starts_with("--").then(|| &word[..end]).filter(|name| name.len() > 2 && !name.ends_with('-'))
}

#[test]
fn commands_and_options_are_there() {
    let commands = Commands::of_the_program();
    let all: BTreeSet<&String> = commands.options.values().flatten().collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    // What a release changed may name what is gone.
    for page in pages().iter().filter(|page| page.name != "CHANGELOG.md") {
        for (number, part, line) in page.lines() {
            let mut lines: Vec<&str> = Vec::new();
            match part {
                Part::Block("sh" | "ini") => {
                    let of_icecore = |command: &&str| command.starts_with("icecore ") || command.starts_with("/usr/local/bin/icecore ");
                    lines.extend(line.split(['|', ';', '(']).map(str::trim).filter(of_icecore));
                }
                Part::Prose => {
                    for code in line.split('`').skip(1).step_by(2) {
                        match option_name(code) {
                            Some(name) if !all.contains(&name.to_owned()) && !OF_OTHERS.contains(&name) => {
                                wrong.push(format!("{}:{number}: no command has {name}", page.name));
                            }
                            Some(_) => seen += 1,
                            None if code.starts_with("icecore ") => lines.push(code),
                            None => (),
                        }
                    }
                }
                _ => (),
            }
            seen += lines.len();
            wrong.extend(lines.into_iter().filter_map(|line| Some(format!("{}:{number}: {}", page.name, commands.wrong(line)?))));
        }
    }
    assert!(seen > 150, "the test has lost sight of the commands: {seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_command_is_noticed() {
    let commands = Commands::of_the_program();
    assert_eq!(commands.wrong("icecore backup sqlite a.db --tag x"), None);
    assert_eq!(commands.wrong("icecore -R x restore SNAP --to DIR # --nosuch"), None);
    assert_eq!(commands.wrong("icecore backup command --name N -- slapcat --nosuch"), None);
    assert!(commands.wrong("icecore backup sqlite a.db --nosuch").is_some());
    assert!(commands.wrong("icecore nosuch").is_some());
    assert!(commands.wrong("icecore snapshots --to DIR").is_some(), "another command has that option");
}
