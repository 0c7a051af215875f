//! `snapshots`, `show`, `ls`.

use icecore::ops::journaled::Report;
use icecore::ops::list::{self, Contents, Details, ListedStream, SnapshotInfo, Snapshots};
use icecore::ops::stats::{Chains, Spread};

use super::args::{FilterArgs, SnapArgs};
use super::columns::{Align, Table};
use super::context::{Context, filter, wanted};
use super::exit::{Exit, Failure};
use super::output::{self, count, printable};
use super::stats::{shown_encodings, shown_metadata, shown_ratio, shown_spread};
use super::time;

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
    context.output.result(&list, list_text)?;
    Ok(list.outcome().into())
}

fn list_text(list: &Snapshots) -> String {
    if list.snapshots.is_empty() {
        return "no snapshots\n".into();
    }
    let left = ["TIME", "ID", "SOURCE", "TAGS"].map(|heading| (heading, Align::Left));
    let right = ["STREAMS", "SIZE", "NEW", "STORED"].map(|heading| (heading, Align::Right));
    let [time_column, id, source, tags] = left;
    let [streams, size, new, stored] = right;
    let mut table = Table::new([time_column, id, source, tags, streams, size, new, stored, ("FLAGS", Align::Left)]);
    for snapshot in &list.snapshots {
        table.row([
            time::local(snapshot.time_ns),
            snapshot.id.short(),
            snapshot.source.label.clone(),
            snapshot.tags.join(","),
            snapshot.streams.to_string(),
            output::bytes(snapshot.logical_bytes),
            output::bytes(snapshot.new_bytes),
            output::bytes(snapshot.stored_bytes),
            flag_codes(snapshot),
        ]);
    }
    table.text() + &format!("{}\n", count(list.snapshots.len() as u64, "snapshot"))
}

/// Whether it is protected, and the codes of its flags, for people.
pub(crate) fn flag_codes(snapshot: &SnapshotInfo) -> String {
    let is_protected = snapshot.protected.then_some("protected");
    let mut codes: Vec<&str> = is_protected.into_iter().chain(snapshot.flags.iter().map(|flag| flag.code.as_str())).collect();
    codes.dedup();
    codes.join(",")
}

/// `show`.
pub(crate) fn show(context: &Context<'_>, args: &SnapArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    let refreshed = context.refresh(&repo, &progress)?;
    let details = list::details(&repo, &refreshed, &wanted(&args.snap, &args.filter)?, &progress)?;
    drop(progress);
    context.output.result(&details, details_text)?;
    Ok(details.outcome().into())
}

fn details_text(details: &Details) -> String {
    let snapshot = &details.snapshot;
    let chains = |of: fn(&Chains) -> Spread| details.chains.as_ref().map_or_else(String::new, |chains| shown_spread(&of(chains)));
    let mut lines = vec![
        ("snapshot", snapshot.id.to_string()),
        ("time", time::local(snapshot.time_ns)),
        ("source", format!("{} ({}, {})", snapshot.source.label, snapshot.source.kind.name(), snapshot.source.id)),
        ("parent", snapshot.parent.map_or_else(|| "none".to_owned(), |parent| parent.to_string())),
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
    lines.extend(snapshot.checked.map(|seen| ("checked", format!("{}, {}", time::local(seen.time_ns), found(seen.whole)))));
    lines.extend(details.facts.iter().map(|(name, value)| (name.as_str(), value.clone())));
    lines.extend(details.packs.iter().map(|pack| ("pack", format!("{} {}", pack.id, output::bytes(pack.bytes)))));
    let mut text = String::new();
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("{:<9} {}\n", printable(name), printable(&value)));
    }
    let mut table = Table::new([("STREAM", Align::Left), ("KIND", Align::Left), ("SIZE", Align::Right), ("FACTS", Align::Left)]);
    for stream in &details.streams {
        table.row([shown_name(&stream.name), stream.kind.to_owned(), output::bytes(stream.bytes), facts_of(stream)]);
    }
    text + "\n" + &table.text()
}

/// What is special about a stream, for people.
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

/// Characters that are none are replaced.
fn shown_name(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// `ls`.
pub(crate) fn ls(context: &Context<'_>, args: &SnapArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    let refreshed = context.refresh(&repo, &progress)?;
    let contents = list::contents(&repo, &refreshed, &wanted(&args.snap, &args.filter)?, &progress)?;
    drop(progress);
    context.output.result(&contents, contents_text)?;
    Ok(Exit::Done)
}

fn contents_text(contents: &Contents) -> String {
    let columns = [("MODE", Align::Left), ("SIZE", Align::Right), ("MODIFIED", Align::Left), ("KIND", Align::Left), ("NAME", Align::Left)];
    let mut table = Table::new(columns);
    for stream in &contents.streams {
        let name = match &stream.target {
            Some(target) => format!("{} -> {}", shown_name(&stream.name), shown_name(target)),
            None => shown_name(&stream.name),
        };
        let unknown = || "-".to_owned();
        table.row([
            stream.meta.as_ref().map_or_else(unknown, |meta| format!("{:04o}", meta.mode)),
            output::bytes(stream.bytes),
            stream.meta.as_ref().map_or_else(unknown, |meta| time::local(meta.mtime_ns)),
            stream.kind.to_owned(),
            name,
        ]);
    }
    table.text()
}
