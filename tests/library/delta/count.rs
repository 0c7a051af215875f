//! A backend that counts what is asked of it.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use icecore::Result;
use icecore::store::backend::{Backend, ObjectInfo, ObjectKey, ObjectKind, WriteMode};

/// Requests, and bytes one way and the other.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    pub lists: usize,
    pub stats: usize,
    pub reads: usize,
    pub writes: usize,
    pub deletes: usize,
    /// Objects that were to be made durable.
    pub settled: usize,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

impl Calls {
    pub fn requests(&self) -> usize {
        self.lists + self.stats + self.reads + self.writes + self.deletes + self.settled
    }
}

#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn Backend>,
    calls: Mutex<Calls>,
}

impl Counted {
    pub fn new(inner: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Counted { inner, calls: Mutex::default() })
    }

    /// What was asked since the last time.
    pub fn take(&self) -> Calls {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn count(&self, change: impl FnOnce(&mut Calls)) {
        change(&mut self.calls.lock().unwrap());
    }
}

impl Backend for Counted {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectInfo>> + '_>> {
        self.count(|calls| calls.lists += 1);
        self.inner.list(kind)
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.count(|calls| calls.stats += 1);
        self.inner.stat(key)
    }

    fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Vec<u8>> {
        let bytes = self.inner.read(key, range)?;
        self.count(|calls| {
            calls.reads += 1;
            calls.bytes_read += bytes.len() as u64;
        });
        Ok(bytes)
    }

    fn write(&self, key: &ObjectKey, parts: &[&[u8]], mode: WriteMode) -> Result<()> {
        self.count(|calls| {
            calls.writes += 1;
            calls.bytes_written += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        });
        self.inner.write(key, parts, mode)
    }

    fn write_all(&self, objects: &[(ObjectKey, Vec<u8>)], mode: WriteMode) -> Result<Vec<bool>> {
        self.count(|calls| {
            calls.writes += 1;
            calls.bytes_written += objects.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        });
        self.inner.write_all(objects, mode)
    }

    fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        self.count(|calls| calls.deletes += 1);
        self.inner.delete(keys)
    }

    fn settle(&self, keys: &[ObjectKey]) -> Result<()> {
        self.count(|calls| calls.settled += keys.len());
        self.inner.settle(keys)
    }
}
