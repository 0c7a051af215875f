//! A repository as annotated hex: what is stored stands first in a line, what is in the sealed parts after `#`.

use std::fmt::Write;
use std::path::Path;

use super::support::Bed;
use icecore::id::{from_hex, to_hex};
use icecore::store::crypto::keyring;
use icecore::store::format::key::{KEY_PLAIN_LEN, KeyRecord};
use icecore::store::format::pack::{FOOTER_LEN, Footer, TRAILER_HEADER_LEN, TRAILER_SEGMENT, Trailer};
use icecore::store::format::snapshot::SnapshotRecord;
use icecore::store::format::{HEADER_LEN, Kind, ObjectHeader, record};
use icecore::store::repo::Repository;

/// The objects of such a text, by path.
pub fn objects(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.lines() {
        if let Some(path) = line.strip_prefix("== ") {
            found.push((path.into(), Vec::new()));
        } else if let Some(source) = line.strip_prefix("as ") {
            let bytes = found.iter().find(|(path, _)| path == source).unwrap().1.clone();
            found.last_mut().unwrap().1 = bytes;
        } else if let Some(text) = line.strip_prefix("| ") {
            found.last_mut().unwrap().1.extend([text.as_bytes(), b"\n"].concat());
        } else if !line.is_empty() && !line.starts_with('#') {
            found.last_mut().unwrap().1.extend(from_hex(line.split(' ').next().unwrap()).expect("hex digits"));
        }
    }
    found
}

/// The annotated objects of a repository of one snapshot.
pub fn repository(bed: &Bed) -> String {
    let mut text = Text::default();
    let mut paths = Vec::new();
    collect(&bed.path("repo"), "", &mut paths);
    paths.sort();
    let repo = bed.open();
    for path in paths {
        let bytes = std::fs::read(bed.path("repo").join(&path)).unwrap();
        writeln!(text.out, "{}== {path}", if text.out.is_empty() { "" } else { "\n" }).unwrap();
        match path.split('/').next().unwrap() {
            "config" => String::from_utf8(bytes).unwrap().lines().for_each(|line| writeln!(text.out, "| {line}").unwrap()),
            _ if path.ends_with(".copy") => writeln!(text.out, "as {}", path.trim_end_matches(".copy")).unwrap(),
            "keys" => text.key(&repo, &bytes),
            "packs" => text.pack(&repo, &bytes),
            "snapshots" => text.snapshot(&repo, &bytes),
            other => panic!("there is an object in {other}"),
        }
    }
    text.out
}

fn collect(directory: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => collect(&entry.path(), &format!("{path}/"), found),
            // The page itself is no object.
            false if path == "FORMAT.md" => {}
            false => found.push(path),
        }
    }
}

/// A field: its name and its bytes.
type Field = (&'static str, Vec<u8>);

fn field<T: serde::Serialize>(name: &'static str, value: &T) -> Field {
    (name, record::encode(value).unwrap())
}

/// Cuts bytes into fields of these lengths.
fn cut(bytes: &[u8], lens: &[(&'static str, usize)]) -> Vec<Field> {
    let mut rest = bytes;
    let fields = lens.iter().map(|(name, len)| {
        let (field, after) = rest.split_at(*len);
        rest = after;
        (*name, field.to_vec())
    });
    fields.collect()
}

#[derive(Default)]
struct Text {
    out: String,
}

impl Text {
    /// Lines of at most 32 bytes, with the field's name at its first one. The fields together must be `whole`.
    fn fields(&mut self, start: &str, whole: &[u8], fields: &[Field]) {
        assert!(fields.iter().flat_map(|(_, bytes)| bytes).eq(whole), "the fields are not the whole");
        for (name, bytes) in fields {
            let mut lines = bytes.chunks(32).map(to_hex);
            writeln!(self.out, "{start}{:<64}  {name}", lines.next().unwrap_or_default()).unwrap();
            lines.for_each(|line| writeln!(self.out, "{start}{line}").unwrap());
        }
    }

    fn stored(&mut self, whole: &[u8], lens: &[(&'static str, usize)]) {
        self.fields("", whole, &cut(whole, lens));
    }

    fn plain(&mut self, whole: &[u8], fields: &[Field]) {
        self.fields("#   ", whole, fields);
    }

    fn header(&mut self, bytes: &[u8]) {
        let lens = [("magic", 8), ("version", 2), ("cipher", 1), ("reserved", 1), ("features", 4), ("salt", 32)];
        self.stored(&bytes[..HEADER_LEN], &lens);
    }

    fn key(&mut self, repo: &Repository, bytes: &[u8]) {
        let key_record = KeyRecord::decode(bytes).unwrap();
        let payload = keyring::unwrap(&repo.config().repository, &key_record, b"correct horse").unwrap().unwrap();
        self.header(bytes);
        let lens = [("memory, KiB", 4), ("passes", 4), ("lanes", 4), ("sealed_len", 4), ("sealed KeyPayload", key_record.sealed.len())];
        self.stored(&bytes[HEADER_LEN..KEY_PLAIN_LEN + key_record.sealed.len()], &lens);
        let config = &payload.config;
        let fields = [
            field("master", &payload.master),
            field("config_hash", &payload.config_hash),
            field("config: repository", &config.repository),
            field("encrypted", &config.encrypted),
            field("page_chunk_len", &config.page_chunk_len),
            field("content_chunk_len", &config.content_chunk_len),
        ];
        self.plain(&payload.encode().unwrap(), &fields);
        self.stored(&bytes[KEY_PLAIN_LEN + key_record.sealed.len()..], &[("BLAKE3 of everything before", 32)]);
    }

    fn pack(&mut self, repo: &Repository, bytes: &[u8]) {
        let header = ObjectHeader::decode(bytes, Kind::Pack).unwrap();
        let sealer = repo.keys().sealer(&header).unwrap();
        let unsealed = |number, sealed: &[u8]| {
            let mut plain = sealed.to_vec();
            sealer.open(number, &mut plain).unwrap();
            plain
        };
        let (before, footer_bytes) = bytes.split_at(bytes.len() - FOOTER_LEN);
        let footer = Footer::decode(footer_bytes, bytes.len() as u64).unwrap();
        let (before, sealed_table) = before.split_at(footer.trailer_offset as usize);
        let table = unsealed(TRAILER_SEGMENT, sealed_table);
        let trailer = Trailer::decode(&table, header.cipher.overhead()).unwrap();
        self.header(bytes);
        let mut rest = &before[HEADER_LEN..];
        for (number, len) in (0..).zip(&trailer.segments) {
            let (segment, after) = rest.split_at(*len as usize);
            self.stored(segment, &[("a sealed segment", segment.len())]);
            let plain = unsealed(number, segment);
            let frames = trailer.frames.iter().filter(|frame| frame.segment == number);
            let frames: Vec<_> = frames.map(|frame| ("a frame", frame.encoded_len as usize)).collect();
            self.plain(&plain, &cut(&plain, &frames));
            rest = after;
        }
        if !rest.is_empty() {
            self.stored(rest, &[("padding", rest.len())]);
        }
        self.stored(sealed_table, &[("the sealed trailer", sealed_table.len())]);
        let heads = ["segments", "chunks", "bases", "rows_len", "nominal_len", "reserved"].map(|name| (name, 4));
        let ids = trailer.chunks.iter().map(|_| ("id of a chunk", 32));
        let rows = table.len() - TRAILER_HEADER_LEN - 32 * trailer.chunks.len();
        let lens: Vec<_> = heads.into_iter().chain(ids).chain([("lengths of segments, and rows", rows)]).collect();
        self.plain(&table, &cut(&table, &lens));
        let lens = [
            ("magic", 8),
            ("trailer_offset", 8),
            ("pack_len", 4),
            ("trailer_len", 4),
            ("version", 2),
            ("reserved", 2),
            ("features", 4),
            ("salt", 32),
            ("checksum", 16),
        ];
        self.stored(footer_bytes, &lens);
    }

    fn snapshot(&mut self, repo: &Repository, bytes: &[u8]) {
        let header = ObjectHeader::decode(bytes, Kind::Snapshot).unwrap();
        let mut plain = bytes[HEADER_LEN..].to_vec();
        repo.keys().sealer(&header).unwrap().open(0, &mut plain).unwrap();
        let found: SnapshotRecord = record::decode(&plain).unwrap();
        self.header(bytes);
        self.stored(&bytes[HEADER_LEN..], &[("the sealed SnapshotRecord", bytes.len() - HEADER_LEN)]);
        let fields = [
            field("time_ns", &found.time_ns),
            field("duration_us", &found.duration_us),
            field("host", &found.host),
            field("user", &found.user),
            field("tool", &found.tool),
            field("source: id", &found.source.id),
            field("source: kind", &found.source.kind),
            field("source: label", &found.source.label),
            field("parent", &found.parent),
            field("tags", &found.tags),
            field("flags", &found.flags),
            field("accepted", &found.accepted),
            field("listing", &found.listing),
            field("entries", &found.entries),
            field("logical_bytes", &found.logical_bytes),
            field("packs", &found.packs),
            field("stats", &found.stats),
            field("written_ns", &found.written_ns),
            field("facts", &found.facts),
        ];
        self.plain(&plain, &fields);
    }
}
