//! Ordered records: what the volume knows about itself, as bytes under bytes.
//!
//! ```text
//!   commit group -> apply(batch) -> memory -> flush() -> log object in the bucket   (acknowledged)
//!                                     |
//!                                     +-> tables in the bucket, about once a minute (bounds the replay at mount)
//! ```
//!
//! Two engines stand behind one trait: [`SlateMeta`], a SlateDB database in the
//! bucket, and [`MemoryMeta`], for tests. What a record means is not known here.
//!
//! Invariant: a batch is in the bucket whole or not at all, and never without
//! every batch applied before it. After `flush` returned `Ok`, any later opener
//! sees everything applied before that call.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::Timestamp;

mod error;
mod memory;
mod slate;
#[cfg(test)]
mod suite;

pub use error::MetaError;
pub use memory::{MemoryMeta, MemoryReader, MemoryVolume};
pub use slate::{SlateLook, SlateMeta, SlateOptions, SlateReader, View};

/// Longest key in bytes; the codec's keys are far shorter.
pub const KEY_LEN_MAX: usize = 1 << 10;
/// Most bytes of keys and values in one batch: one batch becomes one log object,
/// held in memory about three times until it is in the bucket.
pub const BATCH_BYTES_MAX: usize = 80 << 20;

/// Reading side of a volume's records: a writer, a follower or a checkpoint.
#[async_trait]
pub trait MetaRead: Send + Sync + 'static {
    /// The value under `key`.
    ///
    /// Ready on its first poll when the answer is in memory; may be polled on any thread.
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError>;

    /// Records with `start <= key < end` in key order, at most `limit`.
    ///
    /// One call reads one state; two calls may see a batch between them.
    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError>;

    /// A number that grows when the records of this view change; cheap.
    ///
    /// On a follower it may lag the view by a moment but never runs ahead of it.
    fn version(&self) -> u64;

    /// Whether reads may already show a newer state than [`version`](Self::version) says. Never
    /// for long, and never on a writer.
    fn is_settling(&self) -> bool {
        false
    }
}

/// The single writer of a volume's records.
#[async_trait]
pub trait MetaStore: MetaRead {
    /// Applies a batch atomically; visible to reads on return, durable only after `flush`.
    ///
    /// Waits while too much is unflushed. When this future is dropped early, it
    /// is unknown whether the batch was applied.
    ///
    /// # Errors
    /// - [`MetaError::Invalid`]: an empty or overlong key, or over [`BATCH_BYTES_MAX`]; nothing applied.
    /// - [`MetaError::Fenced`], [`MetaError::Closed`], [`MetaError::Stopped`]: final for this engine.
    async fn apply(&self, batch: Batch) -> Result<(), MetaError>;

    /// Everything applied before this call is in the bucket on return.
    ///
    /// Waits as long as the store fails, and goes on when it recovers. Dropping
    /// the future is safe: the flush goes on by itself, a later call waits for it.
    /// Any number of concurrent calls share flushes; one is in flight at a time.
    async fn flush(&self) -> Result<(), MetaError>;

    /// Clean end: everything durable, no replay needed by the next opener; background work stopped.
    ///
    /// Dropping the future is safe, the closing goes on; a later call waits for it.
    async fn close(&self) -> Result<(), MetaError>;

    /// Returns when nothing that an earlier writer left running can change the records' objects any more.
    /// Its log is closed to it from the beginning, but it may still have been merging tables.
    async fn outlast_predecessors(&self) -> Result<(), MetaError> {
        Ok(())
    }

    /// Keeps the state of this moment, everything applied included, readable
    /// under the returned id until `lifetime` is over or it is deleted.
    async fn checkpoint(
        &self,
        name: &str,
        lifetime: Option<Duration>,
    ) -> Result<CheckpointId, MetaError>;

    /// Gives up a checkpoint; its objects are freed later. Unknown ids are no error.
    async fn delete_checkpoint(&self, id: CheckpointId) -> Result<(), MetaError>;

    /// The checkpoints that exist, oldest first.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, MetaError>;
}

/// One record: key and value.
pub type Record = (Bytes, Bytes);

/// Changes that become visible and durable together; the last change of a key wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    changes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.change(key.into(), Some(value.into()));
    }

    /// Removes `key`, whether or not it exists.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.change(key.into(), None);
    }

    fn change(&mut self, key: Bytes, value: Option<Bytes>) {
        let value_len = value.as_ref().map_or(0, Bytes::len);
        let key_len = key.len();
        match self.changes.insert(key, value) {
            Some(old) => self.bytes -= old.map_or(0, |old| old.len()),
            None => self.bytes += key_len,
        }
        self.bytes += value_len;
    }

    /// Keys changed.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The changes in key order; `None` deletes.
    pub fn iter(&self) -> btree_map::Iter<'_, Bytes, Option<Bytes>> {
        self.changes.iter()
    }

    /// Refuses what an engine must not be asked to store.
    fn check(&self) -> Result<(), MetaError> {
        if self.bytes > BATCH_BYTES_MAX {
            return Err(MetaError::Invalid(format!(
                "a batch of {} bytes is over the bound of {BATCH_BYTES_MAX}: split the group",
                self.bytes
            )));
        }
        match self.changes.keys().find(|key| key.is_empty() || key.len() > KEY_LEN_MAX) {
            Some(key) => Err(MetaError::Invalid(format!(
                "a record key has {} bytes, allowed are 1 to {KEY_LEN_MAX}",
                key.len()
            ))),
            None => Ok(()),
        }
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = (&'a Bytes, &'a Option<Bytes>);
    type IntoIter = btree_map::Iter<'a, Bytes, Option<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Batch {
    type Item = (Bytes, Option<Bytes>);
    type IntoIter = btree_map::IntoIter<Bytes, Option<Bytes>>;

    fn into_iter(self) -> Self::IntoIter {
        self.changes.into_iter()
    }
}

/// Identity of a checkpoint: 16 bytes, written as a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckpointId(pub [u8; 16]);

impl std::fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl std::str::FromStr for CheckpointId {
    type Err = MetaError;

    fn from_str(text: &str) -> Result<Self, MetaError> {
        uuid::Uuid::try_parse(text)
            .map(|id| Self(id.into_bytes()))
            .map_err(|_| MetaError::Invalid("a checkpoint id is a UUID".to_owned()))
    }
}

/// What is known about a checkpoint without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// How to open or delete it.
    pub id: CheckpointId,
    /// The name given at its making.
    pub name: String,
    /// When it was made, by the writer's clock.
    pub created: Timestamp,
    /// When it ends by itself; `None` when only `delete_checkpoint` ends it.
    pub expires: Option<Timestamp>,
}
