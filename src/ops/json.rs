//! How values are written in the JSON of reports. docs/json.md describes the documents.
//!
//! Names and paths need not be UTF-8. If one is not, its text has replacement characters, and a further field with
//! `_hex` at the end of its name has the bytes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::error::Error;
use crate::id::to_hex;
use crate::recorded::Flag;
use crate::store::backend::Unfinished;

/// A time as RFC 3339 in UTC; one out of range as a number.
pub fn utc_text(time_ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(time_ns)).map_or_else(|_| time_ns.to_string(), |time| time.to_string())
}

/// A time, given as nanoseconds since 1970 UTC.
pub(super) fn utc<S: Serializer>(time_ns: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&utc_text(*time_ns))
}

/// Microseconds, written as milliseconds with three decimals.
pub(super) fn ms<S: Serializer>(us: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(super::text::ms(*us))
}

/// Values as their texts.
pub(super) fn texts<T: Display, S: Serializer>(all: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(all.iter().map(ToString::to_string))
}

/// Facts, as a map by name.
pub(super) fn facts<S: Serializer>(facts: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(facts.iter().map(|(name, value)| (name, value)).collect::<BTreeMap<_, _>>())
}

/// The fields `unfinished_files` and `unfinished_bytes` of the struct around it.
pub(super) fn unfinished<S: Serializer>(unfinished: &Unfinished, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("unfinished_files", &unfinished.files)?;
    map.serialize_entry("unfinished_bytes", &unfinished.bytes)?;
    map.end()
}

/// The fields `name` and `name_hex`. The struct around it flattens this, as it does all such pairs of fields.
pub(super) fn name<B: AsRef<[u8]>, S: Serializer>(bytes: &B, serializer: S) -> Result<S::Ok, S::Error> {
    text_and_hex(("name", "name_hex"), Some(bytes.as_ref()), serializer)
}

/// The fields `path` and `path_hex` of the struct around it.
pub fn path<P: AsRef<Path>, S: Serializer>(path: &P, serializer: S) -> Result<S::Ok, S::Error> {
    text_and_hex(("path", "path_hex"), Some(path.as_ref().as_os_str().as_encoded_bytes()), serializer)
}

/// The fields `stream`, null if it is about none, and `stream_hex` of the struct around it.
pub(super) fn stream_or_null<B: AsRef<[u8]>, S: Serializer>(stream: &Option<B>, serializer: S) -> Result<S::Ok, S::Error> {
    text_and_hex(("stream", "stream_hex"), stream.as_ref().map(AsRef::as_ref), serializer)
}

/// A path by itself, or null.
pub(super) fn place_or_null<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_deref().map(Place).serialize(serializer)
}

/// A path as a document of its own.
pub(super) struct Place<'p>(pub &'p Path);

impl Serialize for Place<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        path(&self.0, serializer)
    }
}

/// The fields `code` and `message` of the struct around it.
pub(super) fn failure<S: Serializer>(error: &Error, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("code", error.code())?;
    map.serialize_entry("message", &error.to_string())?;
    map.end()
}

/// A pair of fields like `name` and `name_hex`, under other names. Both are absent without a value.
pub(super) fn optional<S: Serializer>(names: (&str, &str), bytes: Option<&[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => text_and_hex(names, Some(bytes), serializer),
        None => serializer.serialize_map(None)?.end(),
    }
}

/// Flags, as docs/json.md describes them.
pub(super) fn flags<S: Serializer>(flags: &[Flag], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(flags.iter().map(FlagFields))
}

struct FlagFields<'f>(&'f Flag);

impl Serialize for FlagFields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let FlagFields(Flag { code, stream, detail }) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("code", code)?;
        if let Some(stream) = stream {
            entries(&mut map, ("stream", "stream_hex"), Some(stream))?;
        }
        map.serialize_entry("detail", detail)?;
        map.end()
    }
}

fn text_and_hex<S: Serializer>(names: (&str, &str), bytes: Option<&[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    entries(&mut map, names, bytes)?;
    map.end()
}

fn entries<M: SerializeMap>(map: &mut M, (text, hex): (&str, &str), bytes: Option<&[u8]>) -> Result<(), M::Error> {
    map.serialize_entry(text, &bytes.map(String::from_utf8_lossy))?;
    match bytes.filter(|bytes| std::str::from_utf8(bytes).is_err()) {
        Some(bytes) => map.serialize_entry(hex, &to_hex(bytes)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde::Serialize;
    use serde_json::{json, to_value};

    #[derive(Serialize)]
    struct Row {
        #[serde(flatten, serialize_with = "super::name")]
        name: Vec<u8>,
        #[serde(flatten, serialize_with = "super::path")]
        path: PathBuf,
        #[serde(flatten, serialize_with = "super::stream_or_null")]
        stream: Option<Vec<u8>>,
        #[serde(rename = "time", serialize_with = "super::utc")]
        time_ns: i64,
        #[serde(rename = "took_ms", serialize_with = "super::ms")]
        took_us: u64,
        #[serde(serialize_with = "super::facts")]
        facts: Vec<(String, String)>,
    }

    #[test]
    fn names_that_are_not_utf8_say_so() {
        let row = |name: &[u8], stream: Option<&[u8]>| {
            let (name, stream) = (name.to_vec(), stream.map(<[u8]>::to_vec));
            to_value(Row { name, path: "p".into(), stream, time_ns: 0, took_us: 1500, facts: vec![("a".into(), "b".into())] }).ok()
        };
        let rest = json!({ "path": "p", "time": "1970-01-01T00:00:00Z", "took_ms": 1.5, "facts": { "a": "b" } });
        let with = |more: serde_json::Value| {
            let mut all = rest.clone();
            all.as_object_mut()?.extend(more.as_object()?.clone());
            Some(all)
        };
        assert_eq!(row(b"a", None), with(json!({ "name": "a", "stream": null })));
        let odd = json!({ "name": "a\u{fffd}", "name_hex": "61ff", "stream": "\u{fffd}", "stream_hex": "fe" });
        assert_eq!(row(b"a\xff", Some(b"\xfe")), with(odd));
    }
}
