//! [`Snapshot`]: what other programs do with one snapshot: list, read, restore, export, drill, accept and protect.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Stream;
use crate::engine::stored::{StreamInfo, find};
use crate::error::{Error, Result};
use crate::id::SnapshotId;
use crate::ops::drill::{self, DrillReport, DrillWish, Staging, Start};
use crate::ops::export::{self, ExportReport};
use crate::ops::journaled::{Work, Worker};
use crate::ops::mark::{self, MarkReport, Statement};
use crate::ops::restore::{self, Destination, RestoreOptions, RestoreReport, RestoreWish};
use crate::ops::select::{SnapshotFilter, SnapshotSpec, Wanted};
use crate::ops::stored::stored;
use crate::progress::{Monitor, Silent};
use crate::recorded::{Flag, SourceKind};
use crate::store::format::mark::MarkKind;
use crate::store::format::snapshot::SnapshotRecord;
use crate::store::repo::Repository;

/// A snapshot in a [`super::Store`], with its record. It was there when it was listed, and may be forgotten meanwhile.
pub struct Snapshot<'s> {
    repo: &'s Repository,
    worker: &'s Worker,
    id: SnapshotId,
    record: SnapshotRecord,
}

impl std::fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("id", &self.id.to_string()).field("source", &self.record.source.label).finish_non_exhaustive()
    }
}

impl<'s> Snapshot<'s> {
    pub(super) fn new(repo: &'s Repository, worker: &'s Worker, id: SnapshotId, record: SnapshotRecord) -> Self {
        Snapshot { repo, worker, id, record }
    }

    /// Its id: 64 hex digits.
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// The time at which its capture began.
    pub fn time(&self) -> SystemTime {
        // A record may have a time before 1970, from a machine whose clock is wrong.
        let span = Duration::from_nanos(self.record.time_ns.unsigned_abs());
        if self.record.time_ns < 0 { UNIX_EPOCH - span } else { UNIX_EPOCH + span }
    }

    /// The source, as text: the name that it was given, or its paths.
    pub fn source(&self) -> &str {
        &self.record.source.label
    }

    /// The kind of the source: `sqlite`, `files`, `postgres`, `command`, or the name of an engine of a later version.
    pub fn kind(&self) -> &str {
        self.record.source.kind.name()
    }

    /// The machine on which it was captured.
    pub fn host(&self) -> &str {
        &self.record.host
    }

    /// Its tags.
    pub fn tags(&self) -> &[String] {
        &self.record.tags
    }

    /// Its flags: why it does not count as good. Empty for a good one.
    pub fn flags(&self) -> &[Flag] {
        &self.record.flags
    }

    /// The length of all its streams together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.record.logical_bytes
    }

    /// Its streams, in the order of the listing.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the listing is damaged, [`Error::Backend`].
    pub fn streams(&self) -> Result<Vec<StreamInfo>> {
        Ok(stored(self.repo, &self.record, &Silent)?.streams().to_vec())
    }

    /// The bytes of a stream, for reading from any place on. Every byte is verified.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # std::fs::write(dir.path().join("notes.txt"), "first line\nsecond line\n")?;
    /// # let settings = icecore::Settings::new(dir.path().join("cache"), "web1");
    /// # let store = icecore::Store::create(&dir.path().join("repository"), icecore::Key::None, settings)?;
    /// # let options = icecore::FilesOptions { sqlite: icecore::SqliteOptions::default(), exclude: Vec::new() };
    /// # let source = icecore::FilesSource::new(vec![dir.path().join("notes.txt")], options)?;
    /// # store.backup(&source, &icecore::BackupOptions::default(), &icecore::Silent)?;
    /// use std::io::{Read, Seek, SeekFrom};
    ///
    /// let snapshot = store.snapshot("latest")?;
    /// let mut stream = snapshot.stream("notes.txt")?;
    /// stream.seek(SeekFrom::Start(11))?;
    /// let mut text = String::new();
    /// stream.read_to_string(&mut text)?;
    /// assert_eq!(text, "second line\n");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NoSuch`] if there is no such stream, [`Error::Corrupt`] if the listing is damaged, [`Error::Backend`].
    pub fn stream(&self, name: impl AsRef<[u8]>) -> Result<Stream> {
        let (name, stored) = (name.as_ref(), stored(self.repo, &self.record, &Silent)?);
        let len = find(&*stored, name).map(|stream| stream.len);
        let no_such = || Error::NoSuch { detail: format!("the snapshot has no stream {}", String::from_utf8_lossy(name)) };
        Ok(Stream::new(stored, name.to_vec(), len.ok_or_else(no_such)?))
    }

    /// Restores all streams as files into a directory. Existing files are kept as `NAME.pre_restore.TIMESTAMP`, with
    /// this `timestamp`.
    ///
    /// # Errors
    /// If nothing could be restored: [`Error::Destination`], [`Error::Busy`], [`Error::Corrupt`], [`Error::Backend`];
    /// [`Error::NoSuch`] if the snapshot was forgotten meanwhile. Failures of single streams are in the report;
    /// [`RestoreReport::is_whole`] says whether there were none.
    pub fn restore(&self, dir: &Path, timestamp: &str, options: &RestoreOptions, monitor: &dyn Monitor) -> Result<RestoreReport> {
        let (to, timestamp) = (Destination::Tree(dir), timestamp.to_owned());
        let wish = RestoreWish { to, options: *options, timestamp, listed_max: usize::MAX };
        restore::perform(&self.work(monitor), &self.wanted(), &wish)
    }

    /// Exports the snapshot into a directory: flat files with their checksums and a manifest, readable without icecore.
    /// The directory may be absent, empty, or an export.
    ///
    /// # Errors
    /// [`Error::Destination`], [`Error::Busy`], [`Error::Corrupt`], [`Error::Unsound`] for a database that SQLite finds
    /// damaged. The directory is then as it was.
    pub fn export(&self, dir: &Path, monitor: &dyn Monitor) -> Result<ExportReport> {
        export::perform(&self.work(monitor), &self.wanted(), dir, false)
    }

    /// Drills the snapshot: restores it into a directory, which stays, and checks the databases and their content
    /// against the records of the capture. If everything passes, the snapshot is marked as verified. Snapshots of
    /// PostgreSQL need a server and cannot be drilled here.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let database = dir.path().join("app.db");
    /// # rusqlite::Connection::open(&database)?.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)")?;
    /// # let settings = icecore::Settings::new(dir.path().join("cache"), "web1");
    /// # let store = icecore::Store::create(&dir.path().join("repository"), icecore::Key::None, settings)?;
    /// # let source = icecore::SqliteSource::new(vec![("app.db".into(), database)], icecore::SqliteOptions::default())?;
    /// # store.backup(&source, &icecore::BackupOptions::default(), &icecore::Silent)?;
    /// let report = store.snapshot("latest")?.drill(&dir.path().join("staging"), &icecore::Silent)?;
    /// assert!(report.passed && report.marked, "{:?}", report.failure());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the directory is not empty, or for a snapshot that needs a server;
    /// [`Error::Destination`], [`Error::Cancelled`]. Findings about the snapshot are in the report.
    pub fn drill(&self, dir: &Path, monitor: &dyn Monitor) -> Result<DrillReport> {
        let start = Start { instant: Instant::now(), now_ns: self.worker.now_ns(), rto: None };
        // Kept, since the caller has named the directory and may want to look at the result.
        let staging = |_: &SourceKind| Ok(Staging::Kept(dir.to_path_buf()));
        let wish = DrillWish { staging: &staging, assertions: &|_| Ok(Vec::new()), start, mark: true };
        drill::perform(&self.work(monitor), &self.wanted(), &wish)
    }

    /// Marks it as good: clears all its flags.
    ///
    /// # Errors
    /// [`Error::NoSuch`] if it was forgotten meanwhile, [`Error::Backend`].
    pub fn accept(&self, why: &str) -> Result<MarkReport> {
        self.state(MarkKind::Accept, why)
    }

    /// Protects it from being forgotten by rules, or ends that.
    ///
    /// # Errors
    /// As [`Snapshot::accept`].
    pub fn protect(&self, is_protected: bool) -> Result<MarkReport> {
        self.state(if is_protected { MarkKind::Protect } else { MarkKind::Unprotect }, "")
    }

    fn state(&self, kind: MarkKind, detail: &str) -> Result<MarkReport> {
        let statement = Statement { kind, code: String::new(), detail: detail.to_owned() };
        mark::perform(&self.work(&Silent), &self.wanted(), &[statement])
    }

    fn work<'w>(&'w self, monitor: &'w dyn Monitor) -> Work<'w> {
        Work { repo: self.repo, worker: self.worker, monitor }
    }

    fn wanted(&self) -> Wanted {
        Wanted { text: self.id(), spec: SnapshotSpec::Prefix(self.id()), filter: SnapshotFilter::default() }
    }
}
