//! The commands, and what `icecore --help` says.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use super::args::Global;
use super::backup::{CommandArgs, FilesArgs, SqliteArgs};
use super::check::CheckArgs;
use super::drill::DrillArgs;
use super::export::ExportArgs;
use super::forget::ForgetArgs;
use super::init::InitArgs;
use super::log::LogArgs;
use super::look::{LsArgs, ShowArgs, SnapshotsArgs};
use super::mark::{MarkArgs, ProtectArgs};
use super::postgres::PostgresArgs;
use super::prune::PruneArgs;
use super::repair::RepairArgs;
use super::restore::{DumpArgs, RestoreArgs};
use super::scrub::ScrubArgs;
use super::stats::StatsArgs;
use super::status::StatusArgs;

/// What `icecore --help` ends with.
const AFTER_HELP: &str = "\
Environment:
  ICECORE_REPOSITORY        the repository, if -R is not given: -R wins
  ICECORE_PASSWORD          the passphrase
  ICECORE_PASSWORD_FILE     a file that holds it
  ICECORE_PASSWORD_COMMAND  a command for sh that prints it
  ICECORE_CACHE_DIR         where the local catalogs are (they can be deleted at any time)

SNAP is an id or the start of one, `latest` (the newest good snapshot), `latest~N` (the Nth good one before it), or `@TIME` (the newest good
one at or before TIME). Flagged snapshots are passed over: take one by its id. Where a repository has several sources, --source says which.
TIME is RFC 3339 (2026-11-23T03:15:00Z), or in the local time zone `2026-11-23 03:15` or `2026-11-23` (its first moment). After @ also: 12:30 (the
last 12:30), yesterday and today (the end of the day), -90m, -3h, -2d (so long ago).

Exit codes: 0 done; 1 failed; 2 usage; 3 done but incomplete or flagged; 4 damage found, or a failed drill; 5 overdue (status);
10 no repository; 11 busy; 12 wrong passphrase; 130 interrupted; 141 the reader of `dump` closed the pipe.

Example:
  icecore init && icecore backup sqlite memory.db && icecore restore latest --to restored";

/// Keeps the history of databases: consistent snapshots at about the price of what changed.
#[derive(Debug, Parser)]
#[command(name = "icecore", version, max_term_width = 120, after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(InitArgs),
    Backup(BackupArgs),
    Snapshots(SnapshotsArgs),
    /// Show all that is known about a snapshot
    #[command(after_help = "Example:\n  icecore show latest")]
    Show(ShowArgs),
    /// List the streams of a snapshot, and the tables of its databases
    #[command(after_help = "Examples:\n  icecore ls latest~1\n  icecore ls latest memory.db")]
    Ls(LsArgs),
    Stats(StatsArgs),
    Restore(RestoreArgs),
    Dump(DumpArgs),
    Export(ExportArgs),
    Drill(DrillArgs),
    Check(CheckArgs),
    Scrub(ScrubArgs),
    Repair(RepairArgs),
    Prune(PruneArgs),
    Forget(ForgetArgs),
    Protect(ProtectArgs),
    Mark(MarkArgs),
    Status(StatusArgs),
    Log(LogArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Take a snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  icecore backup sqlite memory.db")]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    pub(crate) what: BackupWhat,
}

/// What to take a snapshot of.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupWhat {
    Sqlite(SqliteArgs),
    Postgres(PostgresArgs),
    Files(FilesArgs),
    Command(CommandArgs),
}

/// Print what a shell needs to complete commands, options, and the names of snapshots and sources that this machine has seen
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  icecore completions bash > /usr/share/bash-completion/completions/icecore\n  icecore completions zsh > /usr/share/zsh/site-functions/_icecore\n  \
                        icecore completions fish > ~/.config/fish/completions/icecore.fish"
)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Print the manual page, or write a page for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  icecore man | man -l -\n  icecore man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Where the pages go
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::Args;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    /// The words of a line as a shell takes them: quotation marks, no substitutions; past `NAME=VALUE`, up to a pipe or a redirection.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for c in line.chars().chain([' ']) {
            match (c, quote) {
                ('\'' | '"', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                (' ', None) => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
                (c, _) => word.push(c),
            }
        }
        assert_eq!(quote, None, "{line}");
        let end = words.iter().position(|word| matches!(word.as_str(), ">" | "|"));
        words.truncate(end.unwrap_or(words.len()));
        // Settings for this command alone stand before it.
        let start = words.iter().position(|word| !word.contains('=')).unwrap_or(0);
        words.split_off(start)
    }

    /// The examples at the end of a command's help.
    fn examples(command: &clap::Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines: Vec<&str> = help.lines().skip_while(|line| !matches!(*line, "Example:" | "Examples:")).skip(1).collect();
        lines.iter().flat_map(|line| line.split("&&")).map(|line| line.trim().to_owned()).collect()
    }

    fn try_examples_of(command: &clap::Command, path: &str, tried: &mut usize) {
        let examples = examples(command);
        assert!(examples.iter().any(|example| example.contains(path)), "{path} has no example of itself");
        for example in &examples {
            let parsed = Args::try_parse_from(words(example));
            assert!(parsed.is_ok(), "{example}: {}", parsed.map(drop).expect_err("it is none"));
            *tried += 1;
        }
        command.get_subcommands().for_each(|below| try_examples_of(below, below.get_name(), tried));
    }

    #[test]
    fn every_command_has_examples_that_are_right() {
        let mut tried = 0;
        try_examples_of(&Args::command(), "icecore", &mut tried);
        assert!(tried > 30, "only {tried} examples were found");
    }
}
