//! The journal: what operations report when they end. Entries are only added, each under a name of its own, so writers need not know of
//! each other. Only people and `status` depend on them. An entry is compared with its name, which is the hash of its bytes.

use super::Repository;
use super::segments::missing_is_damage;
use crate::error::{Error, Result};
use crate::id::LogId;
use crate::store::backend::{BackendExt, ObjectKey, ObjectKind, WriteMode};
use crate::store::format::Kind;
use crate::store::format::log::{LOG_LEN_MAX, LogRecord};
use crate::store::repo::u64_from;

/// The name of an entry. Names are ordered by time, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogName {
    /// When it was written, nanoseconds since 1970 UTC by the writer's clock; not negative.
    pub time_ns: i64,
    /// The hash of its bytes.
    pub id: LogId,
}

impl LogName {
    fn key(self) -> ObjectKey {
        ObjectKey::Log { time_ns: self.time_ns, id: self.id }
    }
}

impl Repository {
    /// Stores an entry, durably.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if its texts are too long or its time is before 1970, [`Error::Backend`].
    pub fn write_log(&self, entry: &LogRecord) -> Result<LogName> {
        let stored = self.seal_record(Kind::Log, entry)?;
        // A negative time would break the order of the names, and a longer entry could not be read again.
        if stored.len() > LOG_LEN_MAX || entry.time_ns < 0 {
            let detail = format!(
                "a journal entry has at most {LOG_LEN_MAX} bytes and a time after 1970; this one has {} bytes and the time {} ns",
                stored.len(),
                entry.time_ns
            );
            return Err(Error::InvalidArgument(detail));
        }
        let name = LogName { time_ns: entry.time_ns, id: LogId(*blake3::hash(&stored).as_bytes()) };
        self.backend().write(&name.key(), &[&stored], WriteMode::CreateNew)?;
        Ok(name)
    }

    /// Reads an entry; `None` if it is not there any more.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedFormat`], [`Error::Backend`].
    pub fn read_log(&self, name: &LogName) -> Result<Option<LogRecord>> {
        let object = name.key();
        let read = self.backend().read_if_there(&object, u64_from(LOG_LEN_MAX)).map_err(|error| missing_is_damage(error, &object))?;
        let Some(stored) = read else { return Ok(None) };
        if blake3::hash(&stored).as_bytes() != name.id.as_bytes() {
            return Err(Error::corrupt(object.to_string(), "its name is not the hash of its bytes"));
        }
        let entry: LogRecord = self.open_record(Kind::Log, &object, &stored)?;
        // The time in the name decides the order. Someone could have changed it, because the hash does not cover it.
        match entry.time_ns == name.time_ns {
            true => Ok(Some(entry)),
            false => Err(Error::corrupt(object.to_string(), format!("its name has another time than its content, {} ns", entry.time_ns))),
        }
    }

    /// The names of all entries, oldest first by the clocks of their writers.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn list_log(&self) -> Result<Vec<LogName>> {
        let mut names = Vec::new();
        for key in self.backend().names(ObjectKind::Log)? {
            if let ObjectKey::Log { time_ns, id } = key? {
                names.push(LogName { time_ns, id });
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Removes the oldest entries, so that `keep` stay. Returns how many were removed.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn trim_log(&self, keep: usize) -> Result<u64> {
        let names = self.list_log()?;
        let old = names.get(..names.len().saturating_sub(keep)).unwrap_or_default();
        self.backend().delete(&old.iter().map(|name| name.key()).collect::<Vec<_>>())?;
        Ok(u64_from(old.len()))
    }
}
