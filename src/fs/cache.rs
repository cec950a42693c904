//! Committed metadata records in memory, absent ones too.

use bytes::Bytes;
use lru::LruCache;

use crate::format::Key;

/// Bytes that an entry costs besides its key and value, roughly.
const OVERHEAD_BYTES: usize = 128;

/// What memory knows of a record: its value, or that there is none.
pub(super) type Known = Option<Bytes>;

/// A least-recently-used cache of records with a bound in bytes.
pub(super) struct RecordCache {
    entries: LruCache<Key, Option<Bytes>>,
    bytes: usize,
    bytes_max: usize,
}

impl RecordCache {
    pub fn new(bytes_max: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, bytes_max }
    }

    /// What is known of `key`: nothing, that it is absent, or its value.
    pub fn get(&mut self, key: &Key) -> Option<Known> {
        self.entries.get(key).cloned()
    }

    /// Remembers `value`, or that there is none.
    pub fn insert(&mut self, key: Key, value: Option<Bytes>) {
        self.bytes += cost(&key, value.as_ref());
        if let Some((key, old)) = self.entries.push(key, value) {
            self.bytes -= cost(&key, old.as_ref());
        }
        while self.bytes > self.bytes_max {
            let Some((key, old)) = self.entries.pop_lru() else { break };
            self.bytes -= cost(&key, old.as_ref());
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

fn cost(key: &Key, value: Option<&Bytes>) -> usize {
    OVERHEAD_BYTES + key.as_bytes().len() + value.map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Inode;

    #[test]
    fn oldest_records_leave_when_the_bound_is_reached() {
        let mut cache = RecordCache::new(10 * (OVERHEAD_BYTES + 9 + 100));
        for number in 0..20 {
            cache.insert(Key::inode(Inode(number)), Some(Bytes::from(vec![0; 100])));
        }
        assert_eq!(cache.get(&Key::inode(Inode(9))), None);
        assert!(cache.get(&Key::inode(Inode(10))).is_some());
        cache.insert(Key::inode(Inode(10)), None);
        assert_eq!(cache.get(&Key::inode(Inode(10))), Some(None));
        assert!(cache.bytes <= cache.bytes_max);
    }
}
