//! `backup`.

use std::path::PathBuf;
use std::time::SystemTime;

use icecore::ops::backup::{BackupOptions, BackupReport, backup, source_of};
use icecore::ops::journal::{LABEL_FACT, Operation};
use icecore::repo::Repository;
use icecore::source::Source;
use icecore::source::files::{FilesOptions, FilesSource};
use icecore::source::sqlite::{BUSY_TIMEOUT, SqliteOptions, SqliteSource};
use serde::Serialize;

use super::args::{FilesArgs, RecordArgs, SqliteArgs};
use super::context::Context;
use super::exit::{Exit, Failure};
use super::journal::{Story, journaled};
use super::output::{self, count, printable};
use super::views::{FlagView, flags};
use super::{environment, names, time};

/// `backup sqlite`.
pub(crate) fn sqlite(context: &Context<'_>, args: &SqliteArgs) -> Result<Exit, Failure> {
    let databases = args.files.iter().map(|argument| names::database(argument)).collect::<Result<Vec<_>, _>>()?;
    let given: Vec<PathBuf> = databases.iter().map(|(_, path)| path.clone()).collect();
    run(context, &args.record, &given, || Ok(Box::new(SqliteSource::new(databases, sqlite_options()?)?)))
}

/// `backup files`.
pub(crate) fn files(context: &Context<'_>, args: &FilesArgs) -> Result<Exit, Failure> {
    // What icecore itself keeps is no part of what it is to keep.
    let exclude = vec![context.repository_path()?, environment::cache_dir()?];
    let make = || -> Result<Box<dyn Source>, Failure> {
        Ok(Box::new(FilesSource::new(args.paths.clone(), FilesOptions { sqlite: sqlite_options()?, exclude })?))
    };
    run(context, &args.record, &args.paths, make)
}

fn sqlite_options() -> Result<SqliteOptions, Failure> {
    // A database on read-only media is copied to where the catalogs are: that place is the user's own, a temporary directory is not.
    Ok(SqliteOptions { busy_timeout: BUSY_TIMEOUT, temp_dir: Some(environment::cache_dir()?), clock: SystemTime::now })
}

#[derive(Serialize)]
struct Done {
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
    skipped: Vec<String>,
    #[serde(skip)]
    short_ids: (String, Option<String>),
}

/// The source is looked at with the repository open, so that one that is not there is in the journal too.
fn run(
    context: &Context<'_>,
    args: &RecordArgs,
    given: &[PathBuf],
    make: impl FnOnce() -> Result<Box<dyn Source>, Failure>,
) -> Result<Exit, Failure> {
    let now_ns = time::now_ns();
    let options = BackupOptions {
        time_ns: args.time.as_deref().map_or(Ok(now_ns), time::parse)?,
        now_ns,
        host: environment::host(),
        user: environment::user(),
        tags: args.tags.clone(),
        source: args.source.clone(),
    };
    let repo = context.open()?;
    journaled(context, &repo, Operation::Backup, |story| {
        let paths = || given.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(" ");
        story.detail = args.source.clone().unwrap_or_else(paths);
        story.facts.push((LABEL_FACT.to_owned(), story.detail.clone()));
        let source = make()?;
        take(context, &repo, &*source, &options, story)
    })
}

fn take(
    context: &Context<'_>,
    repo: &Repository,
    source: &dyn Source,
    options: &BackupOptions,
    story: &mut Story,
) -> Result<Exit, Failure> {
    story.source = Some(source_of(source, options).id);
    let progress = context.progress();
    let report = backup(repo, source, options, &progress)?;
    drop(progress);
    let done = Done::of(&report, repo.key_derivation().as_micros() as u64);
    story.snapshots.push(report.id);
    story.detail.push_str(&done.summary());
    context.output.report(&done, Done::text)?;
    match report.skipped.is_empty() && report.record.flags.is_empty() {
        true => Ok(Exit::Done),
        false => Ok(Exit::Incomplete),
    }
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
            skipped: report.skipped.clone(),
            short_ids: (report.id.short(), record.parent.map(|parent| parent.short())),
        }
    }

    /// What follows the label in the journal.
    fn summary(&self) -> String {
        let sizes = [self.logical_bytes, self.stored_bytes].map(output::bytes);
        let mut text = format!(": {} in {}, stored {}", sizes[0], count(self.streams, "stream"), sizes[1]);
        self.flags.iter().for_each(|flag| text.push_str(&format!("; flagged {}: {}", flag.code, flag.detail)));
        self.skipped.iter().for_each(|skipped| text.push_str(&format!("; skipped {skipped}")));
        text
    }

    fn text(&self) -> String {
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
        for flag in &self.flags {
            text.push_str(&format!("flagged {}: {}\n", printable(&flag.code), printable(&flag.detail)));
        }
        for skipped in &self.skipped {
            text.push_str(&format!("skipped {}\n", printable(skipped)));
        }
        text
    }
}
