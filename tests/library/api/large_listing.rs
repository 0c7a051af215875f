//! Backups of sources with very many streams.

use std::ops::Range;

use icecore::engine::{Body, Capture, CaptureReport, CapturedStream, Known, Source, SourceDescription};
use icecore::ops::backup::{BackupOptions, backup};
use icecore::progress::{Monitor, Silent};
use icecore::recorded::{EntryKind, FileMeta, SourceKind};
use icecore::store::repo::Reader;
use icecore::{Error, Result};

use super::support::Bed;

/// A source of so many directories, which do not quite come in the order of their names.
struct Directories(u64);

struct Listing {
    left: Range<u64>,
}

fn name_of(number: u64) -> Vec<u8> {
    format!("{:03}/directory-with-a-usual-name-{:08}", number / 1_000, number % 1_000 * 7 % 1_000).into_bytes()
}

impl Source for Directories {
    fn identity(&self) -> SourceDescription {
        SourceDescription { kind: SourceKind::FILES, parts: vec![b"directories".to_vec()], label: "directories".into() }
    }

    fn capture<'a>(&'a self, _: &'a dyn Known, _: &'a dyn Monitor) -> Result<Box<dyn Capture + 'a>> {
        Ok(Box::new(Listing { left: 0..self.0 }))
    }
}

impl Capture for Listing {
    fn total_bytes(&self) -> Option<u64> {
        None
    }

    fn next_stream(&mut self) -> Result<Option<CapturedStream>> {
        let Some(number) = self.left.next() else { return Ok(None) };
        let meta = Some(FileMeta { mode: 0o755, ..FileMeta::default() });
        Ok(Some(CapturedStream { name: name_of(number), kind: EntryKind::Directory, meta, body: Body::None }))
    }

    fn unreadable(&mut self, error: Error) -> Result<()> {
        Err(error)
    }

    fn blocks_writers(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Result<CaptureReport> {
        Ok(CaptureReport::default())
    }
}

/// What a backup holds in memory does not grow with the number of streams. A list of all would take over 150 bytes for each.
#[test]
fn a_backup_of_many_streams_takes_no_more_memory() {
    let mut peaks = Vec::new();
    for count in [70_000, 140_000] {
        let bed = Bed::new(false);
        let repo = bed.open();
        let options = |time| BackupOptions { time_ns: time, now_ns: time, host: "test".into(), ..BackupOptions::default() };
        backup(&repo, &Directories(count), &options(1), &Silent).unwrap();
        let mut report = None;
        let measured = allocation_counter::measure(|| report = Some(backup(&repo, &Directories(count), &options(2), &Silent).unwrap()));
        let record = report.unwrap().record;
        assert_eq!((record.entries, record.flags), (count, Vec::new()));
        let names: Vec<Vec<u8>> = Reader::new(&repo).entries(&record.listing).unwrap().map(|entry| entry.unwrap().name).collect();
        let mut expected: Vec<Vec<u8>> = (0..count).map(name_of).collect();
        expected.sort();
        assert!(names == expected, "{count}");
        // The chunks of the new listing are freed by other threads, where this does not count them. Each takes up to twice its length.
        peaks.push(measured.bytes_max.saturating_sub(record.listing.len));
    }
    assert!(peaks[1] < peaks[0] + (5 << 20), "{peaks:?}");
}
