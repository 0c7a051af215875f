//! `snapshots`, `show`, `ls`, `stats`.

use std::collections::BTreeMap;

use icecore::format::snapshot::SnapshotRecord;
use icecore::progress::Monitor;
use icecore::repo::{Reader, Repository};
use serde::Serialize;

use super::args::{SnapArgs, SnapshotsArgs};
use super::context::{Context, filter, find_in};
use super::exit::{Exit, Failure};
use super::output::{self, count, printable};
use super::table::{Align, Table};
use super::time;
use super::views::{SnapshotView, StreamView};

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
    raw_bytes: u64,
    zstd_bytes: u64,
    delta_bytes: u64,
    node_bytes: u64,
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
    let (snapshot, record, streams) = find_with_streams(context, &repo, args)?;
    let show = Show {
        snapshot,
        facts: record.facts.iter().cloned().collect(),
        raw_bytes: record.stats.raw_bytes,
        zstd_bytes: record.stats.zstd_bytes,
        delta_bytes: record.stats.delta_bytes,
        node_bytes: record.stats.node_bytes,
        packs: record.packs.iter().map(|pack| PackView { id: pack.id.to_string(), bytes: pack.size }).collect(),
        streams,
    };
    context.output.result(&show, Show::text)?;
    Ok(Exit::Done)
}

fn find_with_streams(
    context: &Context<'_>,
    repo: &Repository,
    args: &SnapArgs,
) -> Result<(SnapshotView, SnapshotRecord, Vec<StreamView>), Failure> {
    let progress = context.progress();
    let refreshed = context.refresh(repo, &progress)?;
    let (id, record) = find_in(&refreshed, &args.snap, &args.filter)?;
    let listing = Reader::new(repo).listing(&record.listing)?;
    Ok((SnapshotView::of(id, record, &refreshed), record.clone(), listing.iter().map(StreamView::of).collect()))
}

impl Show {
    fn text(&self) -> String {
        let snapshot = &self.snapshot;
        let stored = [("raw", self.raw_bytes), ("zstd", self.zstd_bytes), ("deltas", self.delta_bytes), ("nodes", self.node_bytes)];
        let stored = stored.map(|(kind, size)| format!("{kind} {}", output::bytes(size))).join(", ");
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
            ("stored", format!("{} in {} ({stored})", output::bytes(snapshot.stored_bytes), count(self.packs.len() as u64, "pack"))),
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
            text.push_str(&format!("{:<9} {}\n", printable(name), printable(&value).replace('\n', "\\n")));
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
    let (snapshot, _, streams) = find_with_streams(context, &repo, args)?;
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

#[derive(Serialize)]
struct Stats {
    repository: String,
    location: String,
    encrypted: bool,
    snapshots: u64,
    logical_bytes: u64,
    stored_bytes: u64,
    /// Logical bytes per stored byte.
    ratio: Option<f64>,
    packs: u64,
    pack_bytes: u64,
    chunks: u64,
    new_bytes: u64,
    raw_bytes: u64,
    zstd_bytes: u64,
    delta_bytes: u64,
    node_bytes: u64,
}

/// `stats`.
pub(crate) fn stats(context: &Context<'_>) -> Result<Exit, Failure> {
    let repo = context.open()?;
    let progress = context.progress();
    progress.phase("adding up", None);
    let sums = icecore::ops::stats::stats(&repo)?;
    drop(progress);
    let stats = Stats {
        repository: repo.config().repository.to_string(),
        location: repo.backend().location(),
        encrypted: repo.config().encrypted,
        snapshots: sums.snapshots,
        logical_bytes: sums.logical_bytes,
        stored_bytes: sums.stored_bytes,
        ratio: (sums.stored_bytes > 0).then(|| sums.logical_bytes as f64 / sums.stored_bytes as f64),
        packs: sums.packs,
        pack_bytes: sums.pack_bytes,
        chunks: sums.chunks,
        new_bytes: sums.plain_bytes,
        raw_bytes: sums.raw_bytes,
        zstd_bytes: sums.zstd_bytes,
        delta_bytes: sums.delta_bytes,
        node_bytes: sums.node_bytes,
    };
    context.output.result(&stats, Stats::text)?;
    Ok(Exit::Done)
}

impl Stats {
    fn text(&self) -> String {
        let ratio = self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}"));
        let lines = [
            ("repository", format!("{} in {}", self.repository, self.location)),
            ("encrypted", if self.encrypted { "yes".to_owned() } else { "no".to_owned() }),
            ("snapshots", format!("{}, together {}", self.snapshots, output::bytes(self.logical_bytes))),
            ("stored", format!("{}, ratio {ratio}", output::bytes(self.stored_bytes))),
            ("packs", format!("{}, {}", self.packs, output::bytes(self.pack_bytes))),
            ("chunks", format!("{}, new {}", self.chunks, output::bytes(self.new_bytes))),
            ("raw", output::bytes(self.raw_bytes)),
            ("zstd", output::bytes(self.zstd_bytes)),
            ("deltas", output::bytes(self.delta_bytes)),
            ("nodes", output::bytes(self.node_bytes)),
        ];
        lines.map(|(name, value)| format!("{name:<11} {}\n", printable(&value))).concat()
    }
}
