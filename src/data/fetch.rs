//! Fetches one run of neighbouring chunks: from disk what is there, the rest with ranged GETs.
//!
//! Chunks are opened and handed out while the rest of the body still arrives.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::task::JoinHandle;

use super::DataError;
use super::flight::Ticket;
use super::pack::open_chunk;
use super::plan::{REQUEST_MAX, Run, Wanted as _, plan};
use super::reader::{OpenPack, Shared};
use crate::base::{KIB, PackNumber};
use crate::store::object_store::{self, GetOptions, GetRange, ObjectStoreExt as _};

/// More sealed bytes than this are opened off the async threads: about 0.2 ms of work.
const OPEN_INLINE_MAX: usize = 256 * KIB as usize;
/// Requests for one run when bodies break off; refused requests are the store's to repeat.
const ATTEMPTS_MAX: u32 = 3;

/// Completes every ticket of `run`. `ahead`: nobody waits for it yet.
pub(super) async fn run(shared: Arc<Shared>, run: Run<Ticket>, ahead: bool) {
    let Some(seal) = run.wanted.first().map(|ticket| *ticket.seal()) else { return };
    let pack = match shared.open(run.pack, &seal) {
        Ok(pack) => pack,
        Err(error) => return fail(run.wanted, &error),
    };
    let missing = from_disk(&shared, &pack, run.wanted).await;
    for run in plan(missing, REQUEST_MAX) {
        // Both semaphores live as long as `shared` and are never closed; if they were, dropping
        // the tickets tells those who wait.
        let _ahead = if ahead { shared.requests_ahead.acquire().await.ok() } else { None };
        let Ok(_request) = shared.requests.acquire().await else { return };
        from_bucket(&shared, &pack, run).await;
    }
}

fn fail(tickets: impl IntoIterator<Item = Ticket>, error: &DataError) {
    for ticket in tickets {
        ticket.complete(Err(error.clone()));
    }
}

/// Completes what the disk cache has; the rest. Its bytes prove themselves by opening.
async fn from_disk(shared: &Arc<Shared>, pack: &OpenPack, tickets: Vec<Ticket>) -> Vec<Ticket> {
    if !shared.disk.has(&pack.path) {
        return tickets;
    }
    let (task, pack) = (Arc::clone(shared), pack.clone());
    let read = shared.runtime.spawn_blocking(move || {
        let Some(file) = task.disk.read(&pack.path) else { return tickets };
        let mut missing = Vec::new();
        for ticket in tickets {
            let chunk = *ticket.chunk();
            let sealed = file.chunk(chunk.range().start, chunk.sealed_len as usize);
            match sealed.and_then(|sealed| open_chunk(&chunk, &pack.opener, &sealed).ok()) {
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

async fn from_bucket(shared: &Arc<Shared>, pack: &OpenPack, run: Run<Ticket>) {
    let end = run.range.end;
    let mut download = Download {
        shared,
        pack,
        number: run.pack,
        missing: run.wanted.into(),
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
    shared: &'a Arc<Shared>,
    pack: &'a OpenPack,
    number: PackNumber,
    /// Chunks not here yet, by offset.
    missing: VecDeque<Ticket>,
    /// Chunks whose sealed bytes are here, to be opened together.
    ready: Vec<(Ticket, Bytes)>,
    ready_bytes: usize,
    opening: Vec<JoinHandle<()>>,
}

impl Download<'_> {
    async fn request(&mut self, range: Range<u64>) -> Result<(), Broken> {
        let (number, offset) = (self.number, range.start);
        let options =
            GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        self.shared.counters.requests.fetch_add(1, Relaxed);
        let result = match self.shared.store.get_opts(&self.pack.path, options).await {
            Ok(result) => result,
            Err(error) => return Err(Broken::Request(self.refusal(offset, error).await)),
        };
        let sent = result.range.clone();
        if sent.start > range.start {
            return Err(Broken::Request(DataError::Truncated { pack: number, offset }));
        }
        let mut body = result.into_stream();
        let mut buffer = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut at = sent.start;
        while !self.missing.is_empty() {
            let Some(piece) = body.next().await else { break };
            let piece =
                piece.map_err(|error| Broken::Body(DataError::reading(number, at, error)))?;
            self.shared.counters.fetched_bytes.fetch_add(piece.len() as u64, Relaxed);
            buffer.extend_from_slice(&piece);
            self.take_whole(&mut at, &mut buffer);
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
            let head = self.shared.store.head(&self.pack.path).await;
            if head.is_ok_and(|object| object.size <= offset) {
                return DataError::Truncated { pack: self.number, offset };
            }
        }
        DataError::reading(self.number, offset, error)
    }

    /// Cuts the chunks that are complete off the front of `buffer`, whose first byte is byte `at`
    /// of the object.
    fn take_whole(&mut self, at: &mut u64, buffer: &mut BytesMut) {
        while let Some(ticket) = self.missing.pop_front() {
            let range = ticket.chunk().range();
            // Chunks of a run do not overlap, so the gap is never negative.
            let gap = range.start.saturating_sub(*at).min(buffer.len() as u64);
            buffer.advance(gap as usize);
            *at += gap;
            let len = ticket.chunk().sealed_len as usize;
            if *at < range.start || buffer.len() < len {
                self.missing.push_front(ticket);
                break;
            }
            self.ready.push((ticket, buffer.split_to(len).freeze()));
            self.ready_bytes += len;
            *at = range.end;
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
        let (shared, pack) = (Arc::clone(self.shared), self.pack.clone());
        if bytes <= OPEN_INLINE_MAX {
            open_batch(&shared, &pack, batch);
        } else {
            let work = move || open_batch(&shared, &pack, batch);
            self.opening.push(self.shared.runtime.spawn_blocking(work));
        }
    }
}

fn open_batch(shared: &Shared, pack: &OpenPack, batch: Vec<(Ticket, Bytes)>) {
    for (ticket, sealed) in batch {
        let chunk = *ticket.chunk();
        let outcome = open_chunk(&chunk, &pack.opener, &sealed);
        if outcome.is_ok() {
            shared.disk.put(&pack.path, chunk.range().start, sealed);
        }
        ticket.complete(outcome);
    }
}
