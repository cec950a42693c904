//! Least recently used chunks in the clear, bounded by bytes.

use bytes::Bytes;
use lru::LruCache;

use super::chunk::ChunkRef;

/// What an entry costs besides its content: key, list and table, a heap block's own overhead.
const ENTRY_OVERHEAD_BYTES: u64 = 160;

pub(super) struct MemoryCache {
    entries: LruCache<ChunkRef, Bytes>,
    bytes: u64,
    bytes_max: u64,
    evictions: u64,
}

fn cost(content: &Bytes) -> u64 {
    content.len() as u64 + ENTRY_OVERHEAD_BYTES
}

impl MemoryCache {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, bytes_max, evictions: 0 }
    }

    /// The chunk's content, which becomes the most recently used.
    pub(super) fn get(&mut self, chunk: &ChunkRef) -> Option<Bytes> {
        self.entries.get(chunk).cloned()
    }

    pub(super) fn contains(&self, chunk: &ChunkRef) -> bool {
        self.entries.contains(chunk)
    }

    /// Keeps `content`. What had to go for it is returned, so that the caller frees it after
    /// letting go of its lock.
    #[must_use]
    pub(super) fn insert(&mut self, chunk: ChunkRef, content: Bytes) -> Vec<Bytes> {
        if cost(&content) > self.bytes_max {
            return vec![content];
        }
        self.bytes += cost(&content);
        let mut gone = Vec::new();
        if let Some(before) = self.entries.put(chunk, content) {
            self.bytes -= cost(&before);
            gone.push(before);
        }
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.entries.pop_lru() else { break };
            self.bytes -= cost(&oldest);
            self.evictions += 1;
            gone.push(oldest);
        }
        gone
    }

    /// Bytes in use, overhead included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many chunks had to go since the start.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PackNumber;

    fn chunk(number: u32) -> ChunkRef {
        let pack = PackNumber(1);
        ChunkRef { pack, chunk: number, offset: 0, sealed_len: 1, compressed: false }
    }

    #[test]
    fn bytes_stay_within_the_bound_and_the_least_recently_used_goes_first() {
        let content = Bytes::from(vec![0; 1000]);
        let mut cache = MemoryCache::new(3 * cost(&content));
        for number in 0..3 {
            assert!(cache.insert(chunk(number), content.clone()).is_empty());
        }
        assert!(cache.get(&chunk(0)).is_some());
        assert_eq!(cache.insert(chunk(3), content.clone()).len(), 1);
        assert!(!cache.contains(&chunk(1)) && cache.contains(&chunk(0)));
        assert_eq!((cache.bytes(), cache.evictions()), (3 * cost(&content), 1));
    }

    #[test]
    fn replacing_counts_once_and_what_never_fits_evicts_nothing() {
        let mut cache = MemoryCache::new(2000);
        for _ in 0..5 {
            let _ = cache.insert(chunk(0), Bytes::from(vec![0; 1000]));
        }
        let _ = cache.insert(chunk(1), Bytes::from(vec![0; 5000]));
        assert!(cache.contains(&chunk(0)) && !cache.contains(&chunk(1)));
        assert_eq!((cache.bytes(), cache.evictions()), (1000 + ENTRY_OVERHEAD_BYTES, 0));
    }
}
