//! Records being changed: what is not applied yet lies over what is stored.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::CheckError;
use crate::base::{CommitNumber, Inode};
use crate::format::{Counters, InodeRecord, Key};
use crate::meta::{Batch, MetaRead, MetaStore};

/// Changes that are not applied yet, over the records as they are.
pub(super) struct Edit<'a> {
    meta: &'a dyn MetaStore,
    pending: BTreeMap<Key, Option<Bytes>>,
    bytes: usize,
    is_changed: bool,
    commit: CommitNumber,
    counters: Option<Counters>,
}

impl<'a> Edit<'a> {
    pub fn new(meta: &'a dyn MetaStore, commit: CommitNumber, counters: Option<Counters>) -> Self {
        Self { meta, pending: BTreeMap::new(), bytes: 0, is_changed: false, commit, counters }
    }

    /// Whether anything was changed, applied or not.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Bytes of what is not applied yet.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The commit that the changes are part of.
    pub fn commit(&self) -> CommitNumber {
        self.commit
    }

    /// The counters, if there are any that can be used.
    pub fn counters(&self) -> Option<Counters> {
        self.counters
    }

    /// New counters; the commit's number is put in when they are applied.
    pub fn set_counters(&mut self, counters: &Counters) {
        self.counters = Some(*counters);
        self.set(Key::counters(), Some(counters.encode().into()));
    }

    /// The records without the changes.
    pub fn stored(&self) -> &'a dyn MetaRead {
        self.meta
    }

    pub async fn get(&self, key: &Key) -> Result<Option<Bytes>, CheckError> {
        match self.pending.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.meta.get(key.as_bytes()).await?),
        }
    }

    pub fn set(&mut self, key: Key, value: Option<Bytes>) {
        self.is_changed = true;
        self.bytes += key.as_bytes().len() + value.as_ref().map_or(0, Bytes::len);
        self.pending.insert(key, value);
    }

    pub async fn inode(&self, inode: Inode) -> Result<Option<InodeRecord>, CheckError> {
        let value = self.get(&Key::inode(inode)).await?;
        Ok(value.and_then(|value| InodeRecord::decode(&value).ok()))
    }

    pub fn set_inode(&mut self, inode: Inode, record: &InodeRecord) {
        self.set(Key::inode(inode), Some(record.encode().into()));
    }

    /// Applies what is pending as one commit.
    pub async fn store(&mut self) -> Result<(), CheckError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Some(counters) = self.counters {
            let counters = Counters { commit: self.commit, ..counters };
            self.set(Key::counters(), Some(counters.encode().into()));
        }
        let mut batch = Batch::new();
        for (key, value) in std::mem::take(&mut self.pending) {
            match value {
                Some(value) => batch.put(key.as_bytes().to_vec(), value),
                None => batch.delete(key.as_bytes().to_vec()),
            }
        }
        self.bytes = 0;
        self.commit.0 = self.commit.0.saturating_add(1);
        Ok(self.meta.apply(batch).await?)
    }
}
