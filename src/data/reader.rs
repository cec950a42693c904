//! Reads chunks back: memory, then disk, then the bucket.
//!
//! ```text
//! read([chunk..]) -- in memory? -- in flight? -- else: runs of neighbours, a task each
//!                                                  |
//!                     disk cache <-- sealed bytes -- fetch: ranged GET, at most `requests_max` at once
//!                                                  |
//!                                               open, decompress --> memory --> all who wait
//! ```
//!
//! Invariants: content is returned only if it authenticated as that chunk of
//! that pack; a chunk is fetched once at a time; a reader that goes away takes
//! nothing from the others; errors are never cached.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::DataError;
use super::disk_cache::{DiskCache, DiskCacheConfig};
use super::fetch;
use super::flight::{Claim, Desk, Ticket};
use super::pack::{BuiltPack, CHUNK_LEN_MAX, PackContext};
use super::plan::{plan, request_len};
use crate::base::{Epoch, MIB, PackNumber};
use crate::crypto::{Opener, TAG_LEN};
use crate::format::Place;
use crate::store::object_store::{ObjectStore, path::Path};

/// Which chunk of which pack; what a cached chunk is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// The pack.
    pub pack: PackNumber,
    /// Index of the chunk in the pack.
    pub chunk: u32,
    /// First byte of the sealed chunk in the object.
    pub offset: u32,
    /// Length of the sealed chunk in bytes, tag included.
    pub sealed_len: u32,
    /// The content was compressed with zstd before sealing.
    pub compressed: bool,
}

impl ChunkRef {
    /// The chunk that a fragment's bytes lie in and how many bytes of its content come before
    /// them; `None` if they lie in the page itself.
    pub fn from_place(place: &Place) -> Option<(Self, u32)> {
        match *place {
            Place::Pack { pack, chunk, offset, sealed_len, skip, compressed } => {
                Some((Self { pack, chunk, offset, sealed_len, compressed }, skip))
            }
            Place::Inline(_) => None,
        }
    }

    /// Its bytes in the object.
    pub(super) fn range(&self) -> Range<u64> {
        let start = u64::from(self.offset);
        start..start + u64::from(self.sealed_len)
    }

    fn check(&self) -> Result<(), DataError> {
        // Sealed content is at most a block, and never empty.
        let fits = (TAG_LEN + 1..=CHUNK_LEN_MAX + TAG_LEN).contains(&(self.sealed_len as usize));
        let (pack, offset) = (self.pack, u64::from(self.offset));
        if fits {
            Ok(())
        } else {
            Err(DataError::BadReference { pack, offset, len: self.sealed_len })
        }
    }
}

/// What a pack's record tells about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackSeal {
    /// Data key epoch that sealed it.
    pub epoch: Epoch,
    /// Salt of its header.
    pub salt: [u8; 32],
}

/// Bounds of a [`BlockReader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderConfig {
    /// Memory for chunks in the clear, in bytes.
    pub memory_bytes: u64,
    /// Where sealed bytes are kept on disk, if anywhere.
    pub disk: Option<DiskCacheConfig>,
    /// GET requests at once; at least 1.
    pub requests_max: usize,
}

impl Default for ReaderConfig {
    fn default() -> Self {
        Self { memory_bytes: 256 * MIB, disk: None, requests_max: 16 }
    }
}

/// What a [`BlockReader`] did since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReaderStats {
    /// Chunks that were in memory when asked for.
    pub hits: u64,
    /// Chunks that a reader had to wait for.
    pub misses: u64,
    /// Chunks that were fetched ahead of any reader.
    pub prefetched: u64,
    /// Chunks that the disk cache had.
    pub disk_hits: u64,
    /// GET requests sent.
    pub requests: u64,
    /// Bytes that came from the bucket.
    pub fetched_bytes: u64,
    /// Chunks that had to leave memory.
    pub evictions: u64,
    /// Bytes of memory in use now.
    pub memory_bytes: u64,
    /// Bytes of disk in use now.
    pub disk_bytes: u64,
}

/// Openers kept: one is about 1 KiB and saves a key derivation a read.
const OPENERS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");
/// Most bytes of prefetched chunks on their way: several streams with full windows.
const PREFETCH_BYTES_MAX: u64 = 64 * MIB;

#[derive(Debug, Default)]
pub(super) struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    prefetched: AtomicU64,
    pub(super) disk_hits: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) fetched_bytes: AtomicU64,
}

/// How one pack is found and opened.
#[derive(Clone)]
pub(super) struct OpenPack {
    seal: PackSeal,
    pub(super) path: Path,
    pub(super) opener: Opener,
}

/// What the reader and its tasks share.
pub(super) struct Shared {
    pub(super) store: Arc<dyn ObjectStore>,
    context: Arc<PackContext>,
    pub(super) runtime: Handle,
    pub(super) requests: Semaphore,
    /// Prefetching leaves a quarter of the requests to those who wait.
    pub(super) requests_ahead: Semaphore,
    pub(super) disk: DiskCache,
    openers: Mutex<LruCache<PackNumber, OpenPack>>,
    pub(super) counters: Counters,
}

impl Shared {
    /// The pack's opener, from those kept if it is among them.
    pub(super) fn open(&self, pack: PackNumber, seal: &PackSeal) -> Result<OpenPack, DataError> {
        let lock = || self.openers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = lock().get(&pack).filter(|open| open.seal == *seal) {
            return Ok(open.clone());
        }
        let opener = self.context.opener(pack, seal.epoch, &seal.salt)?;
        let open = OpenPack { seal: *seal, path: self.context.path(pack), opener };
        lock().put(pack, open.clone());
        Ok(open)
    }
}

/// Reads chunks of packs through memory and disk caches.
pub struct BlockReader {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    requests_max: usize,
    prefetch_bytes_max: u64,
}

impl BlockReader {
    /// Fetches on `runtime`, whichever threads ask. A disk cache that cannot be used is left off
    /// with a warning in the log.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        context: Arc<PackContext>,
        config: ReaderConfig,
        runtime: Handle,
    ) -> Self {
        let requests_max = config.requests_max.clamp(1, Semaphore::MAX_PERMITS);
        let ahead = (requests_max - requests_max / 4).max(1);
        let disk = match config.disk {
            Some(disk) => DiskCache::open(&disk, context.volume(), runtime.clone()),
            None => DiskCache::off(),
        };
        let shared = Shared {
            store,
            context,
            runtime,
            requests: Semaphore::new(requests_max),
            requests_ahead: Semaphore::new(ahead),
            disk,
            openers: Mutex::new(LruCache::new(OPENERS_MAX)),
            counters: Counters::default(),
        };
        Self {
            shared: Arc::new(shared),
            desk: Desk::new(config.memory_bytes),
            requests_max,
            prefetch_bytes_max: PREFETCH_BYTES_MAX.min(config.memory_bytes / 2),
        }
    }

    /// The chunk's content if it is in memory. Never waits.
    pub fn cached(&self, chunk: &ChunkRef) -> Option<Bytes> {
        let content = self.desk.get(chunk)?;
        self.shared.counters.hits.fetch_add(1, Relaxed);
        Some(content)
    }

    /// The whole content of each chunk, in the order asked for.
    ///
    /// Dropping the future leaves the fetches running: their content is kept.
    ///
    /// # Errors
    /// The first chunk's that could not be read. By [`kind`](DataError::kind): `Retry` for a store
    /// that failed, `Corrupt` for bytes that are gone or not the ones written.
    pub async fn read(&self, chunks: &[(ChunkRef, PackSeal)]) -> Result<Vec<Bytes>, DataError> {
        enum Got {
            Ready(Bytes),
            Later(super::flight::Pending),
        }
        // Before any claim, since dropping a ticket fails others who wait for it.
        chunks.iter().try_for_each(|(chunk, _)| chunk.check())?;
        let mut got = Vec::with_capacity(chunks.len());
        let mut mine = Vec::new();
        for (chunk, seal) in chunks {
            got.push(match self.desk.claim(*chunk, seal) {
                Claim::Ready(content) => Got::Ready(content),
                Claim::Pending(pending) => Got::Later(pending),
                Claim::Mine(ticket, pending) => {
                    mine.push(ticket);
                    Got::Later(pending)
                }
            });
        }
        let late = got.iter().filter(|got| matches!(got, Got::Later(_))).count() as u64;
        self.shared.counters.misses.fetch_add(late, Relaxed);
        self.shared.counters.hits.fetch_add(got.len() as u64 - late, Relaxed);
        self.fetch(mine, false);
        let mut contents = Vec::with_capacity(got.len());
        for got in got {
            contents.push(match got {
                Got::Ready(content) => content,
                Got::Later(pending) => pending.wait().await?,
            });
        }
        Ok(contents)
    }

    /// Fetches chunks into memory in the background. Past a bound the rest is left out; errors are
    /// left to those who read.
    pub fn prefetch(&self, chunks: Vec<(ChunkRef, PackSeal)>) {
        let tickets: Vec<_> = chunks
            .into_iter()
            .filter(|(chunk, _)| chunk.check().is_ok())
            .filter_map(|(chunk, seal)| {
                self.desk.claim_ahead(chunk, &seal, self.prefetch_bytes_max)
            })
            .collect();
        self.shared.counters.prefetched.fetch_add(tickets.len() as u64, Relaxed);
        self.fetch(tickets, true);
    }

    fn fetch(&self, tickets: Vec<Ticket>, ahead: bool) {
        use super::plan::Wanted as _;
        let total = tickets.iter().map(|ticket| u64::from(ticket.chunk().sealed_len)).sum();
        for run in plan(tickets, request_len(total, self.requests_max)) {
            let shared = Arc::clone(&self.shared);
            self.shared.runtime.spawn(fetch::run(shared, run, ahead));
        }
    }

    /// Keeps content that was just written, as if it had been read. It should own its memory: a
    /// slice keeps all of the buffer it was cut from.
    pub fn insert(&self, chunk: ChunkRef, content: Bytes) {
        self.desk.insert(chunk, content);
    }

    /// Keeps a pack that was just uploaded on disk, if there is a disk cache with time for it.
    pub fn keep_sealed(&self, pack: &BuiltPack) {
        let mut offset = 0;
        for part in &pack.body {
            self.shared.disk.put(&pack.path, offset, part.clone());
            offset += part.len() as u64;
        }
    }

    /// What happened since the start.
    pub fn stats(&self) -> ReaderStats {
        let counters = &self.shared.counters;
        let (memory_bytes, evictions) = self.desk.usage();
        ReaderStats {
            hits: counters.hits.load(Relaxed),
            misses: counters.misses.load(Relaxed),
            prefetched: counters.prefetched.load(Relaxed),
            disk_hits: counters.disk_hits.load(Relaxed),
            requests: counters.requests.load(Relaxed),
            fetched_bytes: counters.fetched_bytes.load(Relaxed),
            evictions,
            memory_bytes,
            disk_bytes: self.shared.disk.bytes(),
        }
    }
}

#[cfg(test)]
impl BlockReader {
    /// Nothing waits to be written to disk.
    pub(super) fn disk_is_idle(&self) -> bool {
        self.shared.disk.is_idle()
    }
}

impl std::fmt::Debug for BlockReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockReader").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
