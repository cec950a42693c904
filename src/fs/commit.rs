//! Committing: from a closed group to an acknowledged state of the bucket.
//!
//! ```text
//! close (fsync, interval, size) -> wait for packs under way -> pack or inline the rest
//!   -> new block maps and pack records -> one atomic batch -> flush -> acknowledge
//! ```
//!
//! Invariants: one group commits at a time, in order; its packs are in the
//! bucket before its batch is applied; nobody is told of a commit before the
//! flush. A step that fails is tried again until it succeeds, or never can: a newer
//! writer holds the volume, the engine has stopped or refuses the batch. What was accepted
//! is kept in memory, and those who wait give up once nothing has moved for the deadline.
//! Damaged records of one file do not keep the rest from being committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::block_map::BlockMaps;
use super::core::{Core, Mode};
use super::group::Group;
use super::system::{Inner, Progress};
use super::{FileSystem, FsError};
use crate::base::sabotage::{Bug, seeded};
use crate::base::{CommitNumber, ErrorKind, PackNumber};
use crate::format::{Counters, Key, UnsweptRecord};
use crate::meta::{Batch, MetaError};

/// Pauses between attempts at a step that fails, shortest and longest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Inner {
    /// Commits group after group until the mount closes.
    pub async fn run_committer(self: Arc<Self>) {
        let mut closing = self.closing.subscribe();
        loop {
            tokio::select! {
                () = self.reason_to_close() => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
            if let Some(number) = self.close_group() {
                self.commit(number).await;
            }
            if self.lock().mode == Mode::Ended {
                // Nothing will be committed any more; those who wait are told.
                return;
            }
        }
    }

    /// Returns when the open group is to be closed.
    async fn reason_to_close(&self) {
        loop {
            let wake = self.commit_wanted.notified();
            let deadline = {
                let core = self.lock();
                if core.wants_commit() || core.is_full() {
                    return;
                }
                core.open.began.map(|began| began + self.config.commit_interval)
            };
            match deadline {
                Some(deadline) => tokio::select! {
                    () = wake => {}
                    () = tokio::time::sleep_until(deadline.into()) => return,
                },
                None => wake.await,
            }
        }
    }

    /// Makes the open group the committing one; `None` if nothing changed.
    fn close_group(&self) -> Option<CommitNumber> {
        let mut core = self.lock();
        if core.open.is_empty() || core.mode == Mode::Ended {
            core.open.began = None;
            return None;
        }
        let number = core.open.number;
        let next = Group::new(CommitNumber(number.0 + 1));
        let mut group = std::mem::replace(&mut core.open, next);
        if let Some(from) = core.unswept.take() {
            let record = UnsweptRecord { to: self.writer };
            group.set(Key::unswept(from), Some(record.encode().into()));
        }
        core.counters.commit = number;
        group.counters = core.counters;
        core.committing = Some(Arc::new(group));
        Some(number)
    }

    /// Commits a closed group, however long it takes; gives up only when it never can be.
    async fn commit(&self, number: CommitNumber) {
        let mut pause = PAUSE_MIN;
        let began = Instant::now();
        let bytes = self.lock().committing.as_ref().map_or(0, |group| group.dirty_bytes());
        loop {
            match self.try_commit(number).await {
                Ok(()) => {
                    self.lock().note_commit(number, bytes, began);
                    self.finish(number);
                    self.succeeded();
                    return;
                }
                Err(CommitError::Final(_)) if seeded(Bug::IgnoreFence) => {
                    return self.finish(number);
                }
                Err(CommitError::Final(error)) => return self.end(error),
                Err(CommitError::Failed(error)) => self.failed(&error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn try_commit(&self, number: CommitNumber) -> Result<(), CommitError> {
        self.packs_landed(number).await;
        if !self.lock().group_is_mapped(number) {
            self.settle(number).await?;
            let maps = BlockMaps::build(self, number).await?;
            self.tidy_soon(maps.install(&mut self.lock(), number));
        }
        // Without an engine nothing can have changed.
        let (Some(batch), Some(engine)) = (self.batch(), &self.engine) else { return Ok(()) };
        if seeded(Bug::TearGroup) {
            let (mut first, mut second) = (Batch::new(), Batch::new());
            for (index, (key, value)) in batch.clone().into_iter().enumerate() {
                let half = if index % 2 == 0 { &mut first } else { &mut second };
                match value {
                    Some(value) => half.put(key, value),
                    None => half.delete(key),
                }
            }
            engine.apply(first).await?;
            engine.flush().await?;
            engine.apply(second).await?;
        }
        engine.apply(batch).await?;
        if seeded(Bug::AcknowledgeBeforeFlush) {
            let engine = Arc::clone(engine);
            self.runtime.spawn(async move { engine.flush().await });
            return Ok(());
        }
        engine.flush().await?;
        Ok(())
    }

    /// Waits until no pack of a group is under way.
    async fn packs_landed(&self, number: CommitNumber) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.lock().group_mut(number).is_none_or(|group| group.packs_in_flight == 0) {
                return;
            }
            room.await;
        }
    }

    /// All records of a group whose content is mapped, and the counters.
    fn batch(&self) -> Option<Batch> {
        let core = self.lock();
        let group = core.committing.as_ref()?;
        let mut batch = Batch::new();
        for (key, value) in &group.records {
            match value {
                Some(value) => batch.put(key.as_bytes().to_vec(), value.clone()),
                None => batch.delete(key.as_bytes().to_vec()),
            }
        }
        // Packs of the open group may be in the bucket already: they are orphans after a crash.
        let counter = core.open.first_pack.unwrap_or_else(|| self.next_pack_counter());
        let counter = counter + u64::from(seeded(Bug::MiscountNextPack));
        let next_pack = PackNumber::new(self.writer, counter).unwrap_or_default();
        let counters = Counters { next_pack, ..group.counters };
        batch.put(Key::counters().as_bytes().to_vec(), counters.encode());
        Some(batch)
    }

    /// The group is in the bucket: its records are the committed ones.
    fn finish(&self, number: CommitNumber) {
        {
            let mut core = self.lock();
            let core = &mut *core;
            if let Some(group) = core.committing.take() {
                let records =
                    Arc::try_unwrap(group).map_or_else(|g| g.records.clone(), |g| g.records);
                for (key, value) in records {
                    core.loading.changed(&key);
                    core.note_inline(&key, value.is_some());
                    if !seeded(Bug::KeepStaleRecord) || core.cache.get(&key).is_none() {
                        core.cache.insert(key, value);
                    }
                }
            }
            core.committed = number;
        }
        self.note_movement();
        self.progress.send_modify(|progress| progress.committed = number);
        self.room.notify_waiters();
    }

    /// Nothing more is stored or acknowledged; the mount is read-only.
    pub fn end(&self, error: FsError) {
        tracing::error!("this mount is read-only now: {error}");
        {
            let mut core = self.lock();
            core.mode = Mode::Ended;
            core.ended = Some(error);
        }
        self.progress.send_modify(|progress| progress.ended = true);
        self.room.notify_waiters();
    }
}

impl Core {
    fn note_commit(&mut self, number: CommitNumber, bytes: u64, began: Instant) {
        let is_wanted = self.waited_for >= number;
        self.pace.committed(bytes, began.elapsed(), is_wanted, Instant::now());
    }

    /// Whether a group's content has become records.
    fn group_is_mapped(&mut self, number: CommitNumber) -> bool {
        self.group_mut(number).is_none_or(|group| group.files.is_empty())
    }

    fn note_inline(&mut self, key: &Key, present: bool) {
        let Some(page) = key.inline_page() else { return };
        if present {
            self.inline_pages.insert(page);
        } else {
            self.inline_pages.remove(&page);
        }
    }
}

/// Why a commit did not come about.
pub(super) enum CommitError {
    /// No attempt will ever succeed.
    Final(FsError),
    /// To be tried again.
    Failed(FsError),
}

impl From<FsError> for CommitError {
    /// Only the engine knows of a newer writer or of its own end: whatever the store says of a
    /// pack may pass.
    fn from(error: FsError) -> Self {
        Self::Failed(error)
    }
}

impl From<MetaError> for CommitError {
    fn from(error: MetaError) -> Self {
        // What the engine refuses as it is, it refuses for ever.
        let is_final = error.is_final() || matches!(error, MetaError::Invalid(_));
        let kind = error.kind();
        let message =
            if kind == ErrorKind::Conflict { fenced() } else { FsError::io(&error, kind) };
        if is_final { Self::Final(message) } else { Self::Failed(message) }
    }
}

impl FileSystem {
    /// Commits everything up to now. On `Ok` it is in the bucket.
    ///
    /// # Errors
    /// [`FsError::Io`] when the deadline passes or a newer writer holds the volume, and as long
    /// as a file that lost bytes (`lost.rs`) stands as it is.
    pub async fn flush(&self) -> Result<(), FsError> {
        self.commit().await?;
        self.inner.check_nothing_lost()
    }

    /// As [`flush`](Self::flush), whatever was lost before.
    ///
    /// # Errors
    /// [`FsError::Io`] when the deadline passes or a newer writer holds the volume.
    pub async fn commit(&self) -> Result<(), FsError> {
        self.inner.within(self.inner.clone().flush_all()).await
    }
}

impl Inner {
    /// As [`FileSystem::flush`], without a deadline, and whatever was lost.
    pub async fn flush_all(self: Arc<Self>) -> Result<(), FsError> {
        let mut progress = self.progress.subscribe();
        let Some(target) = self.want_commit()? else { return Ok(()) };
        self.commit_wanted.notify_one();
        let reached = |progress: &Progress| progress.ended || progress.committed >= target;
        let committed = progress.wait_for(reached).await.map(|progress| progress.committed);
        match committed {
            Ok(committed) if committed >= target => Ok(()),
            _ => Err(self.lock().ended.clone().unwrap_or_else(fenced)),
        }
    }

    /// As [`want_commit`](Self::want_commit), for a program that stands still until then.
    pub fn wait_for_commit(&self) -> Result<Option<CommitNumber>, FsError> {
        let target = self.want_commit()?;
        let mut core = self.lock();
        core.waited_for = core.waited_for.max(target.unwrap_or_default());
        Ok(target)
    }

    /// Asks for a commit of all that is dirty; gives its number, `None` if nothing is.
    pub fn want_commit(&self) -> Result<Option<CommitNumber>, FsError> {
        let mut core = self.lock();
        if let Some(error) = &core.ended {
            return Err(error.clone());
        }
        if core.open.is_empty() {
            return Ok(core.committing.as_ref().map(|group| group.number));
        }
        core.wanted = core.wanted.max(core.open.number);
        if seeded(Bug::AcknowledgeGroupBefore) {
            return Ok(Some(CommitNumber(core.open.number.0 - 1)));
        }
        Ok(Some(core.open.number))
    }
}

fn fenced() -> FsError {
    let message =
        "another writer has taken the volume over: nothing more is stored by this mount; \
                   unmount it"
            .to_owned();
    FsError::Io { message, kind: ErrorKind::Conflict }
}
