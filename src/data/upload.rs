//! Puts packs into the bucket, several at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Semaphore;

use super::DataError;
use super::pack::BuiltPack;
use crate::store::Bulk;
use crate::store::object_store::{ObjectStore, PutOptions};

/// What an [`Uploader`] did since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadStats {
    /// Packs in the bucket.
    pub packs: u64,
    /// Bytes in the bucket.
    pub bytes: u64,
    /// Bytes of packs that wait or are on their way now.
    pub in_flight_bytes: u64,
    /// Uploads the store did not take, after its own retries.
    pub failures: u64,
}

/// Uploads packs. A pack counts as stored when [`put`](Self::put) has returned success, not before.
pub struct Uploader {
    store: Arc<dyn ObjectStore>,
    parallel: Semaphore,
    packs: AtomicU64,
    bytes: AtomicU64,
    in_flight_bytes: AtomicU64,
    failures: AtomicU64,
}

/// Bytes counted as on their way, also when the upload is cancelled.
struct InFlight<'a>(&'a AtomicU64, u64);

impl<'a> InFlight<'a> {
    fn new(counter: &'a AtomicU64, bytes: u64) -> Self {
        counter.fetch_add(bytes, Relaxed);
        Self(counter, bytes)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Relaxed);
    }
}

impl Uploader {
    /// Uploads at once, unless chosen otherwise.
    pub const PARALLEL_DEFAULT: usize = 4;

    /// At most `parallel` uploads at once (at least 1).
    pub fn new(store: Arc<dyn ObjectStore>, parallel: usize) -> Self {
        Self {
            store,
            parallel: Semaphore::new(parallel.clamp(1, Semaphore::MAX_PERMITS)),
            packs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            in_flight_bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Stores `pack` under its name with one unconditional PUT.
    ///
    /// Safe to repeat with the same pack: the name belongs to this writer alone and the bytes are
    /// the same, so a request that was carried out after its answer got lost changes nothing.
    ///
    /// # Errors
    /// [`DataError::Upload`]; whether the bucket has the pack is then unknown.
    pub async fn put(&self, pack: &BuiltPack) -> Result<(), DataError> {
        let len = pack.body.content_length() as u64;
        let _in_flight = InFlight::new(&self.in_flight_bytes, len);
        // Never closed; if it were, uploads would only be unbounded.
        let _turn = self.parallel.acquire().await.ok();
        let mut options = PutOptions::default();
        options.extensions.insert(Bulk);
        match self.store.put_opts(&pack.path, pack.body.clone(), options).await {
            Ok(_) => {
                self.packs.fetch_add(1, Relaxed);
                self.bytes.fetch_add(len, Relaxed);
                Ok(())
            }
            Err(source) => {
                self.failures.fetch_add(1, Relaxed);
                Err(DataError::Upload { pack: pack.number, source: Arc::new(source) })
            }
        }
    }

    /// What happened since the start.
    pub fn stats(&self) -> UploadStats {
        UploadStats {
            packs: self.packs.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            in_flight_bytes: self.in_flight_bytes.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }
}

impl std::fmt::Debug for Uploader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uploader").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
