//! A page of the documents: its blocks, its prose, and how its commands are run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::script::write_script;

/// One page in Markdown.
pub struct Page {
    /// Its path in the project: `docs/sqlite.md`.
    pub name: String,
    pub text: String,
}

/// What a line of a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part<'a> {
    Prose,
    /// The line that begins or ends a block.
    Fence,
    /// A line in a block of this language.
    Block(&'a str),
}

/// Directories that a page may name as those of a real machine. They are made below the directory in which the page is run.
const MOVED: [&str; 6] = ["/srv", "/backups", "/etc", "/var", "/mnt", "/usr/local"];

/// Programs that would change the machine. Commands that use them are run with these in their place.
const STUBS: [(&str, &str); 9] = [
    ("sudo", "exec \"$@\""),
    ("systemctl", "exit 0"),
    ("systemd-analyze", "exit 0"),
    ("journalctl", "exit 0"),
    ("apt-get", "exit 0"),
    ("cargo", "exit 0"),
    ("crontab", "cat > /dev/null"),
    ("git", "exit 0"),
    ("mail", "cat > /dev/null"),
];

/// Runs before each page: names the line of a command that fails, and knows the newest snapshot.
const BEFORE: &str = r#"set -eEuo pipefail
trap 'echo "$PAGE:$LINENO: exit code $?: $BASH_COMMAND" >&2' ERR
newest() { icecore --json snapshots | python3 -c 'import json, sys; print(json.load(sys.stdin)["snapshots"][-1]["id"][:12])'; }
"#;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages that users and developers read.
pub fn pages() -> Vec<Page> {
    let below = std::fs::read_dir(project().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(|name| project().join(name));
    let mut paths: Vec<PathBuf> = below.filter(|path| path.extension().is_some_and(|extension| extension == "md")).chain(top).collect();
    paths.sort();
    let page = |path: PathBuf| Page {
        name: path.strip_prefix(project()).unwrap().to_str().unwrap().to_owned(),
        text: std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
    };
    paths.into_iter().map(page).collect()
}

impl Page {
    /// Each line with its number and what it is.
    pub fn lines(&self) -> Vec<(usize, Part<'_>, &str)> {
        let mut inside = None;
        let mut lines = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            let part = match (line.trim_start().strip_prefix("```"), inside) {
                (Some(language), None) => {
                    inside = Some(language.trim());
                    Part::Fence
                }
                (Some(_), Some(_)) => {
                    inside = None;
                    Part::Fence
                }
                (None, Some(language)) => Part::Block(language),
                (None, None) => Part::Prose,
            };
            lines.push((index + 1, part, line));
        }
        assert!(inside.is_none(), "{}: a block does not end", self.name);
        lines
    }

    /// Whether its commands need a PostgreSQL server.
    pub fn needs_postgres(&self) -> bool {
        self.text.starts_with("<!-- test: postgres -->")
    }

    /// Its commands as a script of bash, each on the line that it has on the page.
    fn script(&self) -> String {
        let mut script = String::new();
        let mut before: Vec<&str> = Vec::new();
        for (_, part, line) in self.lines() {
            let hidden = line.strip_prefix("<!-- run: ").and_then(|rest| rest.strip_suffix(" -->"));
            match (part, hidden) {
                (Part::Block("sh"), _) if line.ends_with('\\') => before.push(line),
                (Part::Block("sh"), _) => {
                    before.push(line);
                    script += &expecting(&before.join("\n"));
                    before.clear();
                    script.push('\n');
                }
                (Part::Prose, Some(command)) => {
                    script += command;
                    script.push('\n');
                }
                _ => script.push('\n'),
            }
        }
        script.replace("1a2b3c4d5e6f", "$(newest)")
    }

    /// Runs its commands in this empty directory, and gives what went wrong.
    pub fn run(&self, directory: &Path, prepare: impl Fn(&mut Command), change: impl Fn(String) -> String) -> Result<(), String> {
        for name in ["home", "bin", "tmp", "work"] {
            std::fs::create_dir(directory.join(name)).unwrap();
        }
        for moved in MOVED {
            std::fs::create_dir_all(directory.join(moved.trim_start_matches('/'))).unwrap();
        }
        for link in ["contrib", "scripts", "examples"] {
            std::os::unix::fs::symlink(project().join(link), directory.join("work").join(link)).unwrap();
        }
        for (name, body) in STUBS {
            write_script(&directory.join("bin").join(name), body);
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_icecore"), directory.join("bin/icecore")).unwrap();
        let stem = Path::new(&self.name).file_stem().unwrap().to_str().unwrap();
        let setup = project().join("tests/command/documents/setup").join(match self.name.as_str() {
            "docs/README.md" => "index.sh".to_owned(),
            _ => format!("{stem}.sh"),
        });
        let setup = std::fs::read_to_string(setup).unwrap_or_default();
        std::fs::write(directory.join("setup.sh"), moved(&change(setup), directory)).unwrap();
        std::fs::write(directory.join("before.sh"), BEFORE).unwrap();
        // The first line of a page holds no command.
        let load = "source ../before.sh; source ../setup.sh; source ../page.sh";
        std::fs::write(directory.join("page.sh"), moved(&change(self.script()), directory)).unwrap();
        let mut bash = Command::new("bash");
        for name in ["REPOSITORY", "PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND"] {
            bash.env_remove(format!("ICECORE_{name}"));
        }
        let programs = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(directory.join("bin")).chain(std::env::split_paths(&programs));
        bash.arg("-c").arg(load).current_dir(directory.join("work")).stdin(Stdio::null()).env_remove("XDG_CACHE_HOME");
        bash.env("HOME", directory.join("home")).env("TMPDIR", directory.join("tmp")).env("TZ", "UTC").env("PAGE", &self.name);
        bash.env("ICECORE_BIN", env!("CARGO_BIN_EXE_icecore")).env("PATH", std::env::join_paths(path).unwrap());
        prepare(&mut bash);
        let output = bash.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.success() && !said.contains("a fault of icecore itself") {
            true => Ok(()),
            false => Err(said.lines().rev().take(25).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")),
        }
    }
}

/// A command that the page says ends with another code than 0: `icecore status   # exit code 5`.
fn expecting(command: &str) -> String {
    let Some((command, code)) = command.rsplit_once("# exit code ") else { return command.to_owned() };
    let code: String = code.chars().take_while(char::is_ascii_digit).collect();
    format!("if {}; then code=0; else code=$?; fi; (exit $((code - {code})))", command.trim_end())
}

/// With the directories of a real machine below this one.
fn moved(script: &str, directory: &Path) -> String {
    let mut result = String::new();
    let mut rest = script;
    while let Some(at) = rest.find('/') {
        let (before, from) = rest.split_at(at);
        let begins = before.is_empty() || before.ends_with([' ', '\n', '=', '"', '\'', ':', '(', '>', '<', ',']);
        result += before;
        match MOVED.iter().find(|moved| begins && from.starts_with(**moved) && !from[moved.len()..].starts_with(char::is_alphanumeric)) {
            Some(found) => {
                result += directory.to_str().unwrap();
                result += found;
                rest = &from[found.len()..];
            }
            None => {
                result.push('/');
                rest = &from[1..];
            }
        }
    }
    result + rest
}
