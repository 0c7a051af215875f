//! The arguments. Paths and stream names need not be UTF-8.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use icecore::store::format::parity::PARITY_PERCENT_MAX;

/// What `icecore --help` ends with.
const AFTER_HELP: &str = "\
Environment:
  ICECORE_REPOSITORY        the repository, if -R is not given
  ICECORE_PASSWORD          the passphrase
  ICECORE_PASSWORD_FILE     a file that holds it
  ICECORE_PASSWORD_COMMAND  a command for sh that prints it
  ICECORE_CACHE_DIR         where the local catalogs are (they can be deleted at any time)

SNAP is an id or the start of one, `latest`, `latest~N` (the Nth before it), or `@TIME` (the newest at or before TIME).
TIME is RFC 3339 (2026-11-23T03:15:00Z), or in the local time zone `2026-11-23 03:15`, or `2026-11-23` (its first moment).

Exit codes: 0 done; 1 failed; 2 usage; 3 done but incomplete or flagged; 4 damage found, or a failed drill; 5 overdue (status);
10 no repository; 11 busy; 12 wrong passphrase; 130 interrupted; 141 the reader of `dump` closed the pipe.

Example:
  icecore init && icecore backup sqlite memory.db && icecore restore latest --to restored";

/// Heads the options that every command takes.
const GLOBAL: &str = "Options of all commands";

/// Keeps the history of databases: consistent snapshots at about the price of what changed.
#[derive(Debug, Parser)]
#[command(name = "icecore", version, max_term_width = 120, after_help = AFTER_HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// The repository's directory [default: ICECORE_REPOSITORY, else .icecore]
    #[arg(short = 'R', long = "repo", value_name = "R", global = true, help_heading = GLOBAL)]
    pub(crate) repo: Option<OsString>,
    /// Print one JSON document, and errors as JSON lines
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,
    /// No progress, and no report of what went well
    #[arg(short, long, global = true, help_heading = GLOBAL, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say on standard error what is being done
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) verbose: bool,
    /// Open this repository, given by its id or the start of it, though this machine knows another one at its place
    #[arg(long, value_name = "ID", global = true, help_heading = GLOBAL, value_parser = repository_id)]
    pub(crate) accept_repository: Option<String>,
    /// Threads that work at once [default: one per core]
    #[arg(long, value_name = "N", global = true, help_heading = GLOBAL, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
}

/// Enough of an id that no other repository is meant.
fn repository_id(text: &str) -> Result<String, String> {
    let is_id = text.len() >= 12 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if is_id { Ok(text.to_owned()) } else { Err("at least the first 12 digits of the repository's id are needed".to_owned()) }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(InitArgs),
    Backup(BackupArgs),
    Snapshots(SnapshotsArgs),
    /// Show all that is known about a snapshot
    #[command(after_help = "Example:\n  icecore show latest")]
    Show(SnapArgs),
    /// List the streams of a snapshot
    #[command(after_help = "Example:\n  icecore ls latest~1")]
    Ls(SnapArgs),
    Stats(StatsArgs),
    Restore(RestoreArgs),
    Dump(DumpArgs),
    Export(super::export::ExportArgs),
    Drill(super::drill::DrillArgs),
    Check(super::check::CheckArgs),
    Scrub(super::scrub::ScrubArgs),
    Repair(super::repair::RepairArgs),
    Prune(PruneArgs),
    Forget(super::forget::ForgetArgs),
    Protect(super::mark::ProtectArgs),
    Mark(super::mark::MarkArgs),
    Status(super::status::StatusArgs),
    Log(super::log::LogArgs),
    Completions(super::manual::CompletionsArgs),
    Man(super::manual::ManArgs),
}

/// Make a repository
#[derive(Debug, clap::Args)]
#[command(after_help = "Parity is for bad sectors and flipped bits: a lost pack is not covered. It is for ever, like encryption.\n\n\
                        Examples:\n  icecore -R /srv/backup/brain init\n  icecore -R /mnt/usb/brain init --parity 3%")]
pub(crate) struct InitArgs {
    /// Store everything readable for anyone who can read the repository
    #[arg(long)]
    pub(crate) no_encryption: bool,
    /// Store parity in every pack, so much of it, and records twice: damage up to that is healed (1% to 50%)
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) parity: Option<u8>,
}

/// A whole number of percent, with its sign or without.
fn percent(text: &str) -> Result<u8, String> {
    let number: Option<u8> = text.trim().trim_end_matches('%').trim_end().parse().ok();
    let fits = number.filter(|percent| (1..=PARITY_PERCENT_MAX).contains(percent));
    fits.ok_or_else(|| format!("it is no whole number of percent from 1% to {PARITY_PERCENT_MAX}%"))
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
    Postgres(super::postgres::PostgresArgs),
    Files(FilesArgs),
    Command(CommandArgs),
}

/// Take one snapshot of SQLite databases, read at one instant
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A name for the stream can be put before the file: NAME=FILE. The first `=` divides them, if no `/` stands before it: \
                        give a file whose name has a `=` as ./a=b.db, or name it.\n\n\
                        Example:\n  icecore backup sqlite memory.db log=/var/lib/app/log.db --tag nightly"
)]
pub(crate) struct SqliteArgs {
    /// The databases; a stream's name is the file's unless given
    #[arg(value_name = "[NAME=]FILE", required = true)]
    pub(crate) files: Vec<OsString>,
    #[command(flatten)]
    pub(crate) content: ContentArgs,
    #[command(flatten)]
    pub(crate) busy: BusyArgs,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
}

/// How much is read: databases also as tables, files that look unchanged.
#[derive(Debug, clap::Args)]
pub(crate) struct ContentArgs {
    /// Record row counts and checksums of the tables, for `drill` to compare: `auto` does so up to 64 MiB of databases, and up to 4 MiB of
    /// those in rollback-journal mode, whose writers wait for it
    #[arg(long = "content", value_name = "WHEN", value_enum, default_value_t = Content::Auto)]
    pub(crate) when: Content,
    /// Read also what looks unchanged: a file that a program writes through a shared mapping gets its new times only later
    #[arg(long)]
    pub(crate) read_all: bool,
}

/// How long locks on databases are waited for.
#[derive(Debug, clap::Args)]
pub(crate) struct BusyArgs {
    /// How long to wait for a lock that somebody else holds on a database: 0, or a number with s, m, h or d
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = span)]
    pub(crate) busy_timeout: Duration,
}

/// A time span.
fn span(text: &str) -> Result<Duration, String> {
    super::prune::seconds(text).map(|seconds| Duration::from_secs(seconds.unsigned_abs())).map_err(|failure| failure.message)
}

/// When to sum up the tables of databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Content {
    /// As long as it is cheap.
    #[value(help = None)]
    Auto,
    /// Whatever it takes.
    #[value(help = None)]
    Always,
    /// Not at all.
    #[value(help = None)]
    Never,
}

/// Take one snapshot of files and directories; SQLite databases among them are read as such
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With one directory, names in the snapshot are relative to it; with several paths each begins with the last part of its path, or with as many parts \
as tell the paths apart, or with the NAME given. The first `=` divides NAME and PATH, if no `/` stands before it.\n\n\
Patterns follow the rules of .gitignore, in each directory given: `*.log` anywhere, `/tmp` at its top, `cache/` only directories, `!keep.log` takes back \
in; the last one that matches decides. What earlier restores kept (*.pre_restore.TIME) is left out, unless `--exclude '!*.pre_restore.*'` takes it back \
in. Pipes, sockets and devices are left out.\n\n\
Examples:\n  icecore backup files /var/lib/app --tag nightly\n  icecore backup files a=/srv/a/data b=/srv/b/data --exclude '*.log' --exclude-caches")]
pub(crate) struct FilesArgs {
    /// Files and directories
    #[arg(value_name = "[NAME=]PATH", required = true)]
    pub(crate) paths: Vec<OsString>,
    /// Leave out what this pattern matches; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Leave out what the patterns in this file match, one a line; --exclude comes after them
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude_file: Vec<PathBuf>,
    /// Leave out directories that have a CACHEDIR.TAG
    #[arg(long)]
    pub(crate) exclude_caches: bool,
    /// Leave out what is on other file systems
    #[arg(long)]
    pub(crate) one_file_system: bool,
    /// Store no access control lists, extended attributes and capabilities
    #[arg(long)]
    pub(crate) no_xattrs: bool,
    #[command(flatten)]
    pub(crate) content: ContentArgs,
    #[command(flatten)]
    pub(crate) busy: BusyArgs,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
}

/// Take a snapshot of what a command writes to its standard output; none if it fails. It runs once
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  icecore backup command --name users.ldif -- slapcat -b dc=example,dc=org")]
pub(crate) struct CommandArgs {
    /// The stream's name, which also names the source
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// The command; its arguments are not recorded
    #[arg(value_name = "CMD", required = true, last = true)]
    pub(crate) command: Vec<OsString>,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
}

/// What every backup records.
#[derive(Debug, clap::Args)]
pub(crate) struct RecordArgs {
    /// A word to record; may be given several times
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<String>,
    /// Names the source, so that its history goes on where host or paths change; a name of another kind of source is another source
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// The machine to record in place of this one: for containers, whose host names change
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) host: Option<String>,
    /// The time to record in place of now, for imports of history
    #[arg(long, value_name = "TIME")]
    pub(crate) time: Option<String>,
}

/// Narrows which snapshots are meant.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct FilterArgs {
    /// Only snapshots of this source: its name, or the start of its id
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// Only snapshots with this tag
    #[arg(long, value_name = "T")]
    pub(crate) tag: Option<String>,
    /// Only snapshots of this host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
}

/// List the snapshots, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  icecore snapshots --tag nightly")]
pub(crate) struct SnapshotsArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Show what the repository holds and what that costs, in all and by snapshot
#[derive(Debug, clap::Args)]
#[command(after_help = STATS_HELP)]
pub(crate) struct StatsArgs {
    /// Give only the newest N snapshots a row [default: 20 on a terminal, else all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
}

/// What `icecore stats --help` ends with.
const STATS_HELP: &str = "\
META is everything stored that is not encoded bytes of chunks: tree nodes, tables, padding, records, headers. DEPTH and WORK are mean/p99/max
over the chunks of the snapshot's streams: deltas down to a chunk that is stored whole, and frames to decode to read the chunk by itself.

With --json, for the repository and for each of `per_snapshot`:
  logical_bytes             the streams as plain copies
  new_chunks, new_bytes     chunks that were not there before, and their plain bytes
  stored_bytes, ratio       packs and record of the snapshot; logical bytes per stored byte
  raw_bytes, zstd_bytes, delta_bytes, patch_bytes
                            encoded chunks, by encoding
  metadata_bytes            the rest of stored_bytes; of it:
  node_bytes, table_bytes, padding_bytes, record_bytes
                            tree nodes, tables of packs, padding of packs, whole objects that are no packs
  stream_chunks             chunks in the streams
  depth, work               {mean, p99, max}; null if a tree cannot be read
The snapshots' stored_bytes and those of `other`, what no listed snapshot has stored, add up to stored_bytes of the repository.

Example:
  icecore stats --limit 100";

/// One snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct SnapArgs {
    /// An id or the start of one, `latest`, `latest~N` or `@TIME`
    #[arg(value_name = "SNAP")]
    pub(crate) snap: String,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Give a snapshot back, as files or as a PostgreSQL database; what was there is kept as NAME.pre_restore.TIMESTAMP (a database: NAME_pre_restore_TIMESTAMP)
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "icecore restore [OPTIONS] SNAP --to DIR\n       icecore restore [OPTIONS] SNAP NAME=DEST...\n       \
                      icecore restore [OPTIONS] --from-dir DIR NAME=DEST...\n       \
                      icecore restore [OPTIONS] SNAP --dsn DSN\n       icecore restore [OPTIONS] --from-file FILE.pgdump --dsn DSN",
    after_help = super::restore_server::AFTER_HELP
)]
pub(crate) struct RestoreArgs {
    /// An id or the start of one, `latest`, `latest~N` or `@TIME`
    #[arg(value_name = "SNAP", required_unless_present_any = ["from_dir", "from_file"], conflicts_with = "from_file")]
    pub(crate) snap: Option<OsString>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Restore these streams onto these files, and directories into these directories
    #[arg(value_name = "NAME=DEST")]
    pub(crate) streams: Vec<OsString>,
    /// Restore all streams into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "streams")]
    pub(crate) to: Option<PathBuf>,
    /// Restore files of an export, without a repository
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to", "source", "tag", "host"])]
    pub(crate) from_dir: Option<PathBuf>,
    /// Write into databases that others may have open, through SQLite
    #[arg(long, conflicts_with = "to")]
    pub(crate) live: bool,
    /// With --live: how long to wait for a lock that somebody else holds on a database [default: 5s]
    #[arg(long, value_name = "SPAN", requires = "live", value_parser = span)]
    pub(crate) busy_timeout: Option<Duration>,
    /// Put a database in place although SQLite finds it damaged
    #[arg(long)]
    pub(crate) accept_damaged: bool,
    /// Restore no access control lists, extended attributes and capabilities; modes give no more than the lists did
    #[arg(long, conflicts_with = "from_dir")]
    pub(crate) no_xattrs: bool,
    #[command(flatten)]
    pub(crate) server: super::restore_server::ServerArgs,
}

/// Write one stream to standard output, verified
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  icecore dump latest memory.db > memory.db")]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) snap: SnapArgs,
    /// The stream
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
}

/// How long marked packs wait.
pub(crate) const GRACE: &str = "24h";
/// How much of the packs that stay may be of no use, percent.
pub(crate) const MAX_UNUSED: u16 = 5;

/// Free the space that no snapshot needs any more
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Packs that are not needed are marked first, and deleted by a later prune once the grace time is over, so that backups that run \
                  meanwhile are not disturbed. Where nothing else uses the repository at this moment, --grace 0 does both at once.\n\n\
                  Examples:\n  icecore prune --dry-run\n  icecore prune --grace 0"
)]
pub(crate) struct PruneArgs {
    /// Show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How long marked packs wait before they are deleted: 0, or a number with s, m, h or d
    #[arg(long, value_name = "SPAN", default_value = GRACE)]
    pub(crate) grace: String,
    /// How much of the packs that stay may be of no use, percent of what is of use
    #[arg(long, value_name = "PERCENT", default_value_t = MAX_UNUSED)]
    pub(crate) max_unused: u16,
    /// The most to be written anew, MiB; the rest is left for the next time
    #[arg(long, value_name = "MIB")]
    pub(crate) max_repack: Option<u64>,
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
