//! The state of a mounted volume in memory, and the transactions that change it.
//!
//! ```text
//! a look-up asks, in this order, until one knows:
//!   the transaction's own writes -> open group -> committing group -> record cache
//!   -> Stop::Load: leave, load the record from the engine, start over
//! ```
//!
//! Invariants: a transaction runs under the one lock, never waits, and changes
//! nothing unless it succeeds; so every operation is wholly in one group.
//! Content changes ([`Tx::group`]) come last in an operation, after everything
//! that can fail.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::FsError;
use super::cache::{Known, RecordCache};
use super::group::Group;
use super::loading::Loading;
use super::lost::LostWrites;
use super::neighbours::Neighbourhood;
use super::opened::Opened;
use super::pace::{self, Pace};
use crate::base::{BlockSize, CommitNumber, Inode, PackNumber, Timestamp};
use crate::crypto::SecretKey;
use crate::data::PackSeal;
use crate::format::{Counters, FormatError, InodeRecord, Key, PackRecord, Page};

/// A group whose batch may have this many bytes closes.
const BATCH_BYTES_WANTED: u64 = 24 << 20;

/// Changes wait when the open group's batch may have more: the engine bounds a batch.
const BATCH_BYTES_FULL: u64 = crate::meta::BATCH_BYTES_MAX as u64 / 2;

/// Why an attempt at an operation ended without a result.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed.
    Fail(FsError),
    /// It needs a record that is not in memory.
    Load(Key),
    /// Too much is waiting to be committed.
    Room,
    /// The quota has no room, but may have once what waits is committed.
    Space,
}

/// The result of one attempt at an operation.
pub(super) type Attempt<T> = Result<T, Stop>;

impl From<FsError> for Stop {
    fn from(error: FsError) -> Self {
        Self::Fail(error)
    }
}

impl From<FormatError> for Stop {
    fn from(error: FormatError) -> Self {
        Self::Fail(FsError::io(&error, error.kind()))
    }
}

/// What the mount may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Everything.
    ReadWrite,
    /// Only reading: asked for, or the volume is closing.
    ReadOnly,
    /// Only reading, because nothing will be stored any more: [`Core::ended`] says why.
    Ended,
}

/// Facts that never change while mounted.
#[derive(Debug, Clone)]
pub(super) struct Fixed {
    pub block_size: BlockSize,
    /// Keys the hash of names.
    pub names: SecretKey,
    /// Bytes of content that the volume may hold.
    pub quota_bytes: Option<u64>,
}

/// The state in memory. Behind one lock, never held while waiting.
pub(super) struct Core {
    pub fixed: Arc<Fixed>,
    pub mode: Mode,
    /// Why nothing will be stored any more.
    pub ended: Option<FsError>,
    pub open: Group,
    pub committing: Option<Arc<Group>>,
    /// Which state of the writer a following mount shows.
    pub view: u64,
    /// The last group that is in the bucket.
    pub committed: CommitNumber,
    /// Groups up to this one are to be committed without waiting for more.
    pub wanted: CommitNumber,
    /// Groups up to this one are waited for by programs.
    pub waited_for: CommitNumber,
    pub cache: RecordCache,
    pub loading: Loading,
    /// Block map pages with inline bytes, to be moved to a pack some day.
    pub inline_pages: BTreeSet<(Inode, u64)>,
    /// An earlier writer may have left orphans from this number on: noted with the first commit.
    pub unswept: Option<PackNumber>,
    pub counters: Counters,
    pub opened: Opened,
    pub neighbourhood: Neighbourhood,
    /// Inodes without a name, kept for those who have them open.
    pub orphans: HashSet<Inode>,
    /// Those of them that nobody refers to, until giving them back was tried.
    pub reclaiming: HashSet<Inode>,
    pub lost: LostWrites,
    /// How much may wait to be committed.
    pub pace: Pace,
}

impl Core {
    /// A record as the volume now stands; `None` if memory does not know.
    pub fn record(&mut self, key: &Key) -> Option<Known> {
        let changed = self.groups().find_map(|group| group.records.get(key));
        changed.cloned().or_else(|| self.cache.get(key))
    }

    /// Forgets what is cached when the followed state has moved on.
    pub fn follow(&mut self, view: u64) {
        if self.view != view {
            self.view = view;
            self.cache.clear();
            self.loading.all_changed();
        }
    }

    /// A record, or a stop that asks to load it.
    pub fn get(&mut self, key: &Key) -> Attempt<Option<Bytes>> {
        self.record(key).ok_or_else(|| Stop::Load(key.clone()))
    }

    /// A group that is not in the bucket yet, to be changed.
    pub fn group_mut(&mut self, number: CommitNumber) -> Option<&mut Group> {
        if self.open.number == number {
            return Some(&mut self.open);
        }
        let committing = self.committing.as_mut().filter(|group| group.number == number)?;
        // Nobody shares it while it is changed; if somebody did, he would keep the older state.
        Some(Arc::make_mut(committing))
    }

    /// Both groups that are not in the bucket, newest first.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        std::iter::once(&self.open).chain(self.committing.as_deref())
    }

    /// Whether the open group is to be closed without waiting for more changes.
    pub fn wants_commit(&self) -> bool {
        let wanted =
            self.wanted >= self.open.number || self.open.batch_bytes() >= BATCH_BYTES_WANTED;
        wanted && !self.open.is_empty()
    }

    /// Whether content has to wait.
    pub fn is_full(&self) -> bool {
        self.is_beyond(self.pace.bound())
    }

    /// Whether changes have to wait that may add this many bytes of content.
    fn is_full_for(&self, content_bytes: u64) -> bool {
        let is_small = content_bytes <= pace::SMALL_BYTES_MAX;
        self.is_beyond(if is_small { self.pace.bound_of_small() } else { self.pace.bound() })
    }

    fn is_beyond(&self, dirty_bytes: u64) -> bool {
        self.dirty_bytes() >= dirty_bytes || self.open.batch_bytes() >= BATCH_BYTES_FULL
    }

    /// Bytes that wait to be committed.
    pub fn dirty_bytes(&self) -> u64 {
        self.groups().map(Group::dirty_bytes).sum()
    }

    /// One page of a file's block map.
    pub fn page(&mut self, inode: Inode, page: u64) -> Attempt<Page> {
        match self.get(&Key::page(inode, page))? {
            Some(bytes) => Ok(Page::decode(&bytes)?),
            None => Ok(Page::default()),
        }
    }

    /// What opens a pack.
    pub fn pack_seal(&mut self, pack: PackNumber) -> Attempt<PackSeal> {
        let bytes = self.get(&Key::pack(pack))?.ok_or_else(|| missing("pack record"))?;
        let record = PackRecord::decode(&bytes)?;
        Ok(PackSeal { epoch: record.epoch, salt: record.salt })
    }

    /// The attributes of an inode.
    pub fn inode(&mut self, inode: Inode) -> Attempt<InodeRecord> {
        let bytes = self.get(&Key::inode(inode))?.ok_or(FsError::NotFound)?;
        Ok(InodeRecord::decode(&bytes)?)
    }
}

/// The error for a record that another one promises.
pub(super) fn missing(what: &str) -> Stop {
    let message = format!("metadata is damaged: {what} is missing; run lidfs fsck");
    Stop::Fail(FsError::Io { message, kind: crate::base::ErrorKind::Corrupt })
}

/// One attempt at one operation.
pub(super) struct Tx<'a> {
    core: &'a mut Core,
    /// The moment of the operation.
    pub now: Timestamp,
    writes: Vec<(Key, Option<Bytes>)>,
    counters: Counters,
}

impl<'a> Tx<'a> {
    pub fn new(core: &'a mut Core, now: Timestamp) -> Self {
        let counters = core.counters;
        Self { core, now, writes: Vec::new(), counters }
    }

    /// Moves the operation's changes to the open group.
    ///
    /// Gives back new orphans that nobody refers to.
    pub fn apply(self) -> Vec<Inode> {
        let mut unreferenced = Vec::new();
        for (key, value) in self.writes {
            match (key.orphaned(), &value) {
                (Some(inode), Some(_)) => {
                    self.core.orphans.insert(inode);
                    if !self.core.opened.refers(inode) {
                        unreferenced.push(inode);
                    }
                }
                (Some(inode), None) => {
                    self.core.orphans.remove(&inode);
                }
                (None, _) => {}
            }
            self.core.open.set(key, value);
        }
        self.core.counters = self.counters;
        unreferenced
    }

    pub fn fixed(&self) -> Arc<Fixed> {
        self.core.fixed.clone()
    }

    /// Refuses on a read-only mount; waits while too much is dirty. Changing operations begin with it.
    pub fn change(&mut self) -> Attempt<()> {
        self.change_content(0)
    }

    /// As [`change`](Self::change), for so many bytes of content at most.
    pub fn change_content(&mut self, bytes: u64) -> Attempt<()> {
        if self.core.mode != Mode::ReadWrite {
            return Err(FsError::ReadOnly.into());
        }
        if self.core.is_full_for(bytes) {
            return Err(Stop::Room);
        }
        Ok(())
    }

    pub fn get(&mut self, key: &Key) -> Attempt<Option<Bytes>> {
        if let Some((_, value)) = self.writes.iter().rev().find(|(written, _)| written == key) {
            return Ok(value.clone());
        }
        self.core.get(key)
    }

    pub fn set(&mut self, key: Key, value: Option<Bytes>) {
        self.writes.push((key, value));
    }

    pub fn inode(&mut self, inode: Inode) -> Attempt<InodeRecord> {
        let bytes = self.get(&Key::inode(inode))?.ok_or(FsError::NotFound)?;
        Ok(InodeRecord::decode(&bytes)?)
    }

    /// The attributes of a directory.
    pub fn directory(&mut self, inode: Inode) -> Attempt<InodeRecord> {
        let record = self.inode(inode)?;
        if record.is_directory() { Ok(record) } else { Err(FsError::NotDirectory.into()) }
    }

    pub fn set_inode(&mut self, inode: Inode, record: &InodeRecord) {
        self.set(Key::inode(inode), Some(record.encode().into()));
    }

    /// A number that no inode had before.
    pub fn new_inode(&mut self) -> Inode {
        let inode = Inode(self.counters.next_inode);
        self.counters.next_inode += 1;
        self.counters.inodes += 1;
        inode
    }

    /// One inode fewer is in use.
    pub fn inode_gone(&mut self) {
        self.counters.inodes = self.counters.inodes.saturating_sub(1);
    }

    /// A freed pack of `bytes` is deleted.
    pub fn freed_is_gone(&mut self, bytes: u64) {
        let space = &mut self.counters.space;
        space.freed_packs = space.freed_packs.saturating_sub(1);
        space.freed_bytes = space.freed_bytes.saturating_sub(bytes);
    }

    /// Look-ups and handles; changes to them are not undone if the operation fails later.
    pub fn opened(&mut self) -> &mut Opened {
        &mut self.core.opened
    }

    /// The state, for what concerns content.
    pub fn core(&mut self) -> &mut Core {
        self.core
    }

    /// The open group, to change content: the last step of an operation.
    pub fn group(&mut self) -> &mut Group {
        &mut self.core.open
    }
}
