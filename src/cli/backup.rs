//! `backup`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use icecore::engine::Source;
use icecore::engine::command::CommandSource;
use icecore::engine::files::{FilesOptions, FilesSource, LeftOut, Selection};
use icecore::engine::sqlite::{ContentWhen, SqliteOptions, SqliteSource};
use icecore::ops::backup::{BackupOptions, BackupReport, backup, source_of};
use icecore::ops::journal::{HOST_FACT, KIND_FACT, LABEL_FACT, Operation};
use icecore::recorded::SourceKind;
use icecore::store::repo::Repository;
use serde::Serialize;

use super::args::{BusyArgs, RecordArgs};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::journaled::{Story, journaled};
use super::output::{self, count, printable};
use super::progress::Progress;
use super::views::{FlagView, flags};
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

/// `backup sqlite`.
pub(crate) fn sqlite(context: &Context<'_>, args: &SqliteArgs) -> Result<Exit, Failure> {
    let databases = args.files.iter().map(|argument| targets::database(argument)).collect::<Result<Vec<_>, _>>()?;
    let given = listed(databases.iter().map(|(_, path)| path));
    let content = args.content.when.into();
    let make = || -> Result<Box<dyn Source>, Failure> {
        Ok(Box::new(SqliteSource::new(databases, sqlite_options(context, content, &args.busy))?))
    };
    run(context, SourceKind::SQLITE, (&args.record, args.content.read_all), &given, make)
}

/// `backup files`.
pub(crate) fn files(context: &Context<'_>, args: &FilesArgs) -> Result<Exit, Failure> {
    // What icecore itself keeps is no part of what it is to keep.
    let exclude = vec![context.repository_path()?, context.local_dir().to_path_buf()];
    let paths = args.paths.iter().map(|argument| targets::tree(argument)).collect::<Result<Vec<_>, _>>()?;
    let selection = selection(args)?;
    let given = listed(paths.iter().map(|(_, path)| path));
    let make = || -> Result<Box<dyn Source>, Failure> {
        let sqlite = sqlite_options(context, args.content.when.into(), &args.busy);
        Ok(Box::new(FilesSource::select(paths, FilesOptions { sqlite, exclude }, selection)?))
    };
    run(context, SourceKind::FILES, (&args.record, args.content.read_all), &given, make)
}

/// The patterns of files come first, so that those of the command line can take back in.
fn selection(args: &FilesArgs) -> Result<Selection, Failure> {
    let mut exclude = Vec::new();
    for file in &args.exclude_file {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
        exclude.extend(text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(str::to_owned));
    }
    if let Some(void) = args.exclude.iter().find(|pattern| pattern.trim().is_empty() || pattern.starts_with('#')) {
        return Err(Failure::usage(format!("{void:?} is no pattern but a comment; write \\# if the name begins with a #")));
    }
    exclude.extend(args.exclude.iter().cloned());
    Ok(Selection { exclude, one_file_system: args.one_file_system, exclude_caches: args.exclude_caches, xattrs: !args.no_xattrs })
}

/// `backup command`.
pub(crate) fn command(context: &Context<'_>, args: &CommandArgs) -> Result<Exit, Failure> {
    let make = || -> Result<Box<dyn Source>, Failure> {
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
    // A database on read-only media is copied to where the catalogs are: that place is the user's own, a temporary directory is not.
    let temp_dir = Some(context.local_dir().to_path_buf());
    SqliteOptions { busy_timeout: busy.busy_timeout, temp_dir, clock: SystemTime::now, content }
}

/// What a backup did, as it is reported.
#[derive(Serialize)]
pub(crate) struct Done {
    snapshot: String,
    parent: Option<String>,
    source: String,
    time: String,
    duration_ms: f64,
    capture_ms: f64,
    key_derivation_ms: f64,
    streams: u64,
    unchanged_streams: u64,
    logical_bytes: u64,
    read_bytes: u64,
    new_chunks: u64,
    new_bytes: u64,
    stored_bytes: u64,
    flags: Vec<FlagView>,
    /// What would be a flag, but was so in the last good snapshot, where a user accepted it.
    accepted: Vec<FlagView>,
    skipped: Vec<String>,
    left_out: LeftOutView,
    /// Stored anew, as the stored copies were damaged or gone.
    healed_chunks: u64,
    #[serde(skip)]
    short_ids: (String, Option<String>),
}

/// What was left out on purpose: entries, a directory with all that is in it as one.
#[derive(Serialize)]
struct LeftOutView {
    excluded: u64,
    kept_by_restores: u64,
    other_file_systems: u64,
    caches: u64,
    special_files: u64,
}

impl LeftOutView {
    fn of(left_out: &LeftOut) -> Self {
        LeftOutView {
            excluded: left_out.excluded,
            kept_by_restores: left_out.of_restores,
            other_file_systems: left_out.other_file_systems,
            caches: left_out.caches,
            special_files: left_out.special,
        }
    }

    fn text(&self) -> Option<String> {
        let parts = [
            (self.excluded, "excluded"),
            (self.kept_by_restores, "kept or left behind by icecore itself (*.pre_restore.TIME and the like)"),
            (self.other_file_systems, "on other file systems"),
            (self.caches, "in caches"),
            (self.special_files, "pipes, sockets or devices"),
        ];
        let parts: Vec<String> = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// The source is looked at with the repository open, so that one that is not there is in the journal too.
fn run(
    context: &Context<'_>,
    kind: SourceKind,
    (args, read_all): (&RecordArgs, bool),
    given: &str,
    make: impl FnOnce() -> Result<Box<dyn Source>, Failure>,
) -> Result<Exit, Failure> {
    let options = BackupOptions { read_all, ..options(args)? };
    let repo = context.open()?;
    journaled(context, &repo, Operation::Backup, |story| {
        name_source(story, &kind, args, given);
        let source = make()?;
        let progress = context.progress();
        let done = take(&repo, &progress, &*source, &options, story)?;
        drop(progress);
        context.output.report_or_warn(&done, Done::text, Done::problems)?;
        Ok(done.exit())
    })
}

/// What the journal calls the source, before it is known whether there is one.
pub(crate) fn name_source(story: &mut Story, kind: &SourceKind, args: &RecordArgs, given: &str) {
    story.detail = args.source.as_deref().unwrap_or(given).to_owned();
    let facts = [(LABEL_FACT, story.detail.as_str()), (KIND_FACT, kind.name()), (HOST_FACT, args.host.as_deref().unwrap_or_default())];
    let known = facts.into_iter().filter(|(_, value)| !value.is_empty());
    story.facts.extend(known.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// What is recorded with a snapshot that is taken now.
pub(crate) fn options(args: &RecordArgs) -> Result<BackupOptions, Failure> {
    let now_ns = time::now_ns();
    Ok(BackupOptions {
        time_ns: args.time.as_deref().map_or(Ok(now_ns), time::parse)?,
        now_ns,
        host: args.host.clone().unwrap_or_else(environment::host),
        user: environment::user(),
        tags: args.tags.clone(),
        source: args.source.clone(),
        read_all: false,
    })
}

/// Takes one snapshot, and tells of it.
pub(crate) fn take(
    repo: &Repository,
    progress: &Progress,
    source: &dyn Source,
    options: &BackupOptions,
    story: &mut Story,
) -> Result<Done, Failure> {
    story.source = Some(source_of(source, options).id);
    let report = backup(repo, source, options, progress)?;
    repo.warn_of_healed(progress);
    let done = Done::of(&report, repo.key_derivation().as_micros() as u64);
    story.snapshots.push(report.id);
    story.detail.push_str(&done.summary());
    Ok(done)
}

impl Done {
    fn of(report: &BackupReport, key_derivation_us: u64) -> Self {
        let record = &report.record;
        Done {
            snapshot: report.id.to_string(),
            parent: record.parent.map(|parent| parent.to_string()),
            source: record.source.label.clone(),
            time: time::utc(record.time_ns),
            duration_ms: output::ms(record.duration_us),
            capture_ms: output::ms(report.capture_us),
            key_derivation_ms: output::ms(key_derivation_us),
            streams: record.entries,
            unchanged_streams: report.unchanged_streams as u64,
            logical_bytes: record.logical_bytes,
            read_bytes: record.stats.read_bytes,
            new_chunks: record.stats.new_chunks,
            new_bytes: record.stats.new_plain_bytes,
            stored_bytes: record.stats.pack_bytes,
            flags: flags(&record.flags),
            accepted: flags(&record.accepted),
            skipped: report.skipped.clone(),
            left_out: LeftOutView::of(&report.left_out),
            healed_chunks: report.healed_chunks,
            short_ids: (report.id.short(), record.parent.map(|parent| parent.short())),
        }
    }

    /// What follows the label in the journal.
    fn summary(&self) -> String {
        let sizes = [self.logical_bytes, self.stored_bytes].map(output::bytes);
        let mut text = format!(": {} in {}, stored {}", sizes[0], count(self.streams, "stream"), sizes[1]);
        self.wrong().for_each(|wrong| text.push_str(&format!("; {wrong}")));
        text
    }

    /// What is not as it should be. What is flagged is not said again as skipped.
    fn wrong(&self) -> impl Iterator<Item = String> {
        let flagged = self.flags.iter().map(|flag| format!("flagged {}: {}", flag.code, flag.detail));
        let skipped = self.skipped.iter().filter(|line| self.flags.iter().all(|flag| flag.detail != **line));
        flagged.chain(skipped.map(|line| format!("skipped {}", line.replacen(": skipped: ", ": ", 1))))
    }

    /// What to do about flags.
    fn advice(&self) -> Option<String> {
        (!self.flags.is_empty()).then(|| format!("if that is right: icecore mark {} accept", self.short_ids.0))
    }

    /// What is not well, each with the snapshot that it is about.
    pub(crate) fn problems(&self) -> Vec<String> {
        let of = format!("snapshot {} of {}", self.short_ids.0, self.source);
        self.wrong().chain(self.advice()).map(|wrong| format!("{of}: {wrong}")).collect()
    }

    /// How the program ends if this is all that was done.
    pub(crate) fn exit(&self) -> Exit {
        if self.skipped.is_empty() && self.flags.is_empty() { Exit::Done } else { Exit::Incomplete }
    }

    pub(crate) fn text(&self) -> String {
        let after = self.short_ids.1.as_ref().map_or_else(|| "the first one".to_owned(), |parent| format!("after {parent}"));
        let unchanged = match self.unchanged_streams {
            0 => String::new(),
            number => format!(", {number} unchanged and not read"),
        };
        let mut text = format!(
            "snapshot {} of {}, {after}\n{}{unchanged}: {}; read {}, new {}, stored {}\ntook {} (reading {}{})\n",
            self.short_ids.0,
            printable(&self.source),
            count(self.streams, "stream"),
            output::bytes(self.logical_bytes),
            output::bytes(self.read_bytes),
            output::bytes(self.new_bytes),
            output::bytes(self.stored_bytes),
            output::duration(self.duration_ms),
            output::duration(self.capture_ms),
            output::key_derivation(self.key_derivation_ms),
        );
        if self.healed_chunks > 0 {
            text.push_str(&format!("{} stored anew: the stored copies were damaged or gone\n", count(self.healed_chunks, "chunk")));
        }
        if let Some(left_out) = self.left_out.text() {
            text.push_str(&format!("left out: {left_out}\n"));
        }
        for flag in &self.accepted {
            text.push_str(&format!("accepted before: {}: {}\n", printable(&flag.code), printable(&flag.detail)));
        }
        self.wrong().chain(self.advice()).for_each(|line| text.push_str(&format!("{}\n", printable(&line))));
        text
    }
}
