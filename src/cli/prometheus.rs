//! Writes the textfile of `status --prometheus`, in the text exposition format (version 0.0.4) for node_exporter.
//! Names and labels never change their meaning. It relies on `whole.rs`, so that the file is always complete.

use std::path::Path;

use icecore::Error;
use icecore::ops::status::{SourceStatus, State, Status};

use super::exit::Failure;
use super::whole;

/// Everybody may read the file, because node_exporter runs as another user.
const FILE_MODE: u32 = 0o644;

/// The gauges of a source: name, help text, and the value if there is one.
type OfSource = (&'static str, &'static str, fn(&SourceStatus) -> Option<f64>);

const OF_SOURCES: [OfSource; 9] = [
    ("icecore_source_ok", "Whether the source has a good snapshot that is young enough for --max-age.", |one| {
        Some(yes(one.status == State::Ok))
    }),
    ("icecore_snapshots", "Snapshots of the source in the list.", |one| Some(one.snapshots as f64)),
    ("icecore_last_good_snapshot_timestamp_seconds", "Time of the last good snapshot.", |one| {
        one.last_good.as_ref().map(|good| seconds(good.time_ns))
    }),
    ("icecore_last_good_snapshot_logical_bytes", "Bytes of the streams of the last good snapshot.", |one| {
        one.last_good.as_ref().map(|good| good.logical_bytes as f64)
    }),
    ("icecore_last_good_snapshot_stored_bytes", "Bytes that the last good snapshot added to the repository.", |one| {
        one.last_good.as_ref().map(|good| good.stored_bytes as f64)
    }),
    ("icecore_flagged_snapshots_since_good", "Flagged snapshots after the last good one.", |one| Some(one.flagged_after.len() as f64)),
    ("icecore_snapshots_ahead", "Snapshots dated after now, which are not believed.", |one| Some(one.ahead as f64)),
    ("icecore_last_verified_timestamp_seconds", "When a snapshot was last restored, drilled or read whole, and was right.", |one| {
        one.last_verified.as_ref().map(|verified| seconds(verified.time_ns))
    }),
    ("icecore_last_failure_timestamp_seconds", "When a backup last failed, if that was after the last good snapshot.", |one| {
        one.last_failure.as_ref().map(|failure| seconds(failure.time_ns))
    }),
];

/// Writes the file under another name and renames it, so that it is always complete.
pub(crate) fn write(file: &Path, status: &Status) -> Result<(), Failure> {
    let failed = |cause: std::io::Error| Failure::from(Error::destination(file, format!("the textfile cannot be written: {cause}")));
    if file.file_name().is_none() {
        return Err(Failure::usage(format!("{} does not name a file", file.display())));
    }
    // node_exporter reads only names that end with `.prom`. The temporary name does not.
    whole::write(file, text(status).as_bytes(), FILE_MODE).map_err(failed)
}

fn text(status: &Status) -> String {
    let repository = format!("repository=\"{}\"", status.repository);
    let mut text = String::new();
    for (name, says, value) in OF_SOURCES {
        let samples = status.sources.iter().filter_map(|one| {
            let (label, host) = (escaped(&one.source.label), escaped(&one.host));
            Some((format!("{repository},source_id=\"{}\",source=\"{label}\",host=\"{host}\"", one.source.id), value(one)?))
        });
        // A source without any snapshot has only this value.
        let never_taken = status.never_taken.iter().filter(|_| name == "icecore_source_ok").map(|one| {
            let (label, host) = (escaped(&one.label), escaped(&one.host));
            (format!("{repository},source_id=\"\",source=\"{label}\",host=\"{host}\""), 0.0)
        });
        gauge(&mut text, name, says, samples.chain(never_taken));
    }
    let check = status.last_check.as_ref();
    let of_repository = [
        ("icecore_ok", "Whether status finds nothing wrong.", Some(yes(status.status == State::Ok))),
        ("icecore_last_check_timestamp_seconds", "When the last check ended.", check.map(|check| seconds(check.time_ns))),
        ("icecore_last_check_ok", "Whether the last check found no damage.", check.map(|check| yes(check.is_whole()))),
        ("icecore_unreadable_objects", "Snapshots, marks and journal entries that cannot be read.", Some(status.unreadable.len() as f64)),
        ("icecore_status_timestamp_seconds", "When this file was written.", Some(seconds(status.now_ns))),
    ];
    for (name, says, value) in of_repository {
        gauge(&mut text, name, says, value.map(|value| (repository.clone(), value)).into_iter());
    }
    text
}

/// A metric with its samples; empty if there are none.
fn gauge(text: &mut String, name: &str, says: &str, samples: impl Iterator<Item = (String, f64)>) {
    let mut samples = samples.peekable();
    if samples.peek().is_none() {
        return;
    }
    text.push_str(&format!("# HELP {name} {says}\n# TYPE {name} gauge\n"));
    samples.for_each(|(labels, value)| text.push_str(&format!("{name}{{{labels}}} {value}\n")));
}

/// A label's value: backslash, quotation mark and line feed have escapes, everything else stands for itself.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn yes(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Seconds since 1970, with milliseconds.
fn seconds(time_ns: i64) -> f64 {
    (time_ns / 1_000_000) as f64 / 1000.0
}
