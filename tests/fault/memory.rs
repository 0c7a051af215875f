//! A repository in memory, to be copied and damaged quickly.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use icecore::store::backend::{Backend, ObjectInfo, ObjectKey, ObjectKind, WriteMode};
use icecore::{Error, Result};

pub type Objects = BTreeMap<ObjectKey, Arc<Vec<u8>>>;

/// Keeps the contract of [`Backend`].
#[derive(Debug, Default)]
pub struct Memory {
    pub objects: Mutex<Objects>,
}

impl Memory {
    pub fn new(objects: Objects) -> Arc<Self> {
        Arc::new(Memory { objects: Mutex::new(objects) })
    }

    /// Everything in another backend.
    pub fn load(from: &dyn Backend) -> Objects {
        let keys = ObjectKind::ALL.into_iter().flat_map(|kind| from.list(kind).unwrap().map(|info| info.unwrap().key).collect::<Vec<_>>());
        keys.map(|key| (key, Arc::new(from.read(&key, None).unwrap()))).collect()
    }

    pub fn copy(&self) -> Objects {
        self.objects.lock().unwrap().clone()
    }
}

fn failed<T>(operation: &'static str, key: &ObjectKey, kind: ErrorKind) -> Result<T> {
    Err(Error::backend(operation, key.to_string(), kind.into()))
}

impl Backend for Memory {
    fn location(&self) -> String {
        "memory".into()
    }

    fn list(&self, kind: ObjectKind) -> Result<Box<dyn Iterator<Item = Result<ObjectInfo>> + '_>> {
        let objects = self.objects.lock().unwrap();
        let of_kind = objects.iter().filter(|(key, _)| key.kind() == kind);
        let infos: Vec<_> = of_kind.map(|(key, bytes)| Ok(ObjectInfo { key: *key, size: bytes.len() as u64 })).collect();
        Ok(Box::new(infos.into_iter()))
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<u64>> {
        Ok(self.objects.lock().unwrap().get(key).map(|bytes| bytes.len() as u64))
    }

    fn read(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Vec<u8>> {
        let Some(bytes) = self.objects.lock().unwrap().get(key).cloned() else { return failed("read", key, ErrorKind::NotFound) };
        let range = range.unwrap_or(0..bytes.len() as u64);
        match bytes.get(range.start as usize..range.end as usize) {
            Some(part) => Ok(part.to_vec()),
            None => failed("read", key, ErrorKind::UnexpectedEof),
        }
    }

    fn write(&self, key: &ObjectKey, parts: &[&[u8]], mode: WriteMode) -> Result<()> {
        let mut objects = self.objects.lock().unwrap();
        if mode == WriteMode::CreateNew && objects.contains_key(key) {
            return failed("write", key, ErrorKind::AlreadyExists);
        }
        objects.insert(*key, Arc::new(parts.concat()));
        Ok(())
    }

    fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let mut objects = self.objects.lock().unwrap();
        keys.iter().for_each(|key| drop(objects.remove(key)));
        Ok(())
    }

    fn settle(&self, _keys: &[ObjectKey]) -> Result<()> {
        Ok(())
    }
}
