//! A metadata reader in the place where the file system takes a writer.
//!
//! A read-only mount shows the state that it opened. The file system refuses
//! every change before it comes here; what comes nevertheless is refused again.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::meta::{
    Batch, Checkpoint, CheckpointId, MetaError, MetaRead, MetaStore, Record, SlateReader,
};

/// Reads; refuses to write.
pub(super) struct ReadOnlyMeta {
    reader: SlateReader,
}

impl ReadOnlyMeta {
    pub(super) fn new(reader: SlateReader) -> Self {
        Self { reader }
    }
}

fn refused<T>() -> Result<T, MetaError> {
    Err(MetaError::Invalid("this mount is read-only: mount it read-write to change it".to_owned()))
}

#[async_trait]
impl MetaRead for ReadOnlyMeta {
    async fn get(&self, key: &[u8]) -> Result<Option<Bytes>, MetaError> {
        self.reader.get(key).await
    }

    async fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Record>, MetaError> {
        self.reader.scan(start, end, limit).await
    }

    fn version(&self) -> u64 {
        self.reader.version()
    }
}

#[async_trait]
impl MetaStore for ReadOnlyMeta {
    async fn apply(&self, _batch: Batch) -> Result<(), MetaError> {
        refused()
    }

    async fn flush(&self) -> Result<(), MetaError> {
        // Nothing was applied, so nothing is missing.
        Ok(())
    }

    async fn close(&self) -> Result<(), MetaError> {
        self.reader.close().await
    }

    async fn checkpoint(
        &self,
        _name: &str,
        _lifetime: Option<Duration>,
    ) -> Result<CheckpointId, MetaError> {
        refused()
    }

    async fn delete_checkpoint(&self, _id: CheckpointId) -> Result<(), MetaError> {
        refused()
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, MetaError> {
        refused()
    }
}
