//! Records in the bucket: a SlateDB database under `meta/`.
//!
//! ```text
//!   apply -> SlateDB log buffer + memory table
//!   flush -> flusher task ----------------> meta/wal/N        one object, one PUT
//!            table task, each minute -----> meta/compacted/T, meta/manifest/M
//!            compaction, collector -------> merge and delete in the background
//! ```
//!
//! Invariants: one flush in flight; a batch never straddles two log objects
//! (SlateDB appends it to one buffer under one lock); SlateDB is never asked to
//! reopen by itself after another writer has fenced it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use slatedb::admin::AdminBuilder;
use slatedb::config::{
    CheckpointOptions, CheckpointScope, CloseOptions, FlushOptions, FlushType, WriteOptions,
};
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::object_store::ObjectStore;
use slatedb::{
    CacheTarget, CloseReason, Db, DbBuilder, DbCacheManagerOps, DbIterator, ErrorKind,
    SstBlockSize, VersionedManifest, WriteBatch,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::base::{Timestamp, WriterEpoch};
use crate::meta::{Batch, Checkpoint, CheckpointId, MetaError, MetaRead, MetaStore, Record};
use crate::store::sealed::open_error;
use ahead::Ahead;
use clock::ForwardClock;
use compaction::{Compaction, Site};
use flusher::Flusher;

mod ahead;
mod catch_up;
mod clock;
mod compaction;
#[cfg(test)]
mod figures;
mod flusher;
#[cfg(test)]
mod looks;
mod reader;
mod settings;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use reader::{SlateReader, View};
pub use settings::SlateOptions;

/// Where the database lies in its store.
const PATH: &str = "meta";
/// Four chunks of a sealed object: a scan asks for whole blocks, and larger ones are fewer requests.
const BLOCK_SIZE: SstBlockSize = SstBlockSize::Block64Kib;

/// The writer of a volume's records, in the bucket.
///
/// Dropped without `close` it stops like after a crash: what was not flushed is lost.
pub struct SlateMeta {
    db: Db,
    store: Arc<dyn ObjectStore>,
    /// SlateDB spawns from inside reads: whoever polls one must be in this runtime.
    runtime: Handle,
    epoch: WriterEpoch,
    flusher: Flusher,
    tables: Arc<TableWriter>,
    compaction: Arc<Compaction>,
    /// Sequence number of the newest batch applied.
    applied: AtomicU64,
    closing: Mutex<Option<watch::Receiver<Outcome>>>,
}

/// How the closing ended; `None` while it goes on.
type Outcome = Option<Result<(), MetaError>>;

impl SlateMeta {
    /// Opens the database, or makes an empty one, and fences every older writer.
    ///
    /// Replays the log that a killed writer left. Waits as long as the store
    /// fails, so give it a deadline; dropping it midway is safe.
    ///
    /// # Errors
    /// - [`MetaError::Fenced`]: another writer opened at the same time and won.
    /// - [`MetaError::Corrupt`]: what lies in the store is no database of ours.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        options: SlateOptions,
    ) -> Result<Self, MetaError> {
        let (look, _) = SlateLook::begin(store, options.bounds.ahead_bytes).await;
        Self::open_seen(look, options).await
    }

    /// As [`open`](Self::open), with what was read before. Writes nothing before it is called.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_seen(look: SlateLook, options: SlateOptions) -> Result<Self, MetaError> {
        let SlateLook { ahead, clock } = look;
        if !options.conditional_creates {
            ahead.look_before_creating();
        }
        let store: Arc<dyn ObjectStore> = Arc::new(ahead.clone());
        let db = builder(&store, &options, clock.clone()).build().await.map_err(opening)?;
        ahead.opened();
        catch_up::start(&db, clock.clone(), &options);
        // The last writer may have gone on until it was fenced.
        clock.raise(newest_stamp(&db.manifest()));
        // Before tables are written: with too many that waits for compaction.
        let meta = Self::start(db, store, &options, clock.clone())?;
        let db = &meta.db;
        let found = db.status();
        if found.durable_seq > found.current_manifest.last_l0_seq() {
            // The log was replayed. Written out it need not be again, and the manifest
            // then knows the newest stamp there is.
            meta.written_as_tables("replaying the log").await?;
        }
        clock.raise(newest_stamp(&db.manifest()));
        let (warmed, manifest) = (db.clone(), db.manifest());
        tokio::spawn(async move { warm(&warmed, &manifest, &ahead).await });
        Ok(meta)
    }

    fn start(
        db: Db,
        store: Arc<dyn ObjectStore>,
        options: &SlateOptions,
        clock: Arc<ForwardClock>,
    ) -> Result<Self, MetaError> {
        let runtime = Handle::current();
        let epoch = u32::try_from(db.manifest().writer_epoch()).map_err(|_| {
            MetaError::Invalid("the volume was mounted over 4 billion times".to_owned())
        })?;
        let epoch = WriterEpoch(epoch);
        let site =
            Site { store: Arc::clone(&store), clock, options: options.clone(), writer: epoch };
        let compaction = Compaction::start(site, db.subscribe());
        let flusher = Flusher::start(db.clone(), &runtime);
        let tables = TableWriter::start(db.clone(), options, &runtime);
        Ok(Self {
            applied: AtomicU64::new(db.status().durable_seq),
            epoch,
            compaction: Arc::new(compaction),
            db,
            store,
            runtime,
            flusher,
            tables,
            closing: Mutex::new(None),
        })
    }

    /// Which writer of this volume we are; grows with every read-write open.
    pub fn writer_epoch(&self) -> WriterEpoch {
        self.epoch
    }

    /// `true` once a newer writer is known to have taken over; free of requests.
    pub fn is_fenced(&self) -> bool {
        self.db.subscribe().borrow().close_reason == Some(CloseReason::Fenced)
    }

    /// Everything into tables. With too many that waits for compaction, and not when that has ended for good.
    async fn written_as_tables(&self, doing: &'static str) -> Result<(), MetaError> {
        written_as_tables(&self.db, &self.compaction, doing).await
    }

    fn admin(&self) -> slatedb::admin::Admin {
        AdminBuilder::new(PATH, Arc::clone(&self.store)).build()
    }

    /// Refuses work after `close` began, or when the engine cannot go on for long.
    fn check_open(&self, doing: &'static str) -> Result<(), MetaError> {
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        match *closing {
            Some(_) => Err(MetaError::Closed { doing }),
            None => self.compaction.check(),
        }
    }

    /// Starts the closing once; every caller gets its outcome.
    fn closing(&self) -> watch::Receiver<Outcome> {
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        let started = closing.get_or_insert_with(|| {
            let (answer, outcome) = watch::channel(None);
            let (db, compaction) = (self.db.clone(), Arc::clone(&self.compaction));
            self.runtime.spawn(async move { answer.send(Some(close(&db, &compaction).await)) });
            outcome
        });
        started.clone()
    }
}

impl Drop for SlateMeta {
    fn drop(&mut self) {
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        if closing.is_none() {
            let (db, compaction) = (self.db.clone(), Arc::clone(&self.compaction));
            self.runtime.spawn(async move {
                let abandon = CloseOptions::default().with_flush_type(None);
                // Nobody is left to tell, and nothing that was promised is at stake.
                let _ = tokio::join!(db.close_with_options(abandon), compaction.stop());
            });
        }
    }
}

/// Everything SlateDB needs to know; the tests add a clock of their own.
fn builder(
    store: &Arc<dyn ObjectStore>,
    options: &SlateOptions,
    clock: Arc<dyn slatedb_common::SystemClock>,
) -> DbBuilder<&'static str> {
    Db::builder(PATH, Arc::clone(store))
        .with_settings(settings::settings(options))
        .with_sst_block_size(BLOCK_SIZE)
        .with_db_cache(block_cache(options), 0)
        .with_system_clock(clock)
        .with_gc_runtime(options.background.clone())
}

/// What an engine reads before it writes anything. It may be old by the time that it opens: see [`ahead`].
pub struct SlateLook {
    ahead: Ahead,
    clock: Arc<ForwardClock>,
}

impl SlateLook {
    /// Reads what an opening engine will: to be called while others still find out whether there may be a
    /// writer here. Tables may still be on their way on return. What cannot be read shows when the database
    /// is opened. Waits as long as the store fails.
    pub async fn new(store: Arc<dyn ObjectStore>) -> Self {
        let (look, manifest) = Self::begin(store, ahead::TABLES_BYTES_MAX).await;
        if let Some(manifest) = manifest {
            look.ahead.find_log(&manifest).await;
        }
        look
    }

    /// Brings the clock to the newest stamp that the store has, and begins to fetch tables.
    async fn begin(
        store: Arc<dyn ObjectStore>,
        tables_bytes: u64,
    ) -> (Self, Option<VersionedManifest>) {
        let (ahead, clock) = (Ahead::new(store), Arc::new(ForwardClock::default()));
        let admin = AdminBuilder::new(PATH, Arc::new(ahead.clone())).build();
        let ((), manifest, compactions) = tokio::join!(
            ahead.read_boundaries(),
            admin.read_manifest(None),
            admin.read_compactions(None)
        );
        if ahead.manifests_older(settings::TABLE_AGE_MIN) > settings::GC_MANIFESTS_MAX {
            clock.collect_at_once();
        }
        if let Ok(Some(compactions)) = compactions {
            let made = compactions.recent_compactions().map(|job| job.id().timestamp_ms());
            clock.raise(made.max().map_or(0, u64::cast_signed));
        }
        let manifest = manifest.ok().flatten();
        if let Some(manifest) = &manifest {
            clock.raise(newest_stamp(manifest));
            tokio::spawn(ahead.fetch_tables(manifest, tables_bytes));
        }
        (Self { ahead, clock }, manifest)
    }
}

/// Moves what was fetched of tables to the block cache.
async fn warm(db: &impl DbCacheManagerOps, manifest: &VersionedManifest, ahead: &Ahead) {
    let whole = [CacheTarget::data::<&[u8], _>(..), CacheTarget::Index, CacheTarget::Filters];
    for view in manifest.all_sst_views() {
        if ahead.has_table(view).await {
            // What is not in the cache is read when it is needed.
            let _ = db.warm_sst(view.sst.id, &whole).await;
        }
    }
    ahead.forget_tables();
}

/// The newest time that a manifest knows of, in milliseconds: rows are stamped, and names of tables
/// begin with when they were made, which is later.
fn newest_stamp(manifest: &VersionedManifest) -> i64 {
    let tables = manifest.all_sst_views().flat_map(|view| [view.id, view.sst.id.value()]);
    let merged = [manifest.last_compacted_l0_sst_view_id(), manifest.last_compacted_l0_sst_id()];
    let names = tables.chain(merged.into_iter().flatten());
    let newest = names.map(|name| name.timestamp_ms().cast_signed()).max();
    newest.unwrap_or(0).max(manifest.last_l0_clock_tick())
}

fn block_cache(options: &SlateOptions) -> Arc<MokaCache> {
    Arc::new(MokaCache::new_with_opts(MokaCacheOptions {
        max_capacity: options.block_cache_bytes,
        ..MokaCacheOptions::default()
    }))
}

/// Everything into tables while retries still run, and only then the end.
async fn close(db: &Db, compaction: &Compaction) -> Result<(), MetaError> {
    const DOING: &str = "closing";
    let written = written_as_tables(db, compaction, DOING).await;
    compaction.stop().await;
    let mut options = CloseOptions::default();
    if compaction.check().is_err() {
        // Tables would wait for ever. The next writer finds everything in the log.
        let _ = db.flush().await;
        options = options.with_flush_type(None);
    }
    let closed = db.close_with_options(options).await.map_err(|error| convert(db, DOING, error));
    written.and(closed)
}

/// Compaction goes on meanwhile: with too many tables the writing waits for it.
async fn written_as_tables(
    db: &Db,
    compaction: &Compaction,
    doing: &'static str,
) -> Result<(), MetaError> {
    tokio::select! {
        biased;
        error = compaction.failed() => Err(error),
        written = write_tables(db) => written.map_err(|error| convert(db, doing, error)),
    }
}

async fn write_tables(db: &Db) -> Result<(), slatedb::Error> {
    db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await
}

/// Writes the memory table out from time to time, so that a killed writer leaves little to replay.
struct TableWriter {
    /// Something was applied since the last time.
    dirty: AtomicBool,
    /// Flushes since the last time.
    flushes: AtomicU64,
    flushes_max: u64,
    hurry: tokio::sync::Notify,
}

impl TableWriter {
    fn start(db: Db, options: &SlateOptions, runtime: &Handle) -> Arc<Self> {
        let writer = Arc::new(Self {
            dirty: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            flushes_max: options.bounds.table_flushes,
            hurry: tokio::sync::Notify::new(),
        });
        // The task must not keep its owner alive, or it would never end.
        let task = Arc::downgrade(&writer);
        let interval = options.bounds.table_interval;
        runtime.spawn(async move {
            while let Some(writer) = task.upgrade() {
                let hurried = writer.hurry.notified();
                // Either way it is time.
                let _ = tokio::time::timeout(interval, hurried).await;
                writer.flushes.store(0, Ordering::Relaxed);
                if writer.dirty.swap(false, Ordering::Relaxed) && write_tables(&db).await.is_err() {
                    // The engine has stopped: every other call says why.
                    return;
                }
            }
        });
        writer
    }

    fn applied(&self) {
        self.dirty.store(true, Ordering::Relaxed);
    }

    fn flushed(&self) {
        if self.flushes.fetch_add(1, Ordering::Relaxed) + 1 >= self.flushes_max {
            self.hurry.notify_one();
        }
    }
}

#[async_trait]
impl MetaRead for SlateMeta {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        let options = settings::point_read();
        in_runtime(&self.runtime, self.db.get_with_options(key, &options))
            .await
            .map_err(|error| convert(&self.db, "reading a record", error))
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let options = settings::scan(limit);
        let scan =
            async { collect(self.db.scan_with_options(start..end, &options).await?, limit).await };
        in_runtime(&self.runtime, scan)
            .await
            .map_err(|error| convert(&self.db, "scanning records", error))
    }

    fn version(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }
}

#[async_trait]
impl MetaStore for SlateMeta {
    async fn apply(&self, batch: Batch) -> Result<(), MetaError> {
        const DOING: &str = "applying a batch";
        batch.check()?;
        self.check_open(DOING)?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut changes = WriteBatch::new();
        for (key, value) in batch {
            match value {
                Some(value) => changes.put_bytes(key, value),
                None => changes.delete(key),
            }
        }
        let options = WriteOptions::default();
        let write = async {
            tokio::select! {
                biased;
                written = self.db.write_with_options(changes, &options) => {
                    written.map_err(|error| convert(&self.db, DOING, error))
                }
                // With too much in memory it would wait for tables that cannot be written any more.
                error = self.compaction.failed() => Err(error),
            }
        };
        let written = in_runtime(&self.runtime, write).await?;
        self.applied.fetch_max(written.seqnum(), Ordering::AcqRel);
        self.tables.applied();
        Ok(())
    }

    async fn flush(&self) -> Result<(), MetaError> {
        self.check_open("flushing the log")?;
        self.flusher.flush().await?;
        self.tables.flushed();
        Ok(())
    }

    async fn close(&self) -> Result<(), MetaError> {
        let mut outcome = self.closing();
        let stopped = || MetaError::Closed { doing: "closing" };
        let done = outcome.wait_for(Option::is_some).await.map_err(|_| stopped())?;
        done.clone().unwrap_or_else(|| Err(stopped()))
    }

    async fn outlast_predecessors(&self) -> Result<(), MetaError> {
        self.check_open("waiting for earlier writers")?;
        in_runtime(&self.runtime, self.compaction.outlast()).await
    }

    async fn checkpoint(
        &self,
        name: &str,
        lifetime: Option<Duration>,
    ) -> Result<CheckpointId, MetaError> {
        const DOING: &str = "making a checkpoint";
        self.check_open(DOING)?;
        let options =
            CheckpointOptions { lifetime, name: Some(name.to_owned()), ..Default::default() };
        let make = self.db.create_checkpoint(CheckpointScope::All, &options);
        in_runtime(&self.runtime, make)
            .await
            .map(|made| CheckpointId(made.id.into_bytes()))
            .map_err(|error| convert(&self.db, DOING, error))
    }

    async fn delete_checkpoint(&self, id: CheckpointId) -> Result<(), MetaError> {
        const DOING: &str = "deleting a checkpoint";
        self.check_open(DOING)?;
        let admin = self.admin();
        in_runtime(&self.runtime, admin.delete_checkpoint(uuid::Uuid::from_bytes(id.0)))
            .await
            .map_err(|error| convert(&self.db, DOING, error))
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, MetaError> {
        const DOING: &str = "listing checkpoints";
        self.check_open(DOING)?;
        let admin = self.admin();
        let mut found: Vec<_> = in_runtime(&self.runtime, admin.list_checkpoints(None))
            .await
            .map_err(|error| convert(&self.db, DOING, error))?
            .into_iter()
            .filter(|one| one.expire_time.is_none_or(|end| end > chrono::Utc::now()))
            .map(describe)
            .collect();
        found.sort_by_key(|one| one.created);
        Ok(found)
    }
}

fn describe(one: slatedb::Checkpoint) -> Checkpoint {
    let timestamp = |time: chrono::DateTime<chrono::Utc>| Timestamp {
        seconds: time.timestamp(),
        nanos: time.timestamp_subsec_nanos().min(999_999_999),
    };
    Checkpoint {
        id: CheckpointId(one.id.into_bytes()),
        name: one.name.unwrap_or_default(),
        created: timestamp(one.create_time),
        expires: one.expire_time.map(timestamp),
    }
}

async fn collect(mut rows: DbIterator, limit: usize) -> Result<Vec<Record>, slatedb::Error> {
    let mut records = Vec::new();
    while records.len() < limit {
        match rows.next().await? {
            Some(row) => records.push((row.key, row.value)),
            None => break,
        }
    }
    Ok(records)
}

/// Polls `future` inside `runtime`, whatever thread polls it.
async fn in_runtime<F: Future>(runtime: &Handle, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(move |context| {
        let _entered = runtime.enter();
        future.as_mut().poll(context)
    })
    .await
}

/// SlateDB's error in our words. An engine that has stopped answers every call
/// with what stopped it, so that is looked up first: no retry can help then.
fn convert(db: &Db, doing: &'static str, error: slatedb::Error) -> MetaError {
    let stopped = db.subscribe().borrow().close_reason;
    match stopped {
        Some(CloseReason::Fenced) => MetaError::Fenced,
        Some(CloseReason::Clean) => match error.kind() {
            ErrorKind::Closed(CloseReason::Clean) => MetaError::Closed { doing },
            _ => classify(doing, error),
        },
        Some(_) => match error.kind() {
            ErrorKind::Closed(CloseReason::Fenced) => MetaError::Fenced,
            _ => MetaError::Stopped { doing, source: Arc::new(error) },
        },
        None => classify(doing, error),
    }
}

fn opening(error: slatedb::Error) -> MetaError {
    classify("opening the volume", error)
}

fn classify(doing: &'static str, error: slatedb::Error) -> MetaError {
    match error.kind() {
        // What does not authenticate is a failure of the store to the engine.
        ErrorKind::Unavailable if open_error(&error).is_some() => {
            MetaError::Corrupt { doing, source: Arc::new(error) }
        }
        ErrorKind::Closed(CloseReason::Fenced) => MetaError::Fenced,
        ErrorKind::Closed(CloseReason::Clean) => MetaError::Closed { doing },
        ErrorKind::Unavailable => MetaError::Unavailable { doing, source: Arc::new(error) },
        ErrorKind::Data => MetaError::Corrupt { doing, source: Arc::new(error) },
        _ => MetaError::Stopped { doing, source: Arc::new(error) },
    }
}
