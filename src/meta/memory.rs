//! Records in memory: the reference engine that tests run against.
//!
//! [`MemoryVolume`] plays the bucket, [`MemoryMeta`] a mounted writer. A batch
//! reaches the volume only with `flush`, so dropping a writer is a crash: the
//! next opener finds what was flushed and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::WriterEpoch;
use crate::meta::{Batch, Checkpoint, CheckpointId, MetaError, MetaRead, MetaStore, Record};

type Records = BTreeMap<Bytes, Bytes>;

/// What a bucket would hold: the flushed records, the checkpoints, the newest writer.
#[derive(Debug, Clone, Default)]
pub struct MemoryVolume {
    durable: Arc<Mutex<Durable>>,
}

#[derive(Debug, Default)]
struct Durable {
    records: Records,
    version: u64,
    epoch: u32,
    checkpoints: Vec<(Checkpoint, Records)>,
}

impl Durable {
    fn live_checkpoints(&self) -> impl Iterator<Item = &(Checkpoint, Records)> {
        let now = SystemTime::now().into();
        self.checkpoints
            .iter()
            .filter(move |(checkpoint, _)| checkpoint.expires.is_none_or(|end| end > now))
    }
}

impl MemoryVolume {
    /// An empty volume.
    pub fn new() -> Self {
        Self::default()
    }

    /// Becomes the writer; an older writer is fenced.
    pub fn open(&self) -> MemoryMeta {
        let mut durable = lock(&self.durable);
        durable.epoch += 1;
        let local =
            Local { records: durable.records.clone(), version: durable.version, closed: false };
        let epoch = WriterEpoch(durable.epoch);
        MemoryMeta { volume: self.clone(), epoch, local: Mutex::new(local) }
    }

    /// Follows what the writer has flushed.
    pub fn follow(&self) -> MemoryReader {
        MemoryReader { volume: self.clone(), pinned: None }
    }

    /// Reads a checkpoint.
    pub fn open_checkpoint(&self, id: CheckpointId) -> Result<MemoryReader, MetaError> {
        let durable = lock(&self.durable);
        let found = durable.live_checkpoints().find(|(checkpoint, _)| checkpoint.id == id);
        let (_, records) = found.ok_or(MetaError::NoCheckpoint(id))?;
        Ok(MemoryReader { volume: self.clone(), pinned: Some(records.clone()) })
    }
}

/// A writer in memory.
#[derive(Debug)]
pub struct MemoryMeta {
    volume: MemoryVolume,
    epoch: WriterEpoch,
    /// Lock order: this one before the volume's.
    local: Mutex<Local>,
}

#[derive(Debug)]
struct Local {
    records: Records,
    version: u64,
    closed: bool,
}

impl MemoryMeta {
    /// Which writer of the volume this is.
    pub fn writer_epoch(&self) -> WriterEpoch {
        self.epoch
    }

    /// The local state, when this engine is open and nobody took over.
    fn open_state(&self, doing: &'static str) -> Result<MutexGuard<'_, Local>, MetaError> {
        let local = lock(&self.local);
        if local.closed {
            return Err(MetaError::Closed { doing });
        }
        if lock(&self.volume.durable).epoch != self.epoch.0 {
            return Err(MetaError::Fenced);
        }
        Ok(local)
    }

    fn store(&self, local: &Local) {
        let mut durable = lock(&self.volume.durable);
        durable.records.clone_from(&local.records);
        durable.version = local.version;
    }
}

#[async_trait]
impl MetaRead for MemoryMeta {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        Ok(self.open_state("reading a record")?.records.get(key).cloned())
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        Ok(scan(&self.open_state("scanning records")?.records, start, end, limit))
    }

    fn version(&self) -> u64 {
        lock(&self.local).version
    }
}

#[async_trait]
impl MetaStore for MemoryMeta {
    async fn apply(&self, batch: Batch) -> Result<(), MetaError> {
        batch.check()?;
        let mut local = self.open_state("applying a batch")?;
        if batch.is_empty() {
            return Ok(());
        }
        for (key, value) in batch {
            match value {
                Some(value) => local.records.insert(key, value),
                None => local.records.remove(&key),
            };
        }
        local.version += 1;
        Ok(())
    }

    async fn flush(&self) -> Result<(), MetaError> {
        let local = self.open_state("flushing")?;
        self.store(&local);
        Ok(())
    }

    async fn close(&self) -> Result<(), MetaError> {
        if lock(&self.local).closed {
            return Ok(());
        }
        let mut local = self.open_state("closing")?;
        self.store(&local);
        local.closed = true;
        Ok(())
    }

    async fn checkpoint(
        &self,
        name: &str,
        lifetime: Option<Duration>,
    ) -> Result<CheckpointId, MetaError> {
        let local = self.open_state("making a checkpoint")?;
        self.store(&local);
        let mut durable = lock(&self.volume.durable);
        let number = durable.checkpoints.last().map_or(1, |(last, _)| number_of(last.id) + 1);
        let id = CheckpointId(u128::to_be_bytes(number));
        let now = SystemTime::now();
        let checkpoint = Checkpoint {
            id,
            name: name.to_owned(),
            created: now.into(),
            expires: lifetime.map(|lifetime| (now + lifetime).into()),
        };
        durable.checkpoints.push((checkpoint, local.records.clone()));
        Ok(id)
    }

    async fn delete_checkpoint(&self, id: CheckpointId) -> Result<(), MetaError> {
        let _local = self.open_state("deleting a checkpoint")?;
        lock(&self.volume.durable).checkpoints.retain(|(checkpoint, _)| checkpoint.id != id);
        Ok(())
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, MetaError> {
        let _local = self.open_state("listing checkpoints")?;
        let durable = lock(&self.volume.durable);
        Ok(durable.live_checkpoints().map(|(checkpoint, _)| checkpoint.clone()).collect())
    }
}

fn number_of(id: CheckpointId) -> u128 {
    u128::from_be_bytes(id.0)
}

/// A reader of what was flushed, or of one checkpoint.
#[derive(Debug)]
pub struct MemoryReader {
    volume: MemoryVolume,
    pinned: Option<Records>,
}

impl MemoryReader {
    fn read<T>(&self, look: impl FnOnce(&Records) -> T) -> T {
        match &self.pinned {
            Some(records) => look(records),
            None => look(&lock(&self.volume.durable).records),
        }
    }
}

#[async_trait]
impl MetaRead for MemoryReader {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        Ok(self.read(|records| records.get(key).cloned()))
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        Ok(self.read(|records| scan(records, start, end, limit)))
    }

    fn version(&self) -> u64 {
        match self.pinned {
            Some(_) => 0,
            None => lock(&self.volume.durable).version,
        }
    }
}

fn scan(records: &Records, start: &[u8], end: &[u8], limit: usize) -> Vec<Record> {
    if start >= end {
        return Vec::new();
    }
    let bounds = (std::ops::Bound::Included(start), std::ops::Bound::Excluded(end));
    records
        .range::<[u8], _>(bounds)
        .take(limit)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// A thread that panicked under the lock left whole records: go on with them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
