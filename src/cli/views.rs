//! The JSON forms of what the library returns. Field names carry their unit; the text for people is made of the same values.

use std::collections::BTreeMap;
use std::path::Path;

use icecore::id::{SnapshotId, to_hex};
use icecore::ops::stats::{Chains, Cost, Spread};
use icecore::recorded::{EntryKind, Flag, SqliteFacts};
use icecore::store::format::mark::MarkKind;
use icecore::store::format::snapshot::{SnapshotRecord, SourceRef, StreamEntry};
use icecore::store::repo::Refreshed;
use serde::Serialize;

use super::{output, time};

/// A name or path, which need not be UTF-8: then the text has replacement characters, and the hex digits say what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name_hex: Option<String>,
}

impl Named {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let (name, name_hex) = text_and_hex(bytes);
        Named { name, name_hex }
    }
}

/// As [`Named`], for a place on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Located {
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_hex: Option<String>,
}

impl Located {
    pub(crate) fn of(path: &Path) -> Self {
        let (path, path_hex) = text_and_hex(path.as_os_str().as_encoded_bytes());
        Located { path, path_hex }
    }
}

/// The text, and the hex digits if the text does not say all.
pub(crate) fn text_and_hex(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(to_hex(bytes))),
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct SourceView {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) label: String,
}

impl SourceView {
    pub(crate) fn of(source: &SourceRef) -> Self {
        SourceView { id: source.id.to_string(), kind: source.kind.name().to_owned(), label: source.label.clone() }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct FlagView {
    pub(crate) code: String,
    /// The stream or directory that it is about; none: the whole snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream_hex: Option<String>,
    pub(crate) detail: String,
}

pub(crate) fn flags(flags: &[Flag]) -> Vec<FlagView> {
    flags.iter().map(FlagView::of).collect()
}

impl FlagView {
    fn of(flag: &Flag) -> Self {
        let (stream, stream_hex) = flag.stream.as_deref().map(text_and_hex).unzip();
        FlagView { code: flag.code.clone(), stream, stream_hex: stream_hex.flatten(), detail: flag.detail.clone() }
    }
}

/// What a check found.
#[derive(Debug, Serialize)]
pub(crate) struct CheckedView {
    pub(crate) time: String,
    pub(crate) whole: bool,
    #[serde(skip)]
    pub(crate) time_ns: i64,
}

/// A snapshot in a list.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotView {
    pub(crate) id: String,
    pub(crate) time: String,
    pub(crate) duration_ms: f64,
    pub(crate) host: String,
    pub(crate) user: String,
    pub(crate) tool: String,
    pub(crate) source: SourceView,
    pub(crate) parent: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) flags: Vec<FlagView>,
    /// Flags that were cleared.
    pub(crate) accepted: Vec<FlagView>,
    pub(crate) protected: bool,
    /// When a check last read all of it, and whether all was whole then.
    pub(crate) checked: Option<CheckedView>,
    pub(crate) streams: u64,
    pub(crate) logical_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
    pub(crate) stored_bytes: u64,
    #[serde(skip)]
    pub(crate) short_id: String,
    #[serde(skip)]
    pub(crate) time_ns: i64,
}

impl SnapshotView {
    /// A snapshot of those that a look at the repository found.
    pub(crate) fn of(id: &SnapshotId, record: &SnapshotRecord, refreshed: &Refreshed) -> Self {
        let marks = refreshed.marks.get(id);
        let checked = marks.and_then(|marks| marks.health()).map(|mark| CheckedView {
            time: time::utc(mark.time_ns),
            whole: mark.kind == MarkKind::Verified,
            time_ns: mark.time_ns,
        });
        SnapshotView {
            id: id.to_string(),
            time: time::utc(record.time_ns),
            duration_ms: output::ms(record.duration_us),
            host: record.host.clone(),
            user: record.user.clone(),
            tool: record.tool.clone(),
            source: SourceView::of(&record.source),
            parent: record.parent.map(|parent| parent.to_string()),
            tags: record.tags.clone(),
            flags: flags(&record.flags),
            accepted: record.accepted.iter().chain(marks.into_iter().flat_map(|marks| &marks.accepted)).map(FlagView::of).collect(),
            protected: marks.is_some_and(|marks| marks.protection().is_some()),
            checked,
            streams: record.entries,
            logical_bytes: record.logical_bytes,
            read_bytes: record.stats.read_bytes,
            new_chunks: record.stats.new_chunks,
            new_bytes: record.stats.new_plain_bytes,
            stored_bytes: record.stats.pack_bytes,
            short_id: id.short(),
            time_ns: record.time_ns,
        }
    }

    /// Whether it is protected, and the codes of its flags, for people.
    pub(crate) fn flag_codes(&self) -> String {
        let is_protected = self.protected.then_some("protected");
        let mut codes: Vec<&str> = is_protected.into_iter().chain(self.flags.iter().map(|flag| flag.code.as_str())).collect();
        codes.dedup();
        codes.join(",")
    }
}

/// Where stored bytes go.
#[derive(Debug, Serialize)]
pub(crate) struct CostView {
    pub(crate) stored_bytes: u64,
    /// Logical bytes per stored byte, of what has logical bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    /// `raw_bytes`, `zstd_bytes`, `delta_bytes`, `patch_bytes`: encoded chunks.
    #[serde(flatten)]
    pub(crate) encoded: BTreeMap<String, u64>,
    pub(crate) metadata_bytes: u64,
    pub(crate) node_bytes: u64,
    pub(crate) table_bytes: u64,
    pub(crate) padding_bytes: u64,
    pub(crate) record_bytes: u64,
    #[serde(skip)]
    pub(crate) by_encoding: Vec<(&'static str, u64)>,
}

impl CostView {
    pub(crate) fn of(cost: &Cost, logical_bytes: Option<u64>) -> Self {
        CostView {
            stored_bytes: cost.stored_bytes,
            ratio: logical_bytes.and_then(|logical_bytes| cost.ratio(logical_bytes)),
            encoded: cost.by_encoding().map(|(name, bytes)| (format!("{name}_bytes"), bytes)).collect(),
            metadata_bytes: cost.metadata_bytes(),
            node_bytes: cost.node_bytes,
            table_bytes: cost.table_bytes,
            padding_bytes: cost.padding_bytes,
            record_bytes: cost.record_bytes,
            by_encoding: cost.by_encoding().collect(),
        }
    }

    /// For people.
    pub(crate) fn shown_ratio(&self) -> String {
        self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}"))
    }

    /// For people: `raw 0 B, zstd 1.0 KiB`.
    pub(crate) fn shown_encodings(&self) -> String {
        named_bytes(&self.by_encoding)
    }

    /// For people.
    pub(crate) fn shown_metadata(&self) -> String {
        let parts =
            [("nodes", self.node_bytes), ("tables", self.table_bytes), ("padding", self.padding_bytes), ("records", self.record_bytes)];
        format!("{}; {}", output::bytes(self.metadata_bytes), named_bytes(&parts))
    }
}

fn named_bytes(parts: &[(&str, u64)]) -> String {
    parts.iter().map(|(name, size)| format!("{name} {}", output::bytes(*size))).collect::<Vec<_>>().join(", ")
}

/// What reading chunks takes; null where the trees could not be walked.
#[derive(Debug, Serialize)]
pub(crate) struct ChainsView {
    pub(crate) stream_chunks: Option<u64>,
    pub(crate) depth: Option<SpreadView>,
    pub(crate) work: Option<SpreadView>,
}

/// A number over many chunks.
#[derive(Debug, Serialize)]
pub(crate) struct SpreadView {
    pub(crate) mean: f64,
    pub(crate) p99: u32,
    pub(crate) max: u32,
}

impl ChainsView {
    pub(crate) fn of(chains: Option<&Chains>) -> Self {
        ChainsView {
            stream_chunks: chains.map(|chains| chains.chunks),
            depth: chains.map(|chains| SpreadView::of(&chains.level)),
            work: chains.map(|chains| SpreadView::of(&chains.work)),
        }
    }

    /// For people; empty where it is not known.
    pub(crate) fn shown_depth(&self) -> String {
        self.depth.as_ref().map_or_else(String::new, SpreadView::shown)
    }

    /// For people; empty where it is not known.
    pub(crate) fn shown_work(&self) -> String {
        self.work.as_ref().map_or_else(String::new, SpreadView::shown)
    }
}

impl SpreadView {
    fn of(spread: &Spread) -> Self {
        SpreadView { mean: spread.mean, p99: spread.p99, max: spread.max }
    }

    fn shown(&self) -> String {
        format!("mean {:.1}, p99 {}, max {}", self.mean, self.p99, self.max)
    }

    /// For a column of a table: mean, p99 and highest.
    pub(crate) fn short(&self) -> String {
        format!("{:.1}/{}/{}", self.mean, self.p99, self.max)
    }
}

/// A stream of a snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct StreamView {
    #[serde(flatten)]
    pub(crate) named: Named,
    pub(crate) kind: &'static str,
    pub(crate) bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target_hex: Option<String>,
    #[serde(flatten)]
    pub(crate) sqlite: Option<SqliteView>,
    pub(crate) mode: Option<String>,
    pub(crate) mtime: Option<String>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// How much of the file took no space.
    pub(crate) hole_bytes: Option<u64>,
    /// The names of its extended attributes, access control lists among them.
    pub(crate) xattrs: Option<Vec<String>>,
    #[serde(skip)]
    pub(crate) mtime_ns: Option<i64>,
}

/// What the header of a database said.
#[derive(Debug, Serialize)]
pub(crate) struct SqliteView {
    pub(crate) page_size: u32,
    pub(crate) page_count: u64,
    pub(crate) freelist_pages: u32,
    pub(crate) user_version: i32,
    pub(crate) application_id: i32,
    pub(crate) encoding: &'static str,
    pub(crate) journal_mode: &'static str,
    pub(crate) change_counter: u32,
    pub(crate) schema_cookie: u32,
}

impl SqliteView {
    fn of(facts: &SqliteFacts) -> Self {
        SqliteView {
            page_size: facts.page_size,
            page_count: facts.page_count,
            freelist_pages: facts.freelist_pages,
            user_version: facts.user_version,
            application_id: facts.application_id,
            encoding: match facts.encoding {
                1 => "UTF-8",
                2 => "UTF-16le",
                3 => "UTF-16be",
                _ => "none",
            },
            journal_mode: if facts.wal { "wal" } else { "rollback" },
            change_counter: facts.change_counter,
            schema_cookie: facts.schema_cookie,
        }
    }
}

impl StreamView {
    pub(crate) fn of(entry: &StreamEntry) -> Self {
        let (kind, target) = match &entry.kind {
            EntryKind::Sqlite(_) => ("sqlite", None),
            EntryKind::File => ("file", None),
            EntryKind::Directory => ("directory", None),
            EntryKind::Symlink(target) => ("symlink", Some(target)),
            EntryKind::HardLink(other) => ("hardlink", Some(other)),
        };
        let (target, target_hex) = match target.map(|target| text_and_hex(target)) {
            Some((text, hex)) => (Some(text), hex),
            None => (None, None),
        };
        let meta = entry.meta.as_ref();
        let lossy = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        StreamView {
            named: Named::of(&entry.name),
            kind,
            bytes: entry.root.len,
            target,
            target_hex,
            sqlite: if let EntryKind::Sqlite(facts) = &entry.kind { Some(SqliteView::of(facts)) } else { None },
            mode: meta.map(|meta| format!("{:04o}", meta.mode)),
            mtime: meta.map(|meta| time::utc(meta.mtime_ns)),
            uid: meta.map(|meta| meta.uid),
            gid: meta.map(|meta| meta.gid),
            hole_bytes: meta.map(|meta| meta.holes),
            xattrs: meta.map(|meta| meta.attributes.iter().map(|attribute| lossy(&attribute.name)).collect()),
            mtime_ns: meta.map(|meta| meta.mtime_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_utf8_say_so() {
        assert_eq!(serde_json::to_value(Named::of(b"a")).ok(), Some(serde_json::json!({ "name": "a" })));
        let odd = serde_json::json!({ "name": "a\u{fffd}", "name_hex": "61ff" });
        assert_eq!(serde_json::to_value(Named::of(b"a\xff")).ok(), Some(odd));
    }
}
