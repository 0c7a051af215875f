//! A backend that lets a test act, lie or fail at any call. Stricter than reality: it fails where a disk hardly ever does.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use icecore::store::backend::{Backend, ObjectInfo, ObjectKey, ObjectKind, WriteMode};
use icecore::{Error, Result};

/// What is asked of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    List(ObjectKind),
    Stat(ObjectKey),
    Read(ObjectKey),
    Write(ObjectKey),
    Delete(ObjectKey),
    Settle,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Proceed,
    /// Not done, and reported as failed.
    Fail(ErrorKind),
    /// Done, and said to have failed: an answer that got lost, a directory that could not be synced.
    FailAfter(ErrorKind),
    /// The disk cannot read it (EIO).
    BadSector,
    /// Fewer bytes than asked for, without an error.
    Short,
    /// A listing without its first entry.
    Missing,
    /// A listing without this entry, counted from 0.
    Without(usize),
    /// A listing with every entry twice.
    Repeated,
    /// A listing that breaks off with an error after its first entry.
    BrokenOff(ErrorKind),
}

type Hook = dyn Fn(usize, Call) -> Fate + Send + Sync;

/// Asks its hook before each call. Calls are counted from 0.
pub struct Hooked {
    inner: Arc<dyn Backend>,
    calls: AtomicUsize,
    hook: Box<Hook>,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooked").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Hooked {
    pub fn new(inner: Arc<dyn Backend>, hook: impl Fn(usize, Call) -> Fate + Send + Sync + 'static) -> Self {
        Hooked { inner, calls: AtomicUsize::new(0), hook: Box::new(hook) }
    }

    /// One that does nothing but hide where the repository lies.
    pub fn quiet(inner: Arc<dyn Backend>) -> Self {
        Self::new(inner, |_, _| Fate::Proceed)
    }

    fn fate(&self, call: Call) -> Fate {
        (self.hook)(self.calls.fetch_add(1, Ordering::Relaxed), call)
    }
}

fn failed<T>(operation: &'static str, object: impl ToString, kind: ErrorKind) -> Result<T> {
    Err(Error::backend(operation, object.to_string(), kind.into()))
}

fn around<T>(fate: Fate, operation: &'static str, object: impl ToString, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match fate {
        Fate::Fail(kind) => failed(operation, object, kind),
        Fate::BadSector => Err(Error::backend(operation, object.to_string(), rustix::io::Errno::IO.into())),
        Fate::FailAfter(kind) => work().and_then(|_| failed(operation, object, kind)),
        _ => work(),
    }
}

impl Backend for Hooked {
    /// The same for every copy, so that one catalog serves it wherever it lies.
    fn location(&self) -> String {
        "the place of the test".into()
    }

    fn list(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectInfo>> + '_>> {
        let fate = self.fate(Call::List(kind));
        let name = format!("{kind:?}");
        let mut entries: Vec<Result<ObjectInfo>> = around(fate, "list", &name, || self.inner.list(kind))?.collect();
        entries.sort_by_key(|entry| entry.as_ref().ok().map(|info| info.key));
        match fate {
            Fate::Missing if !entries.is_empty() => drop(entries.remove(0)),
            Fate::Without(number) if number < entries.len() => drop(entries.remove(number)),
            Fate::Repeated => {
                let again: Vec<_> = entries.iter().filter_map(|entry| entry.as_ref().ok().copied()).map(Ok).collect();
                entries.extend(again);
            }
            Fate::BrokenOff(kind) => {
                entries.truncate(1);
                entries.push(failed("list", &name, kind));
            }
            _ => {}
        }
        Ok(Box::new(entries.into_iter()))
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<u64>> {
        around(self.fate(Call::Stat(*key)), "read", key, || self.inner.stat(key))
    }

    fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Vec<u8>> {
        let fate = self.fate(Call::Read(*key));
        let mut bytes = around(fate, "read", key, || self.inner.read(key, range))?;
        if fate == Fate::Short {
            bytes.truncate(bytes.len() / 2);
        }
        Ok(bytes)
    }

    fn write(&self, key: &ObjectKey, parts: &[&[u8]], mode: WriteMode) -> Result<()> {
        around(self.fate(Call::Write(*key)), "write", key, || self.inner.write(key, parts, mode))
    }

    /// One after the other: others may come between any two.
    fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        keys.iter().try_for_each(|key| around(self.fate(Call::Delete(*key)), "delete", key, || self.inner.delete(&[*key])))
    }

    fn settle(&self, keys: &[ObjectKey]) -> Result<()> {
        around(self.fate(Call::Settle), "sync", "the repository", || self.inner.settle(keys))
    }
}
