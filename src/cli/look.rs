//! `snapshots`, `show`, `ls`.

use std::collections::BTreeMap;

use icecore::id::SnapshotId;
use icecore::progress::Monitor;
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::repo::{Reader, Repository};
use serde::Serialize;

use super::args::{FilterArgs, SnapArgs};
use super::columns::{Align, Table};
use super::context::{Context, filter, find_in};
use super::exit::{Exit, Failure};
use super::output::{self, count, printable};
use super::time;
use super::views::{ChainsView, CostView, SnapshotView, StreamView};

/// List the snapshots, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  icecore snapshots --tag nightly")]
pub(crate) struct SnapshotsArgs {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

#[derive(Serialize)]
struct Snapshots {
    snapshots: Vec<SnapshotView>,
    /// What is listed but cannot be read.
    unreadable: Vec<String>,
}

/// `snapshots`.
pub(crate) fn snapshots(context: &Context<'_>, args: &SnapshotsArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let refreshed = context.refresh(&repo, &context.progress())?;
    let unreadable: Vec<String> = refreshed.damage.iter().map(ToString::to_string).collect();
    let filter = filter(&args.filter);
    let passing = refreshed.snapshots.iter().filter(|(_, record)| filter.matches(record));
    let list = Snapshots { snapshots: passing.map(|(id, record)| SnapshotView::of(id, record, &refreshed)).collect(), unreadable };
    context.output.result(&list, Snapshots::text)?;
    if list.unreadable.is_empty() { Ok(Exit::Done) } else { Ok(Exit::Damaged) }
}

impl Snapshots {
    fn text(&self) -> String {
        if self.snapshots.is_empty() {
            return "no snapshots\n".into();
        }
        let left = ["TIME", "ID", "SOURCE", "TAGS"].map(|heading| (heading, Align::Left));
        let right = ["STREAMS", "SIZE", "NEW", "STORED"].map(|heading| (heading, Align::Right));
        let [time_column, id, source, tags] = left;
        let [streams, size, new, stored] = right;
        let mut table = Table::new([time_column, id, source, tags, streams, size, new, stored, ("FLAGS", Align::Left)]);
        for snapshot in &self.snapshots {
            table.row([
                time::local(snapshot.time_ns),
                snapshot.short_id.clone(),
                snapshot.source.label.clone(),
                snapshot.tags.join(","),
                snapshot.streams.to_string(),
                output::bytes(snapshot.logical_bytes),
                output::bytes(snapshot.new_bytes),
                output::bytes(snapshot.stored_bytes),
                snapshot.flag_codes(),
            ]);
        }
        table.text() + &format!("{}\n", count(self.snapshots.len() as u64, "snapshot"))
    }
}

/// A snapshot with its streams.
#[derive(Serialize)]
struct Show {
    snapshot: SnapshotView,
    facts: BTreeMap<String, String>,
    #[serde(flatten)]
    cost: CostView,
    #[serde(flatten)]
    chains: ChainsView,
    packs: Vec<PackView>,
    streams: Vec<StreamView>,
}

#[derive(Serialize)]
struct PackView {
    id: String,
    bytes: u64,
}

/// `show`.
pub(crate) fn show(context: &Context<'_>, args: &SnapArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let (snapshot, id, record, streams) = find_with_streams(context, &repo, args)?;
    let progress = context.progress();
    let (found, damage) = icecore::ops::stats::cost_of(&repo, &id, &record, &progress)?;
    damage.iter().for_each(|damage| progress.warn(&damage.to_string()));
    drop(progress);
    let show = Show {
        snapshot,
        facts: record.facts.iter().cloned().collect(),
        cost: CostView::of(&found.cost, Some(found.logical_bytes)),
        chains: ChainsView::of(found.chains.as_ref()),
        packs: record.packs.iter().map(|pack| PackView { id: pack.id.to_string(), bytes: pack.size }).collect(),
        streams,
    };
    context.output.result(&show, Show::text)?;
    if damage.is_empty() { Ok(Exit::Done) } else { Ok(Exit::Damaged) }
}

fn find_with_streams(
    context: &Context<'_>,
    repo: &Repository,
    args: &SnapArgs,
) -> Result<(SnapshotView, SnapshotId, SnapshotRecord, Vec<StreamView>), Failure> {
    let progress = context.progress();
    let refreshed = context.refresh(repo, &progress)?;
    let (id, record) = find_in(&refreshed, &args.snap, &args.filter)?;
    let listing = Reader::new(repo).listing(&record.listing, &progress)?;
    Ok((SnapshotView::of(id, record, &refreshed), *id, record.clone(), listing.iter().map(StreamView::of).collect()))
}

impl Show {
    fn text(&self) -> String {
        let snapshot = &self.snapshot;
        let mut lines = vec![
            ("snapshot", snapshot.id.clone()),
            ("time", time::local(snapshot.time_ns)),
            ("source", format!("{} ({}, {})", snapshot.source.label, snapshot.source.kind, snapshot.source.id)),
            ("parent", snapshot.parent.clone().unwrap_or_else(|| "none".into())),
            ("host", snapshot.host.clone()),
            ("user", snapshot.user.clone()),
            ("tags", snapshot.tags.join(",")),
            ("made by", format!("{}, in {}", snapshot.tool, output::duration(snapshot.duration_ms))),
            ("size", format!("{} in {}", output::bytes(snapshot.logical_bytes), count(snapshot.streams, "stream"))),
            ("read", output::bytes(snapshot.read_bytes)),
            ("new", format!("{} in {}", output::bytes(snapshot.new_bytes), count(snapshot.new_chunks, "chunk"))),
            (
                "stored",
                format!("{}, ratio {}; {}", output::bytes(self.cost.stored_bytes), self.cost.shown_ratio(), self.cost.shown_encodings()),
            ),
            ("metadata", self.cost.shown_metadata()),
            ("depth", self.chains.shown_depth()),
            ("work", self.chains.shown_work()),
        ];
        lines.extend(snapshot.flags.iter().map(|flag| ("flagged", format!("{}: {}", flag.code, flag.detail))));
        lines.extend(snapshot.accepted.iter().map(|flag| ("accepted", format!("{}: {}", flag.code, flag.detail))));
        lines.extend(snapshot.protected.then(|| ("protected", "yes".to_owned())));
        let found = |whole| if whole { "whole" } else { "damaged" };
        lines.extend(snapshot.checked.as_ref().map(|seen| ("checked", format!("{}, {}", time::local(seen.time_ns), found(seen.whole)))));
        lines.extend(self.facts.iter().map(|(name, value)| (name.as_str(), value.clone())));
        lines.extend(self.packs.iter().map(|pack| ("pack", format!("{} {}", pack.id, output::bytes(pack.bytes)))));
        let mut text = String::new();
        for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("{:<9} {}\n", printable(name), printable(&value)));
        }
        let mut table = Table::new([("STREAM", Align::Left), ("KIND", Align::Left), ("SIZE", Align::Right), ("FACTS", Align::Left)]);
        for stream in &self.streams {
            table.row([stream.named.name.clone(), stream.kind.to_owned(), output::bytes(stream.bytes), facts_of(stream)]);
        }
        text + "\n" + &table.text()
    }
}

/// What is special about a stream, for people.
fn facts_of(stream: &StreamView) -> String {
    let Some(facts) = &stream.sqlite else {
        return stream.target.as_ref().map_or_else(String::new, |target| format!("-> {target}"));
    };
    format!(
        "{} pages of {} B, {} free, {}, {}, user_version {}, application_id {}, change counter {}, schema cookie {}",
        facts.page_count,
        facts.page_size,
        facts.freelist_pages,
        facts.journal_mode,
        facts.encoding,
        facts.user_version,
        facts.application_id,
        facts.change_counter,
        facts.schema_cookie,
    )
}

#[derive(Serialize)]
struct Listing {
    snapshot: String,
    streams: Vec<StreamView>,
}

/// `ls`.
pub(crate) fn ls(context: &Context<'_>, args: &SnapArgs) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let (snapshot, _, _, streams) = find_with_streams(context, &repo, args)?;
    context.output.result(&Listing { snapshot: snapshot.id, streams }, Listing::text)?;
    Ok(Exit::Done)
}

impl Listing {
    fn text(&self) -> String {
        let columns =
            [("MODE", Align::Left), ("SIZE", Align::Right), ("MODIFIED", Align::Left), ("KIND", Align::Left), ("NAME", Align::Left)];
        let mut table = Table::new(columns);
        for stream in &self.streams {
            let name = match &stream.target {
                Some(target) => format!("{} -> {target}", stream.named.name),
                None => stream.named.name.clone(),
            };
            let unknown = || "-".to_owned();
            table.row([
                stream.mode.clone().unwrap_or_else(unknown),
                output::bytes(stream.bytes),
                stream.mtime_ns.map_or_else(unknown, time::local),
                stream.kind.to_owned(),
                name,
            ]);
        }
        table.text()
    }
}
