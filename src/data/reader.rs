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
//! that pack; a chunk is fetched once at a time, but for a reader who waited for
//! somebody else's fetch in vain; a reader that goes away takes nothing from the
//! others; errors are never cached.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::select_ok;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::DataError;
use super::chunk::{ChunkRef, PackSeal};
use super::disk_cache::{DiskCache, DiskCacheConfig};
use super::fetch::{self, Fetcher};
use super::flight::{Claim, Desk, Pending, Ticket};
use super::pack::{BuiltPack, PackContext};
use super::plan::{REQUEST_MAX, Wanted as _, plan, request_len};
use super::readahead::Room;
use crate::base::{ErrorKind, MIB};
use crate::store::object_store::ObjectStore;

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

/// Most bytes of prefetched chunks on their way: several streams with full windows.
const PREFETCH_BYTES_MAX: u64 = 64 * MIB;

/// How long a reader waits for a fetch that somebody else began, which may be part of much that is read ahead: on a slow line
/// a request of his own is answered sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// One chunk of a read.
enum Got {
    Ready(Bytes),
    /// Fetched for this reader; what was waited for in vain may still come first.
    Mine(Pending, Option<Pending>),
    /// Fetched for others, or ahead.
    Others(Pending),
}

/// Reads chunks of packs through memory and disk caches.
pub struct BlockReader {
    fetcher: Arc<Fetcher>,
    desk: Arc<Desk>,
    requests_max: usize,
    prefetch_bytes_max: u64,
    /// What was fetched for several streams stays until it is read.
    window_max: u64,
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
        let disk = match config.disk {
            Some(disk) => DiskCache::open(&disk, context.volume(), runtime.clone()),
            None => DiskCache::off(),
        };
        let fetcher = Fetcher::new(store, context, disk, requests_max, runtime);
        // On their way they are in no cache.
        let prefetch_bytes_max = PREFETCH_BYTES_MAX.min(config.memory_bytes / 4);
        Self {
            fetcher: Arc::new(fetcher),
            desk: Desk::new(config.memory_bytes - prefetch_bytes_max),
            requests_max,
            prefetch_bytes_max,
            window_max: config.memory_bytes / 8,
        }
    }

    /// The chunk's content if it is in memory. Never waits.
    pub fn cached(&self, chunk: &ChunkRef) -> Option<Bytes> {
        let content = self.desk.get(chunk)?;
        self.fetcher.counters.hits.fetch_add(1, Relaxed);
        Some(content)
    }

    /// Whether the chunk's content is in memory, or on its way there.
    pub fn is_coming(&self, chunk: &ChunkRef) -> bool {
        self.desk.is_coming(chunk)
    }

    /// The whole content of each chunk, in the order asked for.
    ///
    /// The fetches begin with this call, before what is asked for ahead later. Dropping the future
    /// leaves them running: their content is kept. A fetch that somebody else began, and that fails
    /// in a way that may pass or takes too long, is begun once more.
    ///
    /// # Errors
    /// The first chunk's that could not be read. By [`kind`](DataError::kind): `Retry` for a store
    /// that failed, `Corrupt` for bytes that are gone or not the ones written.
    pub fn read(
        self: &Arc<Self>,
        chunks: &[(ChunkRef, PackSeal)],
    ) -> impl Future<Output = Result<Vec<Bytes>, DataError>> + Send + use<> {
        let (reader, chunks) = (Arc::clone(self), chunks.to_vec());
        // Before any claim, since dropping a ticket fails others who wait for it.
        let checked = chunks.iter().try_for_each(|(chunk, _)| chunk.check());
        let mut got = Vec::new();
        if checked.is_ok() {
            got = self.claim(&chunks, (0..chunks.len()).map(|index| (index, None)));
            let late = got.iter().filter(|(_, got)| !matches!(got, Got::Ready(_))).count() as u64;
            self.fetcher.counters.misses.fetch_add(late, Relaxed);
            self.fetcher.counters.hits.fetch_add(got.len() as u64 - late, Relaxed);
        }
        async move {
            checked?;
            let mut contents = vec![Bytes::new(); chunks.len()];
            while !got.is_empty() {
                let (until, mut in_vain) = (Instant::now() + PATIENCE, Vec::new());
                for (index, got) in got {
                    contents[index] = match got {
                        Got::Ready(content) => content,
                        Got::Mine(pending, None) => pending.wait().await?,
                        Got::Mine(pending, Some(before)) => {
                            let both = [pending.wait().boxed(), before.wait().boxed()];
                            select_ok(both).await?.0
                        }
                        Got::Others(pending) => {
                            match timeout_at(until, pending.clone().wait()).await {
                                Ok(Ok(content)) => content,
                                Ok(Err(error)) if error.kind() != ErrorKind::Retry => {
                                    return Err(error);
                                }
                                Ok(Err(_)) | Err(_) => {
                                    in_vain.push((index, Some(pending)));
                                    continue;
                                }
                            }
                        }
                    };
                }
                got = reader.claim(&chunks, in_vain.into_iter());
            }
            Ok(contents)
        }
    }

    /// Claims some of `chunks`, by their index, each with the flight that was waited for in vain,
    /// and has fetched what nobody fetches.
    fn claim(
        &self,
        chunks: &[(ChunkRef, PackSeal)],
        wanted: impl Iterator<Item = (usize, Option<Pending>)>,
    ) -> Vec<(usize, Got)> {
        let mut mine = Vec::new();
        let claim = |(index, in_vain): (usize, Option<Pending>)| {
            let (chunk, seal) = &chunks[index];
            let got = match self.desk.claim(*chunk, seal, in_vain.as_ref()) {
                Claim::Ready(content) => Got::Ready(content),
                Claim::Pending(pending) => Got::Others(pending),
                Claim::Mine(ticket, pending) => {
                    mine.push(ticket);
                    Got::Mine(pending, in_vain)
                }
            };
            (index, got)
        };
        let got = wanted.map(claim).collect();
        let total = mine.iter().map(|ticket| u64::from(ticket.chunk().sealed_len)).sum();
        self.fetch(mine, request_len(total, self.requests_max), false);
        got
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
        self.fetcher.counters.prefetched.fetch_add(tickets.len() as u64, Relaxed);
        self.fetch(tickets, REQUEST_MAX, true);
    }

    /// How much may be asked for ahead.
    pub fn room_ahead(&self) -> Room {
        let bytes_max = self.prefetch_bytes_max;
        let free = bytes_max.saturating_sub(self.desk.prefetching_bytes());
        // Chunks are counted with their tags, 16 bytes for 4 KiB at most.
        Room { window_max: self.window_max, free: free - free.div_ceil(256) }
    }

    fn fetch(&self, tickets: Vec<Ticket>, request_len: u64, ahead: bool) {
        for run in plan(tickets, request_len) {
            let fetcher = Arc::clone(&self.fetcher);
            self.fetcher.runtime.spawn(fetch::run(fetcher, run, ahead));
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
            self.fetcher.disk.put(&pack.path, offset, part.clone());
            offset += part.len() as u64;
        }
    }

    /// What happened since the start.
    pub fn stats(&self) -> ReaderStats {
        let counters = &self.fetcher.counters;
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
            disk_bytes: self.fetcher.disk.bytes(),
        }
    }
}

#[cfg(test)]
impl BlockReader {
    /// No fetch runs and nothing is counted as prefetching.
    pub(super) fn nothing_in_flight(&self) -> bool {
        self.desk.nothing_in_flight()
    }

    /// Nothing waits to be written to disk.
    pub(super) fn disk_is_idle(&self) -> bool {
        self.fetcher.disk.is_idle()
    }
}

impl std::fmt::Debug for BlockReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockReader").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
