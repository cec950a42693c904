//! The mounted file system: runs operations, loads what they miss, waits where they must.
//!
//! ```text
//! operation -> attempt under the lock -> done: answer at once
//!                 ^         |-> a record is missing: load it, attempt again
//!                 |         `-> too much is dirty: wait for a commit, attempt again
//!                 `-- all waiting happens here, outside the lock, under one deadline
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant as TokioInstant;

use super::core::{Attempt, Core, Fixed, Mode, Stop, Tx};
use super::records_ahead::RecordsAhead;
use super::status::Health;
use super::{FsConfig, FsError, Outcome};
use crate::base::{
    BlockIndex, BlockSize, Clock, CommitNumber, ErrorKind, Inode, Timestamp, WriterEpoch,
};
use crate::crypto::SecretKey;
use crate::data::{BlockReader, PackContext, Uploader};
use crate::format::Key;
use crate::meta::{MetaError, MetaRead, MetaStore, Record};

/// Most records that one scan of the engine asks for.
pub(super) const SCAN_RECORDS: usize = 1024;

/// How often a follower looks whether the state that it shows has settled.
const SETTLE_POLL: Duration = Duration::from_millis(25);

/// Where records are.
pub enum Records {
    /// This mount is the writer.
    Writer(Arc<dyn MetaStore>),
    /// This mount only reads: it follows a writer, or stands at a checkpoint.
    Reader(Arc<dyn MetaRead>),
}

/// What a mounted volume is made of.
pub struct FsParts {
    /// Where records are read and written.
    pub records: Records,
    /// Reads blocks of packs.
    pub reader: Arc<BlockReader>,
    /// Builds packs.
    pub packs: Arc<PackContext>,
    /// Stores packs.
    pub uploader: Arc<Uploader>,
    /// Keys the hash of names.
    pub names: SecretKey,
    /// This writer's epoch, the upper part of its pack numbers.
    pub writer: WriterEpoch,
    /// Fixed when the volume was made.
    pub block_size: BlockSize,
    /// Settings.
    pub config: FsConfig,
    /// Gives file times.
    pub clock: Arc<dyn Clock>,
    /// Runs what has to wait.
    pub runtime: Runtime,
}

/// How far commits have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub committed: CommitNumber,
    /// Nothing will be committed any more.
    pub ended: bool,
}

pub(super) struct Inner {
    core: Mutex<Core>,
    pub meta: Arc<dyn MetaRead>,
    /// The same engine as its writer; `None` on a mount that only reads.
    pub engine: Option<Arc<dyn MetaStore>>,
    /// Where to read records before they are needed.
    pub records_ahead: Arc<RecordsAhead>,
    pub reader: Arc<BlockReader>,
    pub packs: Arc<PackContext>,
    pub uploader: Arc<Uploader>,
    pub fixed: Arc<Fixed>,
    pub config: FsConfig,
    pub clock: Arc<dyn Clock>,
    pub runtime: Runtime,
    pub writer: WriterEpoch,
    /// Who may build and store a pack now.
    pub pack_turns: Semaphore,
    /// Counter part of the next pack number.
    pub next_pack: AtomicU64,
    /// The committer looks whether to close the open group.
    pub commit_wanted: Notify,
    /// The packer looks whether the open group fills a pack.
    pub pack_wanted: Notify,
    /// Dirty bytes became fewer, or a pack of a group is done.
    pub room: Notify,
    /// Inodes that nobody refers to any more.
    pub reclaim_wanted: Notify,
    pub unreferenced: Mutex<Vec<Inode>>,
    /// Blocks in too many fragments.
    pub crowded: Mutex<Vec<(Inode, BlockIndex)>>,
    pub tidy_wanted: Notify,
    pub progress: watch::Sender<Progress>,
    pub health: Mutex<Health>,
    pub closing: watch::Sender<bool>,
    /// When content or a commit last reached the bucket.
    pub moved: Mutex<TokioInstant>,
}

/// A mounted volume. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct FileSystem {
    pub(super) inner: Arc<Inner>,
}

impl Records {
    /// The engine for reading, and for writing if this mount may.
    pub(super) fn split(self) -> (Arc<dyn MetaRead>, Option<Arc<dyn MetaStore>>) {
        match self {
            Self::Writer(engine) => (engine.clone(), Some(engine)),
            Self::Reader(engine) => (engine, None),
        }
    }
}

impl Inner {
    pub(super) fn new(parts: FsParts, core: Core) -> Self {
        let progress = Progress { committed: core.committed, ended: false };
        let (meta, engine) = parts.records.split();
        Self {
            fixed: core.fixed.clone(),
            core: Mutex::new(core),
            meta,
            engine,
            records_ahead: Arc::default(),
            reader: parts.reader,
            packs: parts.packs,
            uploader: parts.uploader,
            clock: parts.clock,
            runtime: parts.runtime,
            writer: parts.writer,
            pack_turns: Semaphore::new(parts.config.packs_in_flight),
            config: parts.config,
            next_pack: AtomicU64::new(0),
            commit_wanted: Notify::new(),
            pack_wanted: Notify::new(),
            room: Notify::new(),
            reclaim_wanted: Notify::new(),
            unreferenced: Mutex::default(),
            crowded: Mutex::default(),
            tidy_wanted: Notify::new(),
            progress: watch::Sender::new(progress),
            health: Mutex::default(),
            closing: watch::Sender::new(false),
            moved: Mutex::new(TokioInstant::now()),
        }
    }

    /// The state. A panic under this lock leaves it undefined: nothing of it may
    /// reach the bucket, so the process ends; the volume is at its last commit.
    pub fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(|_| {
            tracing::error!("the file system's state is undefined after a panic: ending the mount");
            std::process::abort()
        })
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn attempt<T>(&self, operation: &mut impl FnMut(&mut Tx<'_>) -> Attempt<T>) -> Attempt<T> {
        let now = self.now();
        let mut core = self.lock();
        if self.engine.is_none() {
            core.follow(self.meta.version());
        }
        let clean = core.open.began.is_none();
        let mut tx = Tx::new(&mut core, now);
        let result = operation(&mut tx)?;
        let unreferenced = tx.apply();
        self.notice(&core, clean);
        let crowded = std::mem::take(&mut core.open.crowded);
        drop(core);
        self.tidy_soon(crowded);
        for inode in unreferenced {
            self.reclaim_soon(inode);
        }
        Ok(result)
    }

    /// Wakes who has work to do after a change.
    fn notice(&self, core: &Core, was_clean: bool) {
        if core.open.unclaimed_bytes >= self.config.pack_bytes {
            self.pack_wanted.notify_one();
        }
        let is_first = was_clean && core.open.began.is_some();
        if is_first || core.wants_commit() {
            self.commit_wanted.notify_one();
        }
    }

    /// Whether what the engine shows may be newer than what memory holds of it: a follower is
    /// moving on.
    fn is_settling(&self) -> bool {
        self.engine.is_none() && self.meta.is_settling()
    }

    /// Waits while a follower moves on: records of two moments must not meet in one operation.
    async fn settled(&self) {
        while self.is_settling() {
            tokio::time::sleep(SETTLE_POLL).await;
        }
    }

    /// Brings a record into memory. `Ok` even if a commit has overtaken it: then look again.
    pub async fn load(&self, key: &Key) -> Result<(), FsError> {
        self.settled().await;
        let ticket = {
            let mut core = self.lock();
            if core.record(key).is_some() {
                return Ok(());
            }
            core.loading.begin(key)
        };
        let guard = LoadGuard { inner: self, key, ticket: Some(ticket) };
        self.scan_ahead(key).await;
        let value = self.meta.get(key.as_bytes()).await.map_err(|error| self.unread(&error))?;
        guard.finish(value);
        Ok(())
    }

    /// What to say of records that could not be read. A writer that learns of its successor in
    /// this way stores nothing more either.
    pub fn unread(&self, error: &MetaError) -> FsError {
        let failed = FsError::io(error, error.kind());
        if matches!(error, MetaError::Fenced) && self.lock().mode == Mode::ReadWrite {
            self.end(failed.clone());
        }
        failed
    }

    /// Brings the records of inodes `first..=last` into memory with scans; `wanted` are those needed.
    pub async fn load_range(
        &self,
        wanted: &[Key],
        first: Inode,
        last: Inode,
    ) -> Result<(), FsError> {
        self.settled().await;
        let guards: Vec<_> = {
            let mut core = self.lock();
            let guard = |key| {
                let ticket = Some(core.loading.begin(key));
                LoadGuard { inner: self, key, ticket }
            };
            wanted.iter().map(guard).collect()
        };
        let (mut start, end) =
            (Key::inode(first).as_bytes().to_vec(), after(Key::inode(last).as_bytes()));
        let mut found = std::collections::HashMap::new();
        loop {
            let records = self.meta.scan(&start, &end, SCAN_RECORDS).await;
            let records = records.map_err(|error| self.unread(&error))?;
            let last = records.last().filter(|_| records.len() == SCAN_RECORDS);
            let next = last.map(|(key, _)| after(key));
            found.extend(records);
            let Some(next) = next else { break };
            start = next;
        }
        for guard in guards {
            let value = found.get(guard.key.as_bytes()).cloned();
            guard.finish(value);
        }
        Ok(())
    }

    /// Runs an operation to its end, from where an attempt at it stopped.
    async fn resume<T>(
        &self,
        mut operation: impl FnMut(&mut Tx<'_>) -> Attempt<T> + Send,
        mut stop: Stop,
    ) -> Result<T, FsError> {
        let until = TokioInstant::now() + self.config.deadline;
        loop {
            match stop {
                Stop::Fail(error) => return Err(error),
                // Others may free some, and write it full again, for ever.
                Stop::Space if TokioInstant::now() >= until => return Err(FsError::NoSpace),
                // Nothing that moves elsewhere brings it.
                Stop::Load(key) => tokio::time::timeout(self.config.deadline, self.load(&key))
                    .await
                    .unwrap_or_else(|_| Err(self.unanswered()))?,
                Stop::Room | Stop::Space => {
                    let room = self.room.notified();
                    tokio::pin!(room);
                    room.as_mut().enable();
                    self.commit_wanted.notify_one();
                    self.pack_wanted.notify_one();
                    match self.attempt(&mut operation) {
                        Err(Stop::Room | Stop::Space) => room.await,
                        Ok(result) => return Ok(result),
                        Err(other) => {
                            stop = other;
                            continue;
                        }
                    }
                }
            }
            match self.attempt(&mut operation) {
                Ok(result) => return Ok(result),
                Err(next) => stop = next,
            }
        }
    }
}

/// The lowest key above `key`.
fn after(key: &(impl AsRef<[u8]> + ?Sized)) -> Vec<u8> {
    [key.as_ref(), &[0]].concat()
}

/// Ends a load whether or not it succeeds.
struct LoadGuard<'a> {
    inner: &'a Inner,
    key: &'a Key,
    ticket: Option<super::loading::Ticket>,
}

impl LoadGuard<'_> {
    fn finish(mut self, value: Option<Bytes>) {
        // It may have moved on while the record was read.
        let is_settling = self.inner.is_settling();
        let mut core = self.inner.lock();
        if let Some(ticket) = self.ticket.take()
            && core.loading.end(self.key, ticket)
            && !is_settling
        {
            core.cache.insert(self.key.clone(), value);
        }
    }
}

impl Drop for LoadGuard<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.inner.lock().loading.end(self.key, ticket);
        }
    }
}

/// One page of a scan through all layers.
pub(super) struct Scanned {
    pub records: Vec<Record>,
    /// Where to go on; `None` at the end of the range.
    pub next: Option<Vec<u8>>,
}

impl FileSystem {
    /// Runs an operation: at once if memory suffices, else on the runtime.
    pub(super) fn run<T: Send + 'static>(
        &self,
        mut operation: impl FnMut(&mut Tx<'_>) -> Attempt<T> + Send + 'static,
    ) -> Outcome<T> {
        match self.inner.attempt(&mut operation) {
            Ok(result) => Outcome::Ready(Ok(result)),
            Err(Stop::Fail(error)) => Outcome::Ready(Err(error)),
            Err(stop) => {
                let inner = self.inner.clone();
                self.start(async move { inner.resume(operation, stop).await })
            }
        }
    }

    /// Polls once, because the engine often has the answer in memory; the rest is for the runtime.
    pub(super) fn start<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, FsError>> + Send + 'static,
    ) -> Outcome<T> {
        let _context = self.inner.runtime.enter();
        let inner = self.inner.clone();
        let mut work: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { inner.within(work).await });
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Outcome::Ready(result),
            Poll::Pending => Outcome::Pending(work),
        }
    }

    /// Records of `start..end` as the volume now stands: the first ones, `limit` of each layer at most.
    ///
    /// There may be fewer, even none, before the end of the range, where many were deleted.
    /// What memory holds is taken first: a commit in between then moves records
    /// to where the scan of the engine, which comes later, finds them.
    pub(super) async fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Scanned, FsError> {
        let mut changes = std::collections::BTreeMap::new();
        let mut bound: Option<Vec<u8>> = None;
        {
            let core = self.inner.lock();
            let groups: Vec<_> = core.groups().collect();
            for group in groups.into_iter().rev() {
                let range = group.range(start, end);
                for (index, (key, value)) in range.enumerate() {
                    if index == limit {
                        let cut = key.as_bytes().to_vec();
                        bound = Some(bound.map_or(cut.clone(), |bound| bound.min(cut)));
                        break;
                    }
                    changes.insert(Bytes::copy_from_slice(key.as_bytes()), value.clone());
                }
            }
        }
        let scan_end = bound.as_deref().unwrap_or(end);
        let stored = loop {
            self.inner.settled().await;
            let stored = self.inner.meta.scan(start, scan_end, limit).await;
            let stored = stored.map_err(|error| self.inner.unread(&error))?;
            if !self.inner.is_settling() {
                break stored;
            }
        };
        if stored.len() == limit
            && let Some((last, _)) = stored.last()
        {
            let after = after(last);
            bound = Some(bound.map_or(after.clone(), |bound| bound.min(after)));
        }
        let mut merged: std::collections::BTreeMap<_, _> =
            stored.into_iter().map(|(key, value)| (key, Some(value))).collect();
        merged.extend(changes);
        let inside = |key: &Bytes| bound.as_ref().is_none_or(|bound| key[..] < bound[..]);
        let records = merged.into_iter().filter(|(key, _)| inside(key));
        let records = records.filter_map(|(key, value)| Some((key, value?))).collect();
        Ok(Scanned { records, next: bound })
    }

    /// The commit numbers as they come.
    pub fn commits(&self) -> watch::Receiver<CommitNumber> {
        let mut progress = self.inner.progress.subscribe();
        let (sender, receiver) = watch::channel(progress.borrow().committed);
        self.inner.runtime.spawn(async move {
            while progress.changed().await.is_ok() {
                let committed = progress.borrow_and_update().committed;
                if sender.send(committed).is_err() {
                    break;
                }
            }
        });
        receiver
    }

    /// Stops all changes; what is dirty is still committed.
    pub fn make_read_only(&self) {
        let mut core = self.inner.lock();
        if core.mode == Mode::ReadWrite {
            core.mode = Mode::ReadOnly;
        }
    }
}

impl Inner {
    /// Content or a commit has reached the bucket.
    pub fn note_movement(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = TokioInstant::now();
    }

    /// When the patience of who waits since `began` ends: on a slow line it lasts as long as anything moves.
    fn patience(&self, began: TokioInstant) -> TokioInstant {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        began.max(moved) + self.config.deadline
    }

    /// `work`, or an error once nothing has reached the bucket for as long as the deadline.
    pub async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, FsError>>,
    ) -> Result<T, FsError> {
        let began = TokioInstant::now();
        let mut work = std::pin::pin!(work);
        loop {
            let until = self.patience(began);
            if let Ok(result) = tokio::time::timeout_at(until, &mut work).await {
                return result;
            }
            if self.patience(began) <= until {
                break;
            }
        }
        Err(self.unanswered())
    }

    /// The store has not answered, or taken anything, within the deadline.
    fn unanswered(&self) -> FsError {
        let cause = self.last_failure().map(|cause| format!(" ({cause})")).unwrap_or_default();
        let message = format!(
            "not done within {} s{cause}; what was written is kept in memory and tried again: \
             see lidfs status",
            self.config.deadline.as_secs()
        );
        let error = FsError::Io { message, kind: ErrorKind::Retry };
        // A store that is silent lets no step of a commit fail for long: status shall say so.
        self.waited_in_vain(&error);
        error
    }
}
