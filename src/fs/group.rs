//! A commit group: everything that changed between two moments of the volume.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::time::Instant;

use bytes::Bytes;

use crate::base::{BlockIndex, CommitNumber, Inode};
use crate::data::{Extents, FileEdits};
use crate::format::{Counters, Key, PAGE_BLOCKS, page_of};

/// Bytes that an overlay entry costs besides its key and value, roughly.
const RECORD_OVERHEAD_BYTES: u64 = 64;

/// Memory that an edited block takes besides its bytes and spans, measured.
const EDIT_OVERHEAD_BYTES: u64 = 300;

/// Memory that a span takes besides its bytes, measured.
const SPAN_OVERHEAD_BYTES: u64 = 150;

/// A block with this many spans is to be tidied, and again with twice as many.
const SPANS_CROWDED: usize = 64;

/// What a span may add to a block map page.
const SPAN_PAGE_BYTES: u64 = 16;

/// What a page under a hole may add to a batch: its deletion, and its share of freed packs.
const HOLE_PAGE_BYTES: u64 = 64;

/// No hole counts for more: most pages under a very long one do not exist.
const HOLE_BYTES_MAX: u64 = 8 << 20;

/// Bytes of a block map page for each block of its file: eight fragments of 13 bytes.
const PAGE_BYTES_PER_BLOCK: u64 = 104;

/// Changed records and changed content, laid over what is committed.
///
/// Invariant: `memory_bytes`, `unclaimed_bytes` and `content_bytes` are the sums over `files`;
/// a block with unclaimed bytes stands in `queue`.
#[derive(Debug, Default, Clone)]
pub(super) struct Group {
    /// The commit that it becomes.
    pub number: CommitNumber,
    /// Once closed: the volume's counters as of this group.
    pub counters: Counters,
    /// Changed records; `None` where one was deleted.
    pub records: BTreeMap<Key, Option<Bytes>>,
    /// Memory that `records` takes, roughly.
    pub record_bytes: u64,
    /// Changed content.
    pub files: HashMap<Inode, FileEdits>,
    /// Written bytes that are not in the bucket.
    pub memory_bytes: u64,
    /// Those of them that no packer has claimed.
    pub unclaimed_bytes: u64,
    /// Bytes that edited blocks show besides zeros, packed ones included.
    pub content_bytes: u64,
    /// Whether it may leave files with fewer bytes than they had.
    pub shrinks: bool,
    /// Blocks with unclaimed bytes, in the order of writing; one may stand in it twice.
    pub queue: VecDeque<(Inode, BlockIndex)>,
    /// Edited blocks; each costs memory besides its bytes.
    pub edited_blocks: u64,
    /// Spans in them.
    spans: u64,
    /// Blocks that have come to have many spans.
    pub crowded: Vec<(Inode, BlockIndex)>,
    /// Block map pages that the commit will write anew.
    pages: HashSet<(Inode, u64)>,
    /// What those may take in the commit's batch, at most.
    pub page_bytes: u64,
    /// Counter part of the first pack number that this group may have used.
    pub first_pack: Option<u64>,
    /// Packs on their way.
    pub packs_in_flight: usize,
    /// Packs of this group that are in the bucket.
    pub packs_done: usize,
    /// When its first change came.
    pub began: Option<Instant>,
}

impl Group {
    pub fn new(number: CommitNumber) -> Self {
        Self { number, ..Self::default() }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.files.is_empty()
    }

    /// Records of `start..end`, in order.
    pub fn range(&self, start: &[u8], end: &[u8]) -> impl Iterator<Item = (&Key, &Option<Bytes>)> {
        let end = end.to_vec();
        self.records
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .take_while(move |(key, _)| key.as_bytes() < end.as_slice())
    }

    fn touch(&mut self) {
        self.began.get_or_insert_with(Instant::now);
    }

    /// Sets (`Some`) or deletes (`None`) a record.
    pub fn set(&mut self, key: Key, value: Option<Bytes>) {
        self.touch();
        let key_bytes = key.as_bytes().len() as u64 + RECORD_OVERHEAD_BYTES;
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.record_bytes += key_bytes + size(&value);
        if let Some(old) = self.records.insert(key, value) {
            self.record_bytes -= key_bytes + size(&old);
        }
    }

    /// Changes one block's spans, keeping the sums right.
    pub fn edit<T>(
        &mut self,
        inode: Inode,
        block: BlockIndex,
        block_bytes: u32,
        change: impl FnOnce(&mut Extents) -> T,
    ) -> T {
        self.touch();
        let edits = self.files.entry(inode).or_default();
        let is_new = !edits.is_edited(block);
        self.edited_blocks += u64::from(is_new);
        let extents = edits.edit(block, block_bytes);
        let (memory, unclaimed) = (extents.memory_bytes(), extents.unclaimed_bytes());
        let content = extents.content_bytes();
        let spans = if is_new { 0 } else { extents.spans().len() };
        let result = change(extents);
        let after = extents.unclaimed_bytes();
        self.memory_bytes = self.memory_bytes + extents.memory_bytes() - memory;
        self.unclaimed_bytes = self.unclaimed_bytes + after - unclaimed;
        self.content_bytes = self.content_bytes + extents.content_bytes() - content;
        let now = extents.spans().len();
        self.spans = self.spans + now as u64 - spans as u64;
        if now / SPANS_CROWDED > spans / SPANS_CROWDED {
            self.crowded.push((inode, block));
        }
        if unclaimed == 0 && after > 0 {
            self.queue.push_back((inode, block));
        }
        result
    }

    /// Changes one block's spans if it was edited and no hole has swallowed it since.
    pub fn edit_if_edited(
        &mut self,
        inode: Inode,
        block: BlockIndex,
        change: impl FnOnce(&mut Extents),
    ) {
        let edited = self.files.get(&inode).is_some_and(|edits| edits.is_edited(block));
        if edited {
            self.edit(inode, block, 0, change);
        }
    }

    /// Whether the page of `block` is not yet among those that the commit will write anew.
    pub fn is_new_page(&self, inode: Inode, block: BlockIndex) -> bool {
        !self.pages.contains(&(inode, page_of(block).0))
    }

    /// The commit will write the page of `block` anew; its file has `file_blocks` blocks, and
    /// the page has `known_bytes` as far as memory knows.
    pub fn expect_page(
        &mut self,
        inode: Inode,
        block: BlockIndex,
        file_blocks: u64,
        known_bytes: u64,
    ) {
        if self.pages.insert((inode, page_of(block).0)) {
            let likely = file_blocks.clamp(1, PAGE_BLOCKS) * PAGE_BYTES_PER_BLOCK;
            self.page_bytes += likely.max(known_bytes);
        }
    }

    /// Memory that waits to be committed, roughly.
    pub fn dirty_bytes(&self) -> u64 {
        self.memory_bytes
            + self.record_bytes
            + self.edited_blocks * EDIT_OVERHEAD_BYTES
            + self.spans * SPAN_OVERHEAD_BYTES
    }

    /// What the commit's batch will be, at most, roughly.
    pub fn batch_bytes(&self) -> u64 {
        self.record_bytes + self.page_bytes + self.spans * SPAN_PAGE_BYTES
    }

    /// The content has become records.
    pub fn content_is_mapped(&mut self) {
        self.files.clear();
        self.queue.clear();
        self.memory_bytes = 0;
        self.unclaimed_bytes = 0;
        self.content_bytes = 0;
        self.shrinks = false;
        self.edited_blocks = 0;
        self.spans = 0;
    }

    /// Makes blocks `from..to` of a file a hole.
    pub fn make_hole(&mut self, inode: Inode, from: BlockIndex, to: BlockIndex) {
        self.touch();
        self.shrinks = true;
        let pages = (to.0.saturating_sub(from.0) / PAGE_BLOCKS).saturating_add(1);
        self.page_bytes += pages.saturating_mul(HOLE_PAGE_BYTES).min(HOLE_BYTES_MAX);
        for dropped in self.files.entry(inode).or_default().make_hole(from, to) {
            self.edited_blocks -= 1;
            self.spans -= dropped.spans().len() as u64;
            self.memory_bytes -= dropped.memory_bytes();
            self.unclaimed_bytes -= dropped.unclaimed_bytes();
            self.content_bytes -= dropped.content_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Piece;

    #[test]
    fn sums_follow_writes_claims_and_holes() {
        let mut group = Group::new(CommitNumber(1));
        let (inode, block) = (Inode(2), BlockIndex(0));
        group.edit(inode, block, 65_536, |extents| extents.write(0, &[1; 1000]));
        group.edit(inode, block, 65_536, |extents| extents.write(500, &[2; 1000]));
        assert_eq!((group.memory_bytes, group.unclaimed_bytes), (1500, 1500));
        assert_eq!((group.content_bytes, group.shrinks), (1500, false));
        assert_eq!(group.queue.len(), 1);
        group.edit(inode, block, 65_536, |extents| extents.put(0, 100, Piece::Zero));
        assert_eq!((group.memory_bytes, group.content_bytes), (1400, 1400));
        group.make_hole(inode, BlockIndex(0), BlockIndex(9));
        assert_eq!((group.memory_bytes, group.unclaimed_bytes), (0, 0));
        assert_eq!((group.content_bytes, group.shrinks), (0, true));
    }
}
