//! The commands `backup sqlite`, `backup files` and `backup command`. `backup postgres` is in `postgres.rs` and shares the texts.
//!
//! Each parses its arguments, builds a source and calls one operation of the library.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use icecore::engine::Source;
use icecore::engine::command::CommandSource;
use icecore::engine::files::{FilesOptions, FilesSource, LeftOut, Selection};
use icecore::engine::sqlite::{ContentWhen, SqliteOptions, SqliteSource};
use icecore::ops::backup::{Recorded, Taken, perform};
use icecore::ops::journaled::{Report, Work};
use icecore::recorded::SourceKind;

use super::args::{BusyArgs, RecordArgs};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output::{self, count, printable};
use super::screen::{Screen, Tone};
use super::{environment, targets, time};

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

/// Options for how much is read.
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

/// When to sum up the tables of databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Content {
    /// As long as it is cheap.
    #[value(help = None)]
    Auto,
    /// For databases of any size.
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

/// `backup sqlite`.
pub(crate) fn sqlite(context: &Context<'_>, args: &SqliteArgs) -> Result<Exit, Failure> {
    let databases = args.files.iter().map(|argument| targets::database(argument)).collect::<Result<Vec<_>, _>>()?;
    let given = listed(databases.iter().map(|(_, path)| path));
    let content = args.content.when.into();
    let make = || -> icecore::Result<Box<dyn Source>> {
        Ok(Box::new(SqliteSource::new(databases, sqlite_options(context, content, &args.busy))?))
    };
    run(context, SourceKind::SQLITE, (&args.record, args.content.read_all), &given, make)
}

/// `backup files`.
pub(crate) fn files(context: &Context<'_>, args: &FilesArgs) -> Result<Exit, Failure> {
    // The repository and the catalogs are never part of a backup.
    let exclude = vec![context.repository_path()?, context.local_dir().to_path_buf()];
    let paths = args.paths.iter().map(|argument| targets::tree(argument)).collect::<Result<Vec<_>, _>>()?;
    let selection = selection(args)?;
    let given = listed(paths.iter().map(|(_, path)| path));
    let make = || -> icecore::Result<Box<dyn Source>> {
        let sqlite = sqlite_options(context, args.content.when.into(), &args.busy);
        Ok(Box::new(FilesSource::select(paths, FilesOptions { sqlite, exclude }, selection)?))
    };
    run(context, SourceKind::FILES, (&args.record, args.content.read_all), &given, make)
}

/// Patterns from files come first. So a pattern of the command line can take back in what they leave out.
fn selection(args: &FilesArgs) -> Result<Selection, Failure> {
    let mut exclude = Vec::new();
    for file in &args.exclude_file {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
        exclude.extend(text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(str::to_owned));
    }
    if let Some(void) = args.exclude.iter().find(|pattern| pattern.trim().is_empty() || pattern.starts_with('#')) {
        return Err(Failure::usage(format!("{void:?} is a comment, not a pattern; write \\# if the name begins with a #")));
    }
    exclude.extend(args.exclude.iter().cloned());
    Ok(Selection { exclude, one_file_system: args.one_file_system, exclude_caches: args.exclude_caches, xattrs: !args.no_xattrs })
}

/// `backup command`.
pub(crate) fn command(context: &Context<'_>, args: &CommandArgs) -> Result<Exit, Failure> {
    let make = || -> icecore::Result<Box<dyn Source>> {
        Ok(Box::new(CommandSource::new(args.name.clone(), args.command.clone(), environment::everything())?))
    };
    run(context, SourceKind::COMMAND, (&args.record, false), &args.name, make)
}

fn listed<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> String {
    paths.into_iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

impl From<Content> for ContentWhen {
    fn from(content: Content) -> Self {
        match content {
            Content::Auto => ContentWhen::Auto,
            Content::Always => ContentWhen::Always,
            Content::Never => ContentWhen::Never,
        }
    }
}

fn sqlite_options(context: &Context<'_>, content: ContentWhen, busy: &BusyArgs) -> SqliteOptions {
    // A database on read-only media is copied into the directory of the catalogs. Only its user can read that directory.
    let temp_dir = Some(context.local_dir().to_path_buf());
    SqliteOptions { busy_timeout: busy.busy_timeout, temp_dir, clock: SystemTime::now, content }
}

fn left_out_text(left_out: &LeftOut) -> Option<String> {
    let parts = [
        (left_out.excluded, "excluded"),
        (left_out.of_restores, "kept or left behind by icecore itself (*.pre_restore.TIME and the like)"),
        (left_out.other_file_systems, "on other file systems"),
        (left_out.caches, "in caches"),
        (left_out.special, "special files (pipes, sockets, devices)"),
    ];
    let parts: Vec<String> = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Opens the repository before the source, so that a source that does not exist leaves an entry in the journal.
fn run(
    context: &Context<'_>,
    kind: SourceKind,
    (args, read_all): (&RecordArgs, bool),
    given: &str,
    make: impl FnOnce() -> icecore::Result<Box<dyn Source>>,
) -> Result<Exit, Failure> {
    let recorded = Recorded { read_all, ..recorded(args)? };
    let repo = context.open()?;
    let progress = context.progress();
    let taken = perform(&Work { repo: &repo, worker: &context.worker(), monitor: &progress }, (&kind, given), &recorded, make)?;
    drop(progress);
    context.output.report_or_warn(&taken, |taken| text(taken, &context.output.screen), problems)?;
    Ok(taken.outcome().into())
}

/// The values that the arguments record with a snapshot.
pub(crate) fn recorded(args: &RecordArgs) -> Result<Recorded, Failure> {
    Ok(Recorded {
        time_ns: args.time.as_deref().map(time::parse).transpose()?,
        host: args.host.clone(),
        tags: args.tags.clone(),
        source: args.source.clone(),
        read_all: false,
    })
}

/// What the user can do about flags.
fn advice(taken: &Taken) -> Option<String> {
    (!taken.flags.is_empty()).then(|| format!("if that is right: icecore mark {} accept", taken.snapshot.short()))
}

/// The problems of a backup. Each line names the snapshot.
pub(crate) fn problems(taken: &Taken) -> Vec<String> {
    let of = format!("snapshot {} of {}", taken.snapshot.short(), taken.source);
    taken.wrong().chain(advice(taken)).map(|wrong| format!("{of}: {wrong}")).collect()
}

pub(crate) fn text(taken: &Taken, screen: &Screen) -> String {
    let after = taken.parent.map_or_else(|| "the first one".to_owned(), |parent| format!("after {}", parent.short()));
    let unchanged = match taken.unchanged_streams {
        0 => String::new(),
        number => format!(", {number} unchanged and not read"),
    };
    let mut text = format!(
        "snapshot {} of {}, {after}\n{}{unchanged}: {}; read {}, new {}, stored {}\ntook {}\n",
        taken.snapshot.short(),
        screen.name(&printable(&taken.source)),
        count(taken.streams, "stream"),
        output::bytes(taken.logical_bytes),
        output::bytes(taken.read_bytes),
        output::bytes(taken.new_bytes),
        output::bytes(taken.stored_bytes),
        output::took(taken.duration_us, taken.key_derivation_us, &[("reading", taken.capture_us)]),
    );
    if let Some(left_out) = left_out_text(&taken.left_out) {
        text.push_str(&format!("left out: {left_out}\n"));
    }
    for flag in &taken.accepted {
        text.push_str(&format!("accepted before: {}: {}\n", printable(&flag.code), printable(&flag.detail)));
    }
    taken.wrong().chain(advice(taken)).for_each(|line| text.push_str(&format!("{}\n", printable(&line))));
    text + &verdict(taken, screen)
}

/// The last line, if there is a problem: whether the snapshot counts as good.
fn verdict(taken: &Taken, screen: &Screen) -> String {
    let flagged: BTreeSet<Option<&[u8]>> = taken.flags.iter().map(|flag| flag.stream.as_deref()).collect();
    let (word, says) = match (flagged.contains(&None), flagged.len()) {
        (_, 0) if taken.skipped.is_empty() => return String::new(),
        (_, 0) => ("incomplete", format!("{} skipped; the snapshot counts as good", count(taken.skipped.len() as u64, "file"))),
        (true, _) => ("flagged", "the snapshot does not count as good".to_owned()),
        (false, number) if number as u64 >= taken.streams => ("flagged", "the snapshot does not count as good".to_owned()),
        (false, number) => ("flagged", format!("{} of the snapshot; the others count as good", count(number as u64, "stream"))),
    };
    format!("{}: {says}\n", screen.paint(Tone::Doubtful, word))
}
