//! The commands `snapshots`, `show` and `ls`. They only read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use icecore::ops::journaled::Report;
use icecore::ops::list::{self, Contents, Details, ListedStream, Part, SnapshotInfo, Snapshots};
use icecore::ops::stats::{Chains, Spread};

use super::args::{FilterArgs, SnapArgs};
use super::columns::{Column, Table};
use super::context::{Context, filter, wanted};
use super::exit::{Exit, Failure};
use super::findings::short_ids;
use super::output::{self, count, printable};
use super::screen::{Screen, Tone};
use super::stats::{shown_encodings, shown_metadata, shown_ratio, shown_spread};
use super::{tables, time};

/// List the snapshots, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  icecore snapshots --tag nightly")]
pub(crate) struct SnapshotsArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// `snapshots`.
pub(crate) fn snapshots(context: &Context<'_>, args: &SnapshotsArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let refreshed = context.refresh(&repo, &context.progress())?;
    let filter = filter(&args.filter);
    filter.unknown_source(&refreshed.snapshots).iter().for_each(|unknown| context.output.warn(unknown));
    let list = list::snapshots(&refreshed, &filter);
    context.output.result(&list, |list| list_text(list, &context.output.screen))?;
    Ok(list.outcome().into())
}

fn list_text(list: &Snapshots, screen: &Screen) -> String {
    if list.snapshots.is_empty() {
        return "no snapshots\n".into();
    }
    let age = screen.now_ns.map(|_| Column::right("AGE").rank(2));
    let left =
        [Column::left("TIME").rank(8), Column::left("ID"), Column::left("SOURCE").shortened(12), Column::left("TAGS").shortened(8).rank(4)];
    let right = [("STREAMS", 1), ("SIZE", 6), ("NEW", 3), ("STORED", 5)].map(|(heading, rank)| Column::right(heading).rank(rank));
    let flags = Column::left("FLAGS").shortened(9).rank(7);
    let mut table = Table::new(age.into_iter().chain(left).chain(right).chain([flags]));
    for snapshot in &list.snapshots {
        let age = screen.now_ns.map(|now_ns| time::ago(snapshot.time_ns, now_ns));
        table.row(age.into_iter().chain([
            screen.time(snapshot.time_ns),
            snapshot.id.short(),
            snapshot.source.label.clone(),
            snapshot.tags.join(","),
            snapshot.streams.to_string(),
            output::bytes(snapshot.logical_bytes),
            output::bytes(snapshot.new_bytes),
            output::bytes(snapshot.stored_bytes),
            flag_codes(snapshot),
        ]));
        table.paint("AGE", Some(Tone::Aside));
        table.paint("FLAGS", flag_tone(snapshot));
    }
    table.text(screen) + &format!("{}\n", count(list.snapshots.len() as u64, "snapshot"))
}

/// How a snapshot with these flags is shown.
pub(crate) fn flag_tone(snapshot: &SnapshotInfo) -> Option<Tone> {
    (!snapshot.flags.is_empty()).then_some(Tone::Doubtful)
}

/// Whether it is protected, and the codes of its flags, for people.
pub(crate) fn flag_codes(snapshot: &SnapshotInfo) -> String {
    let is_protected = snapshot.protected.then_some("protected");
    let mut codes: Vec<&str> = is_protected.into_iter().chain(snapshot.flags.iter().map(|flag| flag.code.as_str())).collect();
    codes.dedup();
    codes.join(",")
}

/// What `show` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    snap: SnapArgs,
    /// Show all tables, not only the largest
    #[arg(long)]
    all: bool,
}

/// `show`.
pub(crate) fn show(context: &Context<'_>, args: &ShowArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    let refreshed = context.refresh(&repo, &progress)?;
    let details = list::details(&repo, &refreshed, &wanted(&args.snap.snap, &args.snap.filter)?, &progress)?;
    drop(progress);
    context.output.result(&details, |details| {
        details_text(details, &context.output.screen) + &tables::text(&details.streams, args.all, &context.output.screen)
    })?;
    Ok(details.outcome().into())
}

fn details_text(details: &Details, screen: &Screen) -> String {
    let snapshot = &details.snapshot;
    let chains = |of: fn(&Chains) -> Spread| details.chains.as_ref().map_or_else(String::new, |chains| shown_spread(&of(chains)));
    let source_id = short_ids(&snapshot.source.id.to_string());
    let mut lines = vec![
        ("snapshot", snapshot.id.short()),
        ("time", screen.time_and_age(snapshot.time_ns)),
        ("source", format!("{} ({}, {source_id})", screen.name(&snapshot.source.label), snapshot.source.kind.name())),
        ("parent", snapshot.parent.map_or_else(|| "none".to_owned(), |parent| parent.short())),
        ("host", snapshot.host.clone()),
        ("user", snapshot.user.clone()),
        ("tags", snapshot.tags.join(",")),
        ("made by", format!("{}, in {}", snapshot.tool, output::duration(output::ms(snapshot.duration_us)))),
        ("size", format!("{} in {}", output::bytes(snapshot.logical_bytes), count(snapshot.streams, "stream"))),
        ("read", output::bytes(snapshot.read_bytes)),
        ("new", format!("{} in {}", output::bytes(snapshot.new_bytes), count(snapshot.new_chunks, "chunk"))),
        (
            "stored",
            format!(
                "{}, ratio {}; {}",
                output::bytes(details.cost.stored_bytes),
                shown_ratio(details.ratio),
                shown_encodings(&details.cost)
            ),
        ),
        ("metadata", shown_metadata(&details.cost)),
        ("depth", chains(|chains| chains.level)),
        ("work", chains(|chains| chains.work)),
    ];
    lines.extend(snapshot.flags.iter().map(|flag| ("flagged", format!("{}: {}", flag.code, flag.detail))));
    lines.extend(snapshot.accepted.iter().map(|flag| ("accepted", format!("{}: {}", flag.code, flag.detail))));
    lines.extend(snapshot.protected.then(|| ("protected", "yes".to_owned())));
    let found = |whole| if whole { "whole" } else { "damaged" };
    lines.extend(snapshot.checked.map(|seen| ("checked", format!("{}, {}", screen.time_and_age(seen.time_ns), found(seen.whole)))));
    lines.extend(details.facts.iter().map(|(name, value)| (name.as_str(), value.clone())));
    lines.extend(details.packs.iter().map(|pack| ("pack", format!("{} {}", short_ids(&pack.id.to_string()), output::bytes(pack.bytes)))));
    let lines = lines.into_iter().filter(|(_, value)| !value.is_empty());
    let text = screen.facts(9, lines.map(|(name, value)| (printable(name), printable(&value))));
    let columns = [Column::left("STREAM").shortened(20), Column::left("KIND"), Column::right("SIZE")];
    let mut table = Table::new(columns.into_iter().chain([Column::left("FACTS").in_lines(30).rank(1)]));
    for stream in &details.streams {
        table.row([shown_name(&stream.name), stream.kind.to_owned(), output::bytes(stream.bytes), facts_of(stream)]);
    }
    text + "\n" + &table.text(screen)
}

/// Facts about a database, or the target of a link.
fn facts_of(stream: &ListedStream) -> String {
    let Some(facts) = &stream.sqlite else {
        return stream.target.as_ref().map_or_else(String::new, |target| format!("-> {}", shown_name(target)));
    };
    format!(
        "{} pages of {} B, {} free, {}, {}, user_version {}, application_id {}, change counter {}, schema cookie {}",
        facts.page_count,
        facts.page_size,
        facts.freelist_pages,
        facts.journal_mode(),
        facts.encoding_name(),
        facts.user_version,
        facts.application_id,
        facts.change_counter,
        facts.schema_cookie,
    )
}

/// The name as text. Bytes that are not UTF-8 are replaced.
fn shown_name(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// What `ls` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    snap: SnapArgs,
    /// Only these streams, and what is in these directories; with the rows of their tables
    #[arg(value_name = "NAME")]
    names: Vec<OsString>,
    /// Show how many rows the tables of databases had, where that was recorded
    #[arg(long)]
    tables: bool,
    /// Show all tables, not only the largest
    #[arg(long)]
    all: bool,
}

/// `ls`.
pub(crate) fn ls(context: &Context<'_>, args: &LsArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    let refreshed = context.refresh(&repo, &progress)?;
    let part = Part {
        names: args.names.iter().map(|name| name.as_bytes().to_vec()).collect(),
        tables: args.tables || args.all || !args.names.is_empty(),
    };
    let contents = list::contents(&repo, &refreshed, &wanted(&args.snap.snap, &args.snap.filter)?, &part, &progress)?;
    drop(progress);
    context.output.result(&contents, |contents| {
        contents_text(contents, &context.output.screen) + &tables::text(&contents.streams, args.all, &context.output.screen)
    })?;
    Ok(Exit::Done)
}

fn contents_text(contents: &Contents, screen: &Screen) -> String {
    let mode_to_kind =
        [Column::left("MODE").rank(1), Column::right("SIZE"), Column::left("MODIFIED").rank(2), Column::left("KIND").rank(3)];
    let mut table = Table::new(mode_to_kind.into_iter().chain([Column::left("NAME").shortened(20)]));
    for stream in &contents.streams {
        let name = match &stream.target {
            Some(target) => format!("{} -> {}", shown_name(&stream.name), shown_name(target)),
            None => shown_name(&stream.name),
        };
        let unknown = || "-".to_owned();
        table.row([
            stream.meta.as_ref().map_or_else(unknown, |meta| format!("{:04o}", meta.mode)),
            output::bytes(stream.bytes),
            stream.meta.as_ref().map_or_else(unknown, |meta| screen.time(meta.mtime_ns)),
            stream.kind.to_owned(),
            name,
        ]);
    }
    table.text(screen)
}
