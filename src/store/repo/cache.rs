//! Caches values with a bound in bytes. It forgets entries that were not used lately.
//! It relies on callers for the size of each entry.

use std::collections::HashMap;
use std::hash::Hash;

/// Entries are in two generations. An entry that is used moves to the young one. When the young generation has half of the budget it
/// becomes the old one, and the old one is dropped. So recently used entries stay. Each step takes constant time, and no list has to be
/// kept in order.
pub(crate) struct Cache<K, V> {
    half_bytes: usize,
    young_bytes: usize,
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Cache { half_bytes: budget_bytes / 2, young_bytes: 0, young: HashMap::new(), old: HashMap::new() }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        if let Some((value, _)) = self.young.get(key) {
            return Some(value.clone());
        }
        // It is used, so it moves to the young generation and survives the next change.
        let (value, bytes) = self.old.remove(key)?;
        self.put(key.clone(), value.clone(), bytes);
        Some(value)
    }

    pub(crate) fn put(&mut self, key: K, value: V, bytes: usize) {
        if self.young_bytes + bytes > self.half_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(key, (value, bytes)).is_none() {
            self.young_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used_within_its_budget() {
        let mut cache = Cache::new(100);
        for key in 0..1000 {
            cache.put(key, key, 10);
            assert!(cache.get(&0).is_some(), "the entry that is used all the time stays");
            assert!(cache.young.len() + cache.old.len() <= 11, "at most the budget, and one entry over");
        }
        assert_eq!(cache.get(&500), None);
    }
}
