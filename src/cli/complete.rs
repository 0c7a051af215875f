//! What shells offer where a snapshot or a source is expected. The scripts of `completions` run `icecore __complete WORD...` with the words up
//! to the cursor, and complete all else by themselves.
//!
//! It reads the configuration of the repository and the local catalog, no more. It asks for nothing, says nothing about failures and
//! changes nothing: no names are an answer, too.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;
use icecore::fs::disk::RealDisk;
use icecore::id::SnapshotId;
use icecore::ops::sources::source_names;
use icecore::store::backend::local::LocalBackend;
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::repo::known_snapshots;

use super::commands::Args;
use super::output::printable;
use super::{environment, time};

/// The first argument that asks for names. It is not a command that users call, so no help names it.
pub(crate) const WORD: &str = "__complete";
/// Snapshots that are offered, the newest ones.
const SNAPSHOTS_MAX: usize = 100;

/// Names for the last of these words, one a line, each with a tab and a description.
pub(crate) fn names(words: &[OsString]) -> String {
    let mut command = Args::command();
    command.build();
    let (place, current) = Place::of(&command, words);
    let Some(what) = place.what else { return String::new() };
    let known = || {
        let path = environment::repository(place.repository.as_deref()).ok()?;
        let backend = LocalBackend::open(&path, Arc::new(RealDisk)).ok()?;
        known_snapshots(&backend, &environment::cache_dir()?).ok()
    };
    let snapshots: Vec<(SnapshotId, SnapshotRecord)> = known().unwrap_or_default();
    let found: Vec<(String, String)> = match what {
        What::Source => source_names(&snapshots).into_iter().map(|name| (name, "source".to_owned())).collect(),
        What::Snapshot => {
            let latest = (!snapshots.is_empty()).then(|| ("latest".to_owned(), "the newest good snapshot".to_owned()));
            let about = |record: &SnapshotRecord| format!("{} {}", time::local(record.time_ns), record.source.label);
            let newest = snapshots.iter().rev().take(SNAPSHOTS_MAX);
            latest.into_iter().chain(newest.map(|(id, record)| (id.short(), about(record)))).collect()
        }
    };
    // What the user typed may be quoted already.
    let typed: String = current.chars().filter(|c| !matches!(c, '\\' | '\'' | '"')).collect();
    let fits = |name: &String| name.chars().filter(|c| !matches!(c, '\\' | '\'' | '"')).collect::<String>().starts_with(&typed);
    let one_line = |name: &String| printable(name) == *name;
    let offered = found.iter().filter(|(name, _)| fits(name) && one_line(name));
    offered.map(|(name, about)| format!("{name}\t{}\n", printable(about))).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Snapshot,
    Source,
}

/// Where the cursor is.
#[derive(Debug, Default)]
struct Place {
    what: Option<What>,
    repository: Option<OsString>,
}

impl Place {
    /// Finds the argument that the last word belongs to, and what has been typed of it.
    fn of(command: &Command, words: &[OsString]) -> (Self, String) {
        let (current, before) = match words.split_last() {
            Some((current, before)) => (current.to_string_lossy().into_owned(), before),
            None => (String::new(), words),
        };
        let mut walk = Walk { command, option: None, positional: 0, is_past_options: false, repository: None };
        before.iter().for_each(|word| walk.take(word));
        // `--source=x` is one word, or, in bash, three.
        let (argument, typed) = match (walk.option, current.split_once('=')) {
            (Some(option), _) => (Some(option), current.trim_start_matches('=').to_owned()),
            (None, Some((name, value))) if name.starts_with("--") => (walk.long(name), value.to_owned()),
            (None, _) if current.starts_with('-') && !walk.is_past_options => (None, current),
            (None, _) => (walk.next_positional(), current),
        };
        let what = argument.and_then(|argument| match argument.get_id().as_str() {
            "snap" | "snaps" | "snapshot" => Some(What::Snapshot),
            "source" => Some(What::Source),
            _ => None,
        });
        (Place { what, repository: walk.repository }, typed)
    }
}

/// The words before the cursor, as clap reads them.
struct Walk<'c> {
    command: &'c Command,
    /// It waits for its value.
    option: Option<&'c Arg>,
    positional: usize,
    is_past_options: bool,
    repository: Option<OsString>,
}

impl<'c> Walk<'c> {
    fn take(&mut self, word: &OsStr) {
        let text = word.to_string_lossy();
        if let Some(option) = self.option {
            if text != "=" {
                self.value(option, word.to_os_string());
                self.option = None;
            }
            return;
        }
        let takes_value = |option: &&Arg| option.get_action().takes_values();
        match () {
            () if self.is_past_options => self.positional += 1,
            () if text == "--" => self.is_past_options = true,
            () if text.starts_with("--") => match text.split_once('=') {
                Some((name, value)) => {
                    if let Some(option) = self.long(name) {
                        self.value(option, value.into());
                    }
                }
                None => self.option = self.long(&text).filter(takes_value),
            },
            () if text.len() > 1 && text.starts_with('-') => {
                // Of several short options in a word only the last can wait for its value.
                let last = text.chars().next_back();
                let option = self.command.get_arguments().find(|arg| arg.get_short().is_some() && arg.get_short() == last);
                self.option = option.filter(takes_value);
            }
            () => match self.command.find_subcommand(word) {
                Some(below) => (self.command, self.positional) = (below, 0),
                None => self.positional += 1,
            },
        }
    }

    fn value(&mut self, option: &Arg, value: OsString) {
        if option.get_id() == "repo" {
            self.repository = Some(value);
        }
    }

    fn long(&self, name: &str) -> Option<&'c Arg> {
        let name = name.strip_prefix("--")?;
        self.command.get_arguments().find(|arg| arg.get_long() == Some(name))
    }

    /// The last one may take many values.
    fn next_positional(&self) -> Option<&'c Arg> {
        self.command.get_positionals().take(self.positional + 1).last().filter(|last| {
            let takes_many =
                last.get_num_args().is_some_and(|range| range.max_values() > 1) || matches!(last.get_action(), clap::ArgAction::Append);
            takes_many || self.command.get_positionals().count() > self.positional
        })
    }
}

/// The script for a shell: the one that clap makes of the arguments, with names of snapshots and sources.
pub(crate) fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "icecore", &mut script);
    let made = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => (made + BASH).into_bytes(),
        Shell::Fish => (made + FISH).into_bytes(),
        Shell::Zsh => with_names_in_zsh(&made).into_bytes(),
        _ => script,
    }
}

const BASH: &str = r#"
_icecore_names() {
    local current="${COMP_WORDS[COMP_CWORD]}" name
    COMPREPLY=()
    while IFS=$'\t' read -r name _; do
        COMPREPLY+=("$(printf '%q' "$name")")
    done < <(icecore __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null </dev/null)
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        _icecore "$@"
    fi
}
complete -F _icecore_names -o nosort -o bashdefault -o default icecore 2>/dev/null ||
    complete -F _icecore_names -o bashdefault -o default icecore
"#;

const FISH: &str = r#"
function __icecore_names
    set -l words (commandline -opc) (commandline -ct)
    icecore __complete $words[2..-1] 2>/dev/null </dev/null
end
complete -c icecore -n 'test (count (__icecore_names)) -gt 0' -k -f -a '(__icecore_names)'
complete -c icecore -l source -x -k -a '(__icecore_names)'
complete -c icecore -l snapshot -x -k -a '(__icecore_names)'
"#;

/// The name of the function that clap makes for zsh.
const ZSH_FUNCTION: &str = "\n_icecore() {\n";
/// What zsh gets for the function of that name: names, or what clap's function completes.
const ZSH: &str = r#"
_icecore() {
    local -a found
    found=("${(@f)$(icecore __complete "${(@)words[2,CURRENT]}" 2>/dev/null </dev/null)}")
    found=("${(@)found:#}")
    if (( ${#found} )); then
        local -a values shown
        values=("${(@)found%%$'\t'*}")
        shown=("${(@)found/$'\t'/  }")
        compset -P '--*='
        compadd -l -V names -d shown -a values
    else
        _icecore_arguments "$@"
    fi
}
"#;

/// The script calls or registers `_icecore` at its end. That is replaced by a function that calls the one of clap under another name.
fn with_names_in_zsh(made: &str) -> String {
    let renamed = made.replacen(ZSH_FUNCTION, "\n_icecore_arguments() {\n", 1);
    match renamed.rsplit_once("\nif [ \"$funcstack[1]\"") {
        Some((functions, end)) if renamed != made => format!("{functions}{ZSH}\nif [ \"$funcstack[1]\"{end}"),
        _ => made.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn place(line: &str) -> (Option<What>, Option<PathBuf>, String) {
        let mut command = Args::command();
        command.build();
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let (place, typed) = Place::of(&command, &words);
        (place.what, place.repository.map(PathBuf::from), typed)
    }

    #[test]
    fn where_names_are_expected() {
        let (snapshot, source) = (Some(What::Snapshot), Some(What::Source));
        for (line, what, typed) in [
            ("restore ", snapshot, ""),
            ("restore 1a", snapshot, "1a"),
            ("restore --to out 1a", snapshot, "1a"),
            ("restore latest ", None, ""),
            ("restore --to ", None, ""),
            ("restore --", None, "--"),
            ("restore latest --source ", source, ""),
            ("restore latest --source=a", source, "a"),
            ("restore latest --source = a", source, "a"),
            ("restore latest --source =", source, ""),
            ("-q show ", snapshot, ""),
            ("show latest ", None, ""),
            ("forget ", snapshot, ""),
            ("forget 1a2b ", snapshot, ""),
            ("mark 1a accept ", None, ""),
            ("mark ", snapshot, ""),
            ("dump latest a", None, "a"),
            ("log --snapshot ", snapshot, ""),
            ("log note text --snapshot ", snapshot, ""),
            ("backup sqlite --source ", source, ""),
            ("backup sqlite ", None, ""),
            ("snapshots --source ", source, ""),
            ("", None, ""),
        ] {
            assert_eq!(place(line), (what, None, typed.to_owned()), "{line:?}");
        }
        for line in ["-R repo show ", "--repo repo show ", "--repo=repo show ", "show -qR repo "] {
            assert_eq!(place(line), (snapshot, Some("repo".into()), String::new()), "{line:?}");
        }
    }

    #[test]
    fn the_script_for_zsh_has_both_functions() {
        let script = String::from_utf8_lossy(&script(Shell::Zsh)).into_owned();
        assert_eq!((script.matches("\n_icecore() {\n").count(), script.matches("\n_icecore_arguments() {\n").count()), (1, 1));
        assert!(script.find("_icecore_arguments \"$@\"") < script.find("compdef _icecore icecore"), "{script}");
    }
}
