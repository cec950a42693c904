//! Reading a volume that somebody else writes, or a checkpoint of it.
//!
//! A follower writes nothing to the bucket, and so nothing keeps its objects
//! from being deleted. Those that a writer has replaced lately may be old enough
//! to go at once; a read that misses one looks again, at the next state. One that
//! the next state misses, too, is lost, and nobody waits for it again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use slatedb::object_store::{self, ObjectStore};
use slatedb::{DbReader, DbReaderMode, DbStatus};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::meta::slate::{
    PATH, SlateLook, SlateOptions, block_cache, classify, collect, in_runtime, settings, warm,
};
use crate::meta::{CheckpointId, MetaError, MetaRead, Record};

/// What a reader shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// What the writer last flushed, a polling interval behind.
    Latest,
    /// One checkpoint, for ever the same.
    Checkpoint(CheckpointId),
}

/// SlateDB announces a new state just before it shows it; by then it is shown.
const SETTLE: Duration = Duration::from_millis(500);

/// The next state is not waited for any longer. Who wants to stay at one state reads again by himself.
const NEXT_STATE_MAX: Duration = Duration::from_secs(30);

/// A read-only view of a volume's records in the bucket.
pub struct SlateReader {
    reader: Arc<DbReader>,
    runtime: Handle,
    view: View,
    /// By then there is another state, if the writer has one.
    next_state: Duration,
    status: watch::Receiver<DbStatus>,
    version: Mutex<Announced>,
    /// Objects that were missing in two states. Names are never used again.
    lost: Mutex<HashSet<String>>,
}

/// A version is handed out once it has been announced for [`SETTLE`].
struct Announced {
    settled: u64,
    newest: u64,
    since: Instant,
}

impl SlateReader {
    /// Opens a view; fences nobody and writes nothing. Waits as long as the store fails.
    ///
    /// # Errors
    /// - [`MetaError::NoCheckpoint`]: the checkpoint was deleted or has expired.
    /// - [`MetaError::Corrupt`]: there is no database of ours.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        options: SlateOptions,
        view: View,
    ) -> Result<Self, MetaError> {
        let mode = match view {
            View::Latest => DbReaderMode::FollowLatest,
            View::Checkpoint(id) => DbReaderMode::Checkpoint(uuid::Uuid::from_bytes(id.0)),
        };
        // A checkpoint shows the tables of another manifest than the newest.
        let (ahead, manifest) = match view {
            View::Latest => {
                let looked = SlateLook::begin(Arc::clone(&store), options.bounds.ahead_bytes).await;
                (Some(looked.0.ahead), looked.1)
            }
            View::Checkpoint(_) => (None, None),
        };
        let store = ahead.clone().map_or(store, |ahead| Arc::new(ahead));
        let reader = DbReader::builder(PATH, store)
            .with_reader_mode(mode)
            .with_options(settings::reader(&options))
            .with_db_cache(block_cache(&options), 0)
            .build()
            .await
            .map_err(|error| missing_checkpoint(view, error))?;
        let reader = Arc::new(reader);
        if let Some(ahead) = ahead {
            ahead.opened();
            let warmed = Arc::clone(&reader);
            tokio::spawn(async move {
                if let Some(manifest) = manifest {
                    warm(&*warmed, &manifest, &ahead).await;
                }
            });
        }
        let status = reader.subscribe();
        let settled = status.borrow().durable_seq;
        let version = Mutex::new(Announced { settled, newest: settled, since: Instant::now() });
        let next_state = options.follow_interval + SETTLE;
        let (runtime, lost) = (Handle::current(), Mutex::default());
        Ok(Self { reader, runtime, view, next_state, status, version, lost })
    }

    /// Stops following.
    pub async fn close(&self) -> Result<(), MetaError> {
        self.reader.close().await.map_err(|error| classify("closing", error))
    }

    /// Whether a read that failed is to be done again; waits for the next state. `missed` is what it has
    /// waited for before.
    async fn looks_again(&self, missed: &mut Option<String>, error: &slatedb::Error) -> bool {
        // An object that compaction replaced is gone only for the state we still look at.
        let may_be_replaced = self.view == View::Latest && self.next_state <= NEXT_STATE_MAX;
        let Some(object) = missing_object(error).filter(|_| may_be_replaced) else { return false };
        if missed.as_deref() == Some(object) {
            self.lost().insert(object.to_owned());
        }
        if missed.is_some() || self.lost().contains(object) {
            return false;
        }
        tracing::debug!(object, %error, "an object is gone: looking again");
        *missed = Some(object.to_owned());
        let wait = async { tokio::time::sleep(self.next_state).await };
        in_runtime(&self.runtime, wait).await;
        true
    }

    fn lost(&self) -> MutexGuard<'_, HashSet<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl MetaRead for SlateReader {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        let options = settings::point_read();
        let mut missed = None;
        loop {
            match in_runtime(&self.runtime, self.reader.get_with_options(key, &options)).await {
                Err(error) if self.looks_again(&mut missed, &error).await => {}
                result => return result.map_err(|error| classify("reading a record", error)),
            }
        }
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let options = settings::scan(limit);
        let mut missed = None;
        loop {
            let scan = async {
                collect(self.reader.scan_with_options(start..end, &options).await?, limit).await
            };
            match in_runtime(&self.runtime, scan).await {
                Err(error) if self.looks_again(&mut missed, &error).await => {}
                result => return result.map_err(|error| classify("scanning records", error)),
            }
        }
    }

    fn version(&self) -> u64 {
        let announced = self.status.borrow().durable_seq;
        let mut version = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if announced != version.newest {
            version.newest = announced;
            version.since = Instant::now();
        } else if version.since.elapsed() >= SETTLE {
            version.settled = announced;
        }
        version.settled
    }

    fn is_settling(&self) -> bool {
        self.version() != self.status.borrow().durable_seq
    }
}

fn missing_checkpoint(view: View, error: slatedb::Error) -> MetaError {
    match view {
        // SlateDB has no kind of its own for it; damage of a live checkpoint names an object.
        View::Checkpoint(id)
            if error.kind() == slatedb::ErrorKind::Data
                && std::error::Error::source(&error).is_none()
                && error.to_string().contains("checkpoint") =>
        {
            MetaError::NoCheckpoint(id)
        }
        _ => classify("opening the volume", error),
    }
}

fn missing_object(error: &slatedb::Error) -> Option<&str> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let direct = error.downcast_ref::<object_store::Error>();
        let shared = error.downcast_ref::<Arc<object_store::Error>>().map(Arc::as_ref);
        if let Some(object_store::Error::NotFound { path, .. }) = direct.or(shared) {
            return Some(path);
        }
        cause = error.source();
    }
    None
}
