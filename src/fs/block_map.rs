//! New block maps of a group: pages, pack records and allocated bytes as they will be.
//!
//! Computed outside the lock from the committed state, which nobody else
//! changes; installed under it, so that readers see content either in the
//! group's edits or in its pages.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::FsError;
use super::commit::CommitError;
use super::core::Core;
use super::group::Group;
use super::system::Inner;
use super::tidy::FRAGMENTS_MAX;
use crate::base::sabotage::{Bug, seeded};
use crate::base::{BlockIndex, CommitNumber, ErrorKind, Inode, PackNumber};
use crate::data::{BlockChange, Extents, FileEdits};
use crate::format::{
    Counters, FormatError, Fragment, FreedRecord, InodeRecord, Key, PAGE_BLOCKS, PackRecord, Page,
    Space, page_of,
};
use crate::meta::MetaError;

/// A hole over fewer pages than this is looked through page by page, a longer one by a scan.
const HOLE_PAGES_DIRECT: u64 = 4;

/// Pages that one scan asks for.
const SCAN_PAGES: usize = 512;

/// What a group changes in block maps and what follows from that.
#[derive(Default)]
pub(super) struct BlockMaps {
    records: BTreeMap<Key, Option<Bytes>>,
    /// Change of committed bytes, by inode.
    allocated: HashMap<Inode, i64>,
    /// Records of those inodes that the group itself does not change.
    inodes: HashMap<Inode, InodeRecord>,
    /// Blocks in more fragments than is good for reading.
    crowded: Vec<(Inode, BlockIndex)>,
    /// Files that lose written bytes, because a page that they belong to is damaged.
    damaged: Vec<Inode>,
    space: SpaceChange,
}

/// What packs take up, more or less than before.
#[derive(Default)]
struct SpaceChange {
    packs: i64,
    pack_bytes: i64,
    content_bytes: i64,
    live_bytes: i64,
    freed_packs: i64,
    freed_bytes: i64,
}

impl SpaceChange {
    /// `sign` packs more are in use.
    fn used(&mut self, record: &PackRecord, sign: i64) {
        self.packs += sign;
        self.pack_bytes += sign * record.size.cast_signed();
        self.content_bytes += sign * record.content.cast_signed();
    }

    fn apply(&self, space: &mut Space) {
        for (sum, change) in [
            (&mut space.packs, self.packs),
            (&mut space.pack_bytes, self.pack_bytes),
            (&mut space.content_bytes, self.content_bytes),
            (&mut space.live_bytes, self.live_bytes),
            (&mut space.freed_packs, self.freed_packs),
            (&mut space.freed_bytes, self.freed_bytes),
        ] {
            *sum = sum.saturating_add_signed(change);
        }
    }
}

impl Inner {
    /// A page as of the last commit; `None` if it is damaged.
    pub async fn committed_page(
        &self,
        inode: Inode,
        page: u64,
    ) -> Result<Option<Page>, CommitError> {
        let bytes = self.committed_record(&Key::page(inode, page)).await?;
        Ok(bytes.map_or_else(|| Some(Page::default()), |bytes| decoded(inode, page, &bytes)))
    }

    /// A record as of the last commit, whatever the groups say. For the committer:
    /// only it changes what is committed, so what it loads may be remembered.
    async fn committed_record(&self, key: &Key) -> Result<Option<Bytes>, MetaError> {
        if let Some(known) = self.lock().cache.get(key) {
            return Ok(known);
        }
        let value = self.meta.get(key.as_bytes()).await?;
        self.lock().cache.insert(key.clone(), value.clone());
        Ok(value)
    }
}

impl BlockMaps {
    /// Computes the new block maps of the committing group, all of whose bytes have places.
    pub async fn build(inner: &Inner, number: CommitNumber) -> Result<Self, CommitError> {
        let group = inner.lock().committing.clone();
        let Some(group) = group.filter(|group| group.number == number) else {
            return Ok(Self::default());
        };
        let mut maps = Self::default();
        let mut packs: HashMap<PackNumber, i64> = HashMap::new();
        for (inode, edits) in &group.files {
            maps.map_file(inner, *inode, edits, &mut packs).await?;
        }
        maps.count_packs(inner, &group, packs).await?;
        maps.load_inodes(inner, &group).await?;
        Ok(maps)
    }

    /// The pages that a file's edits change: those of edited blocks, and those that exist under
    /// holes. One after the other: the pages of a large file are many.
    async fn map_file(
        &mut self,
        inner: &Inner,
        inode: Inode,
        edits: &FileEdits,
        packs: &mut HashMap<PackNumber, i64>,
    ) -> Result<(), CommitError> {
        let mut done = BTreeSet::new();
        let mut known = BTreeSet::new();
        for (from, to) in edits.holes() {
            let (first, last) = (page_of(from).0, page_of(BlockIndex(to.0 - 1)).0);
            if last - first < HOLE_PAGES_DIRECT {
                known.extend(first..=last);
                continue;
            }
            let (mut start, end) = Key::range_of_pages(inode, first, last + 1);
            loop {
                let found = inner.meta.scan(&start, &end, SCAN_PAGES).await?;
                for (key, value) in &found {
                    let page = Key::number(key, 1).unwrap_or_default();
                    if done.insert(page) {
                        let old = decoded(inode, page, value);
                        self.map_page(inode, page, old.as_ref(), edits, packs)?;
                    }
                }
                match found.last() {
                    Some((key, _)) if found.len() == SCAN_PAGES => {
                        start = key.to_vec();
                        start.push(0);
                    }
                    _ => break,
                }
            }
        }
        known.extend(edits.blocks().map(|(block, _)| page_of(block).0));
        for page in known.difference(&done) {
            let old = inner.committed_page(inode, *page).await?;
            self.map_page(inode, *page, old.as_ref(), edits, packs)?;
        }
        Ok(())
    }

    fn map_page(
        &mut self,
        inode: Inode,
        number: u64,
        old: Option<&Page>,
        edits: &FileEdits,
        packs: &mut HashMap<PackNumber, i64>,
    ) -> Result<(), FsError> {
        let block_at = |slot: u8| BlockIndex(number * PAGE_BLOCKS + u64::from(slot));
        let Some(old) = old else {
            // What a damaged page said of other blocks must not become zeros: it stays.
            let slots = 0..PAGE_BLOCKS as u8;
            if slots.map(block_at).all(|b| matches!(edits.change(b), BlockChange::Hole)) {
                self.records.insert(Key::page(inode, number), None);
            } else {
                self.damaged.push(inode);
            }
            return Ok(());
        };
        let mut new = old.clone();
        for slot in 0..PAGE_BLOCKS as u8 {
            let block = block_at(slot);
            let before = old.get(slot);
            let after = match edits.change(block) {
                BlockChange::Same => continue,
                BlockChange::Hole if seeded(Bug::KeepPagesUnderHole) => continue,
                BlockChange::Hole => Vec::new(),
                BlockChange::Edited(extents) => {
                    let merged = extents.over(&Extents::from_fragments(before));
                    merged.to_fragments().ok_or_else(unplaced)?
                }
            };
            if after.len() > FRAGMENTS_MAX {
                self.crowded.push((inode, block));
            }
            let delta = visible(&after) - visible(before);
            *self.allocated.entry(inode).or_default() += delta;
            if !seeded(Bug::KeepLiveBytes) {
                count(packs, before, -1);
            }
            count(packs, &after, 1);
            new.set(slot, after);
        }
        if new == *old {
            return Ok(());
        }
        let inline = (old.inline_bytes() > 0, new.inline_bytes() > 0);
        if inline.0 != inline.1 {
            let marker = inline.1.then(|| Bytes::from_static(&[1]));
            self.records.insert(Key::inline(inode, number), marker);
        }
        let value = (!new.is_empty()).then(|| new.encode().into());
        self.records.insert(Key::page(inode, number), value);
        Ok(())
    }

    /// Brings pack records up to date; packs without live bytes go to the freed ones.
    async fn count_packs(
        &mut self,
        inner: &Inner,
        group: &Group,
        packs: HashMap<PackNumber, i64>,
    ) -> Result<(), CommitError> {
        // A pack of this group may have lost all its bytes before the group closed.
        let new = group.records.keys().filter_map(Key::pack_number);
        let all: BTreeSet<_> = packs.keys().copied().chain(new).collect();
        for pack in all {
            let key = Key::pack(pack);
            let delta = packs.get(&pack).copied().unwrap_or(0);
            let is_new = group.records.contains_key(&key);
            let bytes = match group.records.get(&key) {
                Some(value) => value.clone(),
                None if delta == 0 => continue,
                None => inner.committed_record(&key).await?,
            };
            let Some(mut record) = bytes.and_then(|bytes| PackRecord::decode(&bytes).ok()) else {
                // Damage, to be found by a check; it must not keep everything else from commits.
                tracing::error!("metadata is damaged: no record of pack {pack}; run lidfs fsck");
                continue;
            };
            let before = record.live;
            record.live = before.saturating_add_signed(delta);
            self.space.live_bytes += record.live.cast_signed() - before.cast_signed();
            if is_new {
                self.space.used(&record, 1);
            }
            if record.live > 0 {
                self.records.insert(key, Some(record.encode().into()));
                continue;
            }
            let freed = inner.now().seconds.max(0).cast_unsigned();
            let freed = FreedRecord { epoch: record.epoch, size: record.size, freed };
            self.space.used(&record, -1);
            self.space.freed_packs += 1;
            self.space.freed_bytes += record.size.cast_signed();
            self.records.insert(key, None);
            self.records.insert(Key::freed(group.number, pack), Some(freed.encode().into()));
        }
        Ok(())
    }

    async fn load_inodes(&mut self, inner: &Inner, group: &Group) -> Result<(), CommitError> {
        for (inode, delta) in &self.allocated {
            let key = Key::inode(*inode);
            if *delta == 0 || group.records.contains_key(&key) {
                continue;
            }
            let bytes = inner.committed_record(&key).await?;
            // A damaged one stays as it is: whoever uses it meets the error.
            if let Some(record) = bytes.and_then(|bytes| InodeRecord::decode(&bytes).ok()) {
                self.inodes.insert(*inode, record);
            }
        }
        Ok(())
    }

    /// Puts the new block maps in the place of the committing group's edits.
    ///
    /// Gives back the blocks that are in too many fragments now.
    pub fn install(self, core: &mut Core, number: CommitNumber) -> Vec<(Inode, BlockIndex)> {
        let total: i64 = self.allocated.values().sum();
        self.damaged.iter().for_each(|inode| core.lost.add(*inode));
        let count = |counters: &mut Counters| {
            counters.bytes = counters.bytes.saturating_add_signed(total);
            self.space.apply(&mut counters.space);
        };
        count(&mut core.counters);
        for (inode, delta) in &self.allocated {
            allocate(&mut core.open, *inode, *delta);
        }
        let Some(group) = core.group_mut(number) else { return Vec::new() };
        count(&mut group.counters);
        for (inode, record) in self.inodes {
            group.set(Key::inode(inode), Some(record.encode().into()));
        }
        for (inode, delta) in &self.allocated {
            allocate(group, *inode, *delta);
        }
        for (key, value) in self.records {
            group.set(key, value);
        }
        group.content_is_mapped();
        self.crowded
    }
}

/// Corrects the committed bytes in a group's record of an inode, if it has one.
fn allocate(group: &mut Group, inode: Inode, delta: i64) {
    let key = Key::inode(inode);
    let Some(Some(bytes)) = group.records.get(&key) else { return };
    if let Ok(mut record) = InodeRecord::decode(bytes) {
        record.allocated = record.allocated.saturating_add_signed(delta);
        group.set(key, Some(record.encode().into()));
    }
}

/// A page of a block map; `None` if it is damaged.
fn decoded(inode: Inode, page: u64, bytes: &Bytes) -> Option<Page> {
    let damaged = |error: &FormatError| {
        tracing::error!("inode {inode}: page {page} of its block map is damaged: {error}");
    };
    Page::decode(bytes).inspect_err(damaged).ok()
}

fn visible(fragments: &[Fragment]) -> i64 {
    fragments.iter().map(|fragment| i64::from(fragment.len)).sum()
}

fn count(packs: &mut HashMap<PackNumber, i64>, fragments: &[Fragment], sign: i64) {
    for (pack, bytes) in fragments.iter().filter_map(Fragment::pack_use) {
        *packs.entry(pack).or_default() += sign * bytes.cast_signed();
    }
}

fn unplaced() -> FsError {
    let message = "written bytes without a place reached the block map".to_owned();
    FsError::Io { message, kind: ErrorKind::Bug }
}
