//! Fetches one run of neighbouring chunks: from disk what is there, the rest with ranged GETs.
//!
//! ```text
//! run --> disk: what opens is done --> GET start of the first missing .. end of the last
//!                                        pieces of the body --> chunk by chunk --> opened in batches
//! ```
//!
//! Chunks are opened and handed out while the rest of the body still arrives, so a request may be
//! long without anybody waiting for its end. A chunk is gathered in the memory that it is kept in.
//! A body that breaks off is asked for again from the first chunk still missing.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use lru::LruCache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::DataError;
use super::chunk::PackSeal;
use super::disk_cache::DiskCache;
use super::flight::Ticket;
use super::pack::{PackContext, open_chunk};
use super::plan::{REQUEST_MAX, Run, Wanted as _, plan};
use crate::base::{KIB, PackNumber};
use crate::crypto::Opener;
use crate::store::object_store::{
    self, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, path::Path,
};

/// More sealed bytes than this are opened off the async threads: about 0.2 ms of work.
const OPEN_INLINE_MAX: usize = 256 * KIB as usize;
/// Requests for one run when bodies break off; refused requests are the store's to repeat.
const ATTEMPTS_MAX: u32 = 3;

/// Openers kept: one is about 1 KiB and saves a key derivation a read.
const OPENERS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");

/// What happened since the start; [`ReaderStats`](super::ReaderStats) tells what each counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) prefetched: AtomicU64,
    pub(super) disk_hits: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) fetched_bytes: AtomicU64,
}

/// How one pack is found and opened.
#[derive(Clone)]
struct OpenPack {
    seal: PackSeal,
    path: Path,
    opener: Opener,
}

/// Where chunks come from, and what bounds their coming.
pub(super) struct Fetcher {
    store: Arc<dyn ObjectStore>,
    context: Arc<PackContext>,
    pub(super) runtime: Handle,
    requests: Semaphore,
    /// Prefetching leaves a quarter of the requests to those who wait.
    requests_ahead: Semaphore,
    pub(super) disk: DiskCache,
    openers: Mutex<LruCache<PackNumber, OpenPack>>,
    pub(super) counters: Counters,
}

impl Fetcher {
    /// At most `requests_max` GETs at once (at least 1).
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        context: Arc<PackContext>,
        disk: DiskCache,
        requests_max: usize,
        runtime: Handle,
    ) -> Self {
        let ahead = (requests_max - requests_max / 4).max(1);
        Self {
            store,
            context,
            runtime,
            requests: Semaphore::new(requests_max.max(1)),
            requests_ahead: Semaphore::new(ahead),
            disk,
            openers: Mutex::new(LruCache::new(OPENERS_MAX)),
            counters: Counters::default(),
        }
    }

    /// The pack's opener, from those kept if it is among them.
    fn open(&self, pack: PackNumber, seal: &PackSeal) -> Result<OpenPack, DataError> {
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

/// Completes every ticket of `run`. `ahead`: nobody waits for it yet.
pub(super) async fn run(fetcher: Arc<Fetcher>, run: Run<Ticket>, ahead: bool) {
    let Some(seal) = run.wanted.first().map(|ticket| *ticket.seal()) else { return };
    let pack = match fetcher.open(run.pack, &seal) {
        Ok(pack) => pack,
        Err(error) => return fail(run.wanted, &error),
    };
    let missing = from_disk(&fetcher, &pack, run.wanted).await;
    for run in plan(missing, REQUEST_MAX) {
        // Both semaphores live as long as `fetcher` and are never closed; if they were, dropping
        // the tickets tells those who wait.
        let _ahead = if ahead { fetcher.requests_ahead.acquire().await.ok() } else { None };
        let Ok(_request) = fetcher.requests.acquire().await else { return };
        from_bucket(&fetcher, &pack, run).await;
    }
}

fn fail(tickets: impl IntoIterator<Item = Ticket>, error: &DataError) {
    for ticket in tickets {
        ticket.complete(Err(error.clone()));
    }
}

/// Completes what the disk cache has; the rest. Its bytes prove themselves by opening.
async fn from_disk(fetcher: &Arc<Fetcher>, pack: &OpenPack, tickets: Vec<Ticket>) -> Vec<Ticket> {
    if !fetcher.disk.has(&pack.path) {
        return tickets;
    }
    let (task, pack) = (Arc::clone(fetcher), pack.clone());
    let read = fetcher.runtime.spawn_blocking(move || {
        let Some(file) = task.disk.read(&pack.path) else { return tickets };
        let mut missing = Vec::new();
        for ticket in tickets {
            let chunk = *ticket.chunk();
            let sealed = file.chunk(chunk.range().start, chunk.sealed_len as usize);
            let opened = sealed.and_then(|mut sealed| {
                let content = open_chunk(&chunk, &pack.opener, &mut sealed);
                content.ok()
            });
            match opened {
                Some(content) => {
                    task.counters.disk_hits.fetch_add(1, Relaxed);
                    ticket.complete(Ok(content));
                }
                None => missing.push(ticket),
            }
        }
        missing
    });
    // A panic there has dropped the tickets, which tells those who wait.
    read.await.unwrap_or_default()
}

async fn from_bucket(fetcher: &Arc<Fetcher>, pack: &OpenPack, run: Run<Ticket>) {
    let end = run.range.end;
    let mut download = Download {
        fetcher,
        pack,
        number: run.pack,
        missing: run.wanted.into(),
        part: Vec::new(),
        ready: Vec::new(),
        ready_bytes: 0,
        opening: Vec::new(),
    };
    for attempt in 1..=ATTEMPTS_MAX {
        let Some(first) = download.missing.front() else { break };
        let broken = download.request(first.chunk().range().start..end).await;
        download.open_ready();
        match broken {
            Err(Broken::Body(_)) if attempt < ATTEMPTS_MAX => {}
            Err(Broken::Body(error) | Broken::Request(error)) => {
                fail(std::mem::take(&mut download.missing), &error);
            }
            Ok(()) => {}
        }
    }
    // Holds this run's request until its bytes are used, which bounds the memory they take. A panic
    // there has dropped its tickets, which tells those who wait.
    futures::future::join_all(download.opening).await;
}

/// Why a request did not bring all chunks.
enum Broken {
    /// Asking again brings the same.
    Request(DataError),
    /// The body broke off: what is missing may be asked for again.
    Body(DataError),
}

/// One run on its way from the bucket.
struct Download<'a> {
    fetcher: &'a Arc<Fetcher>,
    pack: &'a OpenPack,
    number: PackNumber,
    /// Chunks not here yet, by offset.
    missing: VecDeque<Ticket>,
    /// What is here of the first of them.
    part: Vec<u8>,
    /// Chunks whose sealed bytes are here, to be opened together.
    ready: Vec<(Ticket, Vec<u8>)>,
    ready_bytes: usize,
    opening: Vec<JoinHandle<()>>,
}

impl Download<'_> {
    async fn request(&mut self, range: Range<u64>) -> Result<(), Broken> {
        let (number, offset) = (self.number, range.start);
        let options =
            GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        self.fetcher.counters.requests.fetch_add(1, Relaxed);
        let result = match self.fetcher.store.get_opts(&self.pack.path, options).await {
            Ok(result) => result,
            Err(error) => return Err(Broken::Request(self.refusal(offset, error).await)),
        };
        let sent = result.range.clone();
        if sent.start > range.start {
            return Err(Broken::Request(DataError::Truncated { pack: number, offset }));
        }
        let mut body = result.into_stream();
        self.part = Vec::new();
        let mut at = sent.start;
        while !self.missing.is_empty() {
            let Some(piece) = body.next().await else { break };
            let piece =
                piece.map_err(|error| Broken::Body(DataError::reading(number, at, error)))?;
            self.fetcher.counters.fetched_bytes.fetch_add(piece.len() as u64, Relaxed);
            self.take(&mut at, piece);
        }
        let Some(first) = self.missing.front().map(|ticket| ticket.chunk().range()) else {
            return Ok(());
        };
        if first.end > sent.end {
            let offset = first.start;
            return Err(Broken::Request(DataError::Truncated { pack: number, offset }));
        }
        let source = object_store::Error::Generic {
            store: "pack",
            source: "the answer ended before its announced length".into(),
        };
        Err(Broken::Body(DataError::reading(number, at, source)))
    }

    /// What a refused request means. Stores have no common answer to a range behind the object's
    /// end, so its size tells a cut pack from a passing fault.
    async fn refusal(&self, offset: u64, error: object_store::Error) -> DataError {
        if matches!(error, object_store::Error::Generic { .. }) {
            let head = self.fetcher.store.head(&self.pack.path).await;
            if head.is_ok_and(|object| object.size <= offset) {
                return DataError::Truncated { pack: self.number, offset };
            }
        }
        DataError::reading(self.number, offset, error)
    }

    /// Takes what is wanted of `piece`, whose first byte is byte `at` of the object.
    fn take(&mut self, at: &mut u64, mut piece: Bytes) {
        while let Some(ticket) = self.missing.front() {
            let range = ticket.chunk().range();
            // What lies between two chunks.
            let gap = range.start.saturating_sub(*at).min(piece.len() as u64);
            piece.advance(gap as usize);
            *at += gap;
            if piece.is_empty() {
                break;
            }
            if self.part.is_empty() {
                self.part = Vec::with_capacity(ticket.chunk().sealed_len as usize);
            }
            // Chunks of a run do not overlap, so `at` is never behind this one's end.
            let len = range.end.saturating_sub(*at).min(piece.len() as u64);
            self.part.extend_from_slice(&piece[..len as usize]);
            piece.advance(len as usize);
            *at += len;
            if *at < range.end {
                break;
            }
            let sealed = std::mem::take(&mut self.part);
            self.ready_bytes += sealed.len();
            self.ready.extend(self.missing.pop_front().map(|ticket| (ticket, sealed)));
        }
        if self.ready_bytes >= OPEN_INLINE_MAX {
            self.open_ready();
        }
    }

    fn open_ready(&mut self) {
        let batch = std::mem::take(&mut self.ready);
        let bytes = std::mem::take(&mut self.ready_bytes);
        if batch.is_empty() {
            return;
        }
        let (fetcher, pack) = (Arc::clone(self.fetcher), self.pack.clone());
        if bytes <= OPEN_INLINE_MAX {
            open_batch(&fetcher, &pack, batch);
        } else {
            let work = move || open_batch(&fetcher, &pack, batch);
            self.opening.push(self.fetcher.runtime.spawn_blocking(work));
        }
    }
}

fn open_batch(fetcher: &Fetcher, pack: &OpenPack, batch: Vec<(Ticket, Vec<u8>)>) {
    let len = batch.iter().map(|(_, sealed)| sealed.len()).sum();
    let mut for_disk =
        ForDisk { disk: &fetcher.disk, pack, left: len, offset: 0, bytes: Vec::new() };
    let mut opened = Vec::with_capacity(batch.len());
    for (ticket, mut sealed) in batch {
        let chunk = *ticket.chunk();
        for_disk.add(chunk.range().start, &sealed);
        let outcome = open_chunk(&chunk, &pack.opener, &mut sealed);
        if outcome.is_err() {
            for_disk.take_back(chunk.sealed_len as usize);
        }
        opened.push((ticket, outcome));
    }
    // First, so that whoever has read something knows it on its way to the disk.
    for_disk.put();
    for (ticket, outcome) in opened {
        ticket.complete(outcome);
    }
}

/// Neighbouring chunks on their way to the disk cache: one write for all.
struct ForDisk<'a> {
    disk: &'a DiskCache,
    pack: &'a OpenPack,
    /// Bytes still to be added.
    left: usize,
    /// Where the first byte stands in the pack.
    offset: u64,
    bytes: Vec<u8>,
}

impl ForDisk<'_> {
    fn add(&mut self, offset: u64, sealed: &[u8]) {
        if !self.disk.is_on() {
            return;
        }
        if self.offset + self.bytes.len() as u64 != offset {
            self.put();
            self.offset = offset;
        }
        if self.bytes.is_empty() {
            self.bytes = Vec::with_capacity(self.left);
        }
        self.left = self.left.saturating_sub(sealed.len());
        self.bytes.extend_from_slice(sealed);
    }

    /// What was added last, `len` bytes, does not authenticate.
    fn take_back(&mut self, len: usize) {
        self.bytes.truncate(self.bytes.len().saturating_sub(len));
    }

    fn put(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if !bytes.is_empty() {
            // It counts as long as it is, while it waits.
            bytes.shrink_to_fit();
            self.disk.put(&self.pack.path, self.offset, bytes.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, VolumeId};
    use crate::crypto::{DataKey, DataKeys, SecretKey};
    use crate::data::{Compression, DiskCacheConfig};

    #[tokio::test]
    async fn after_a_gap_memory_is_taken_for_what_is_left_alone() {
        let key = DataKey { epoch: Epoch(1), key: SecretKey::from_bytes([1; 32]) };
        let (volume, names) = (VolumeId([9; 16]), SecretKey::from_bytes([2; 32]));
        let keys = DataKeys::new(key, Vec::new());
        let context = PackContext::new(volume, keys, names, Compression::None);
        let (number, seal) = (PackNumber(7), PackSeal { epoch: Epoch(1), salt: [3; 32] });
        let opener = context.opener(number, seal.epoch, &seal.salt).unwrap();
        let pack = OpenPack { seal, path: context.path(number), opener };
        let dir = tempfile::tempdir().unwrap();
        let config = DiskCacheConfig {
            dir: dir.path().to_owned(),
            size_bytes: 1 << 20,
            queue_bytes_max: 1 << 20,
        };
        let disk = DiskCache::open(&config, volume, Handle::current());

        let (chunk, gap) = (vec![7; 64 * KIB as usize], 100);
        let (bytes, left) = (Vec::new(), 4 * chunk.len());
        let mut for_disk = ForDisk { disk: &disk, pack: &pack, left, offset: 0, bytes };
        let mut capacities = Vec::new();
        for number in 0..4 {
            for_disk.add(number * (64 * KIB + gap), &chunk);
            capacities.push(for_disk.bytes.capacity());
        }
        assert_eq!(capacities, [4, 3, 2, 1].map(|left| left * chunk.len()));
    }
}
