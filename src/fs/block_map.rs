//! New block maps of a group: pages, pack records and allocated bytes as they will be.
//!
//! Computed outside the lock from the committed state, which nobody else
//! changes; installed under it, so that readers see content either in the
//! group's edits or in its pages.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::FsError;
use super::core::Core;
use super::group::Group;
use super::system::Inner;
use super::tidy::FRAGMENTS_MAX;
use crate::base::{BlockIndex, CommitNumber, ErrorKind, Inode, PackNumber};
use crate::data::{BlockChange, Extents, FileEdits};
use crate::format::{Fragment, InodeRecord, Key, PAGE_BLOCKS, PackRecord, Page, page_of};

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
}

impl Inner {
    /// A page as of the last commit.
    pub async fn committed_page(&self, inode: Inode, page: u64) -> Result<Page, FsError> {
        match self.committed_record(&Key::page(inode, page)).await? {
            Some(bytes) => Page::decode(&bytes).map_err(|error| FsError::io(&error, error.kind())),
            None => Ok(Page::default()),
        }
    }

    /// A record as of the last commit, whatever the groups say. For the committer:
    /// only it changes what is committed, so what it loads may be remembered.
    async fn committed_record(&self, key: &Key) -> Result<Option<Bytes>, FsError> {
        if let Some(known) = self.lock().cache.get(key) {
            return Ok(known);
        }
        let value = self.meta.get(key.as_bytes()).await;
        let value = value.map_err(|error| FsError::io(&error, error.kind()))?;
        self.lock().cache.insert(key.clone(), value.clone());
        Ok(value)
    }
}

impl BlockMaps {
    /// Computes the new block maps of the committing group, all of whose bytes have places.
    pub async fn build(inner: &Inner, number: CommitNumber) -> Result<Self, FsError> {
        let group = inner.lock().committing.clone();
        let Some(group) = group.filter(|group| group.number == number) else {
            return Ok(Self::default());
        };
        let mut maps = Self::default();
        let mut packs: HashMap<PackNumber, i64> = HashMap::new();
        for (inode, edits) in &group.files {
            for (page, old) in touched_pages(inner, *inode, edits).await? {
                maps.map_page(*inode, page, &old, edits, &mut packs)?;
            }
        }
        maps.count_packs(inner, &group, packs).await?;
        maps.load_inodes(inner, &group).await?;
        Ok(maps)
    }

    fn map_page(
        &mut self,
        inode: Inode,
        number: u64,
        old: &Page,
        edits: &FileEdits,
        packs: &mut HashMap<PackNumber, i64>,
    ) -> Result<(), FsError> {
        let mut new = old.clone();
        for slot in 0..PAGE_BLOCKS as u8 {
            let block = BlockIndex(number * PAGE_BLOCKS + u64::from(slot));
            let before = old.get(slot);
            let after = match edits.change(block) {
                BlockChange::Same => continue,
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
            count(packs, before, -1);
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
    ) -> Result<(), FsError> {
        // A pack of this group may have lost all its bytes before the group closed.
        let new = group.records.keys().filter_map(Key::pack_number);
        let all: BTreeSet<_> = packs.keys().copied().chain(new).collect();
        for pack in all {
            let key = Key::pack(pack);
            let delta = packs.get(&pack).copied().unwrap_or(0);
            let bytes = match group.records.get(&key) {
                Some(value) => value.clone(),
                None if delta == 0 => continue,
                None => inner.committed_record(&key).await?,
            };
            let Some(bytes) = bytes else {
                // Damage, to be found by a check; it must not keep everything else from commits.
                tracing::error!("metadata is damaged: no record of pack {pack}; run lidfs fsck");
                continue;
            };
            let mut record =
                PackRecord::decode(&bytes).map_err(|error| FsError::io(&error, error.kind()))?;
            record.live = record.live.saturating_add_signed(delta);
            if record.live == 0 {
                self.records.insert(key, None);
                let freed = Key::freed(group.number, pack);
                self.records.insert(freed, Some(record.encode().into()));
            } else {
                self.records.insert(key, Some(record.encode().into()));
            }
        }
        Ok(())
    }

    async fn load_inodes(&mut self, inner: &Inner, group: &Group) -> Result<(), FsError> {
        for (inode, delta) in &self.allocated {
            let key = Key::inode(*inode);
            if *delta == 0 || group.records.contains_key(&key) {
                continue;
            }
            if let Some(bytes) = inner.committed_record(&key).await? {
                let record = InodeRecord::decode(&bytes);
                let record = record.map_err(|error| FsError::io(&error, error.kind()))?;
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
        core.counters.bytes = core.counters.bytes.saturating_add_signed(total);
        for (inode, delta) in &self.allocated {
            allocate(&mut core.open, *inode, *delta);
        }
        let Some(group) = core.group_mut(number) else { return Vec::new() };
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

/// The pages that a file's edits change, as they are: those of edited blocks, and those that
/// exist under holes.
async fn touched_pages(
    inner: &Inner,
    inode: Inode,
    edits: &FileEdits,
) -> Result<BTreeMap<u64, Page>, FsError> {
    let mut pages = BTreeMap::new();
    for (from, to) in edits.holes() {
        let (first, last) = (page_of(from).0, page_of(BlockIndex(to.0 - 1)).0);
        if last - first < HOLE_PAGES_DIRECT {
            for page in first..=last {
                pages.insert(page, inner.committed_page(inode, page).await?);
            }
            continue;
        }
        let (mut start, end) = Key::range_of_pages(inode, first, last + 1);
        loop {
            let found = inner.meta.scan(&start, &end, SCAN_PAGES).await;
            let found = found.map_err(|error| FsError::io(&error, error.kind()))?;
            for (key, value) in &found {
                let page =
                    Page::decode(value).map_err(|error| FsError::io(&error, error.kind()))?;
                pages.insert(Key::number(key, 1).unwrap_or_default(), page);
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
    for (block, _) in edits.blocks() {
        let page = page_of(block).0;
        if let Entry::Vacant(entry) = pages.entry(page) {
            entry.insert(inner.committed_page(inode, page).await?);
        }
    }
    Ok(pages)
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
