//! A commit group: everything that changed between two moments of the volume.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::time::Instant;

use bytes::Bytes;

use crate::base::{BlockIndex, CommitNumber, Inode};
use crate::data::{Extents, FileEdits};
use crate::format::Key;

/// Bytes that an overlay entry costs besides its key and value, roughly.
const RECORD_OVERHEAD_BYTES: u64 = 64;

/// Changed records and changed content, laid over what is committed.
///
/// Invariant: `memory_bytes` and `unclaimed_bytes` are the sums over `files`;
/// a block with unclaimed bytes stands in `queue`.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The commit that it becomes.
    pub number: CommitNumber,
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
    /// Blocks with unclaimed bytes, in the order of writing; one may stand in it twice.
    pub queue: VecDeque<(Inode, BlockIndex)>,
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
        let extents = self.files.entry(inode).or_default().edit(block, block_bytes);
        let (memory, unclaimed) = (extents.memory_bytes(), extents.unclaimed_bytes());
        let result = change(extents);
        let after = extents.unclaimed_bytes();
        self.memory_bytes = self.memory_bytes + extents.memory_bytes() - memory;
        self.unclaimed_bytes = self.unclaimed_bytes + after - unclaimed;
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

    /// Makes blocks `from..to` of a file a hole.
    pub fn make_hole(&mut self, inode: Inode, from: BlockIndex, to: BlockIndex) {
        self.touch();
        for dropped in self.files.entry(inode).or_default().make_hole(from, to) {
            self.memory_bytes -= dropped.memory_bytes();
            self.unclaimed_bytes -= dropped.unclaimed_bytes();
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
        assert_eq!(group.queue.len(), 1);
        group.edit(inode, block, 65_536, |extents| extents.put(0, 100, Piece::Zero));
        assert_eq!(group.memory_bytes, 1400);
        group.make_hole(inode, BlockIndex(0), BlockIndex(9));
        assert_eq!((group.memory_bytes, group.unclaimed_bytes), (0, 0));
    }
}
