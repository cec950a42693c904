//! One fetch of a chunk at a time, however many want it.
//!
//! ```text
//! claim(chunk) --> Ready(content)       in memory
//!              --> Pending(future)      somebody fetches it already
//!              --> Mine(ticket, future) the caller has to get it fetched
//! ```
//!
//! Who waited for somebody else's flight in vain starts another one in its place.
//!
//! Invariant: a chunk is in the memory cache, or in flight with exactly one
//! [`Ticket`] that is not overdue, or neither. A ticket ends its flight however
//! it goes: completed, or dropped with its task.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::Shared;
use tokio::sync::oneshot;

use super::DataError;
use super::chunk::{ChunkRef, PackSeal};
use super::memory_cache::MemoryCache;
use super::plan::Wanted;

type Outcome = Result<Bytes, DataError>;
type Flight = Shared<oneshot::Receiver<Outcome>>;

/// Waits for a chunk that is being fetched.
#[derive(Clone)]
pub(super) struct Pending {
    chunk: ChunkRef,
    flight: Flight,
}

impl Pending {
    pub(super) async fn wait(self) -> Outcome {
        let (pack, offset) = (self.chunk.pack, u64::from(self.chunk.offset));
        self.flight.await.unwrap_or(Err(DataError::Abandoned { pack, offset }))
    }
}

pub(super) enum Claim {
    Ready(Bytes),
    Pending(Pending),
    Mine(Ticket, Pending),
}

/// The memory cache and what is on its way into it, under one lock.
pub(super) struct Desk {
    inner: Mutex<Inner>,
    prefetching_bytes: AtomicU64,
}

struct Inner {
    cache: MemoryCache,
    flights: HashMap<ChunkRef, Flight>,
}

impl Inner {
    fn has(&self, chunk: &ChunkRef) -> bool {
        self.cache.contains(chunk) || self.flights.contains_key(chunk)
    }

    /// Ends a flight, unless another one is in its place.
    fn end(&mut self, chunk: &ChunkRef, flight: &Flight) {
        if self.flights.get(chunk).is_some_and(|known| known.ptr_eq(flight)) {
            self.flights.remove(chunk);
        }
    }
}

impl Desk {
    pub(super) fn new(memory_bytes: u64) -> Arc<Self> {
        let inner = Inner { cache: MemoryCache::new(memory_bytes), flights: HashMap::new() };
        Arc::new(Self { inner: Mutex::new(inner), prefetching_bytes: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock panics halfway through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, chunk: &ChunkRef) -> Option<Bytes> {
        self.lock().cache.get(chunk)
    }

    pub(super) fn insert(&self, chunk: ChunkRef, content: Bytes) {
        let gone = self.lock().cache.insert(chunk, content);
        // Not under the lock.
        drop(gone);
    }

    /// What a reader of `chunk` has to do, who waited for a flight `in_vain` before.
    pub(super) fn claim(
        self: &Arc<Self>,
        chunk: ChunkRef,
        seal: &PackSeal,
        in_vain: Option<&Pending>,
    ) -> Claim {
        let mut inner = self.lock();
        if let Some(content) = inner.cache.get(&chunk) {
            return Claim::Ready(content);
        }
        if let Some(flight) = inner.flights.get(&chunk)
            && in_vain.is_none_or(|pending| !pending.flight.ptr_eq(flight))
        {
            return Claim::Pending(Pending { chunk, flight: flight.clone() });
        }
        let (ticket, flight) = self.start(&mut inner, chunk, seal, 0);
        Claim::Mine(ticket, Pending { chunk, flight })
    }

    /// A ticket for `chunk`, unless it is here or on its way, or `bytes_max` of prefetched chunks are.
    pub(super) fn claim_ahead(
        self: &Arc<Self>,
        chunk: ChunkRef,
        seal: &PackSeal,
        bytes_max: u64,
    ) -> Option<Ticket> {
        let mut inner = self.lock();
        let charge = u64::from(chunk.sealed_len);
        let full = self.prefetching_bytes.load(Relaxed) + charge > bytes_max;
        if full || inner.has(&chunk) {
            return None;
        }
        // Only ever grows under the lock, so the bound holds.
        self.prefetching_bytes.fetch_add(charge, Relaxed);
        Some(self.start(&mut inner, chunk, seal, charge).0)
    }

    /// In memory, or in flight.
    pub(super) fn is_coming(&self, chunk: &ChunkRef) -> bool {
        self.lock().has(chunk)
    }

    fn start(
        self: &Arc<Self>,
        inner: &mut Inner,
        chunk: ChunkRef,
        seal: &PackSeal,
        charge: u64,
    ) -> (Ticket, Flight) {
        let (sender, receiver) = oneshot::channel();
        let flight = receiver.shared();
        inner.flights.insert(chunk, flight.clone());
        let (desk, sender) = (Arc::clone(self), Some(sender));
        (Ticket { desk, chunk, seal: *seal, charge, flight: flight.clone(), sender }, flight)
    }

    /// Bytes of prefetched chunks on their way.
    pub(super) fn prefetching_bytes(&self) -> u64 {
        self.prefetching_bytes.load(Relaxed)
    }

    /// Every flight has ended and is accounted for.
    #[cfg(test)]
    pub(super) fn nothing_in_flight(&self) -> bool {
        self.lock().flights.is_empty() && self.prefetching_bytes.load(Relaxed) == 0
    }

    /// Bytes in memory and chunks evicted since the start.
    pub(super) fn usage(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.cache.bytes(), inner.cache.evictions())
    }
}

/// The duty to fetch one chunk.
pub(super) struct Ticket {
    desk: Arc<Desk>,
    chunk: ChunkRef,
    seal: PackSeal,
    /// Bytes counted as prefetching.
    charge: u64,
    flight: Flight,
    sender: Option<oneshot::Sender<Outcome>>,
}

impl Wanted for Ticket {
    fn chunk(&self) -> &ChunkRef {
        &self.chunk
    }
}

impl Ticket {
    pub(super) fn seal(&self) -> &PackSeal {
        &self.seal
    }

    /// Ends the flight. Content goes into the cache; an error only to those who wait now.
    pub(super) fn complete(mut self, outcome: Outcome) {
        let gone = {
            let mut inner = self.desk.lock();
            inner.end(&self.chunk, &self.flight);
            match &outcome {
                Ok(content) => inner.cache.insert(self.chunk, content.clone()),
                Err(_) => Vec::new(),
            }
        };
        drop(gone);
        if let Some(sender) = self.sender.take() {
            // Nobody may be waiting: a prefetch, or a reader that was cancelled.
            let _ = sender.send(outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.desk.prefetching_bytes.fetch_sub(self.charge, Relaxed);
        if self.sender.is_some() {
            // Dropped with its task. Dropping the sender next wakes those who wait.
            self.desk.lock().end(&self.chunk, &self.flight);
        }
    }
}
