//! Changes to one file's content within one commit group: edited blocks and holes.
//!
//! Invariant: an edited block takes precedence over a hole that contains it,
//! because making a hole removes the edits in it, and an edit begun inside a
//! hole begins as zeros.

use std::collections::BTreeMap;

use super::Extents;
use crate::base::BlockIndex;

/// What a group says of one block.
#[derive(Debug, Clone, Copy)]
pub enum BlockChange<'a> {
    /// Nothing: as in the layer below.
    Same,
    /// All zeros.
    Hole,
    /// These spans; gaps as in the layer below.
    Edited(&'a Extents),
}

/// Changes to one file's content.
#[derive(Debug, Clone, Default)]
pub struct FileEdits {
    blocks: BTreeMap<BlockIndex, Extents>,
    /// Start to end (exclusive), disjoint.
    holes: BTreeMap<BlockIndex, BlockIndex>,
}

impl FileEdits {
    /// What is said of `block`.
    pub fn change(&self, block: BlockIndex) -> BlockChange<'_> {
        match self.blocks.get(&block) {
            Some(extents) => BlockChange::Edited(extents),
            None if self.in_hole(block) => BlockChange::Hole,
            None => BlockChange::Same,
        }
    }

    fn in_hole(&self, block: BlockIndex) -> bool {
        self.holes.range(..=block).next_back().is_some_and(|(_, end)| block < *end)
    }

    /// The spans of `block`, to be changed.
    pub fn edit(&mut self, block: BlockIndex, block_bytes: u32) -> &mut Extents {
        let hole = self.in_hole(block);
        self.blocks
            .entry(block)
            .or_insert_with(|| if hole { Extents::zero(block_bytes) } else { Extents::default() })
    }

    /// Whether `block` was edited.
    pub fn is_edited(&self, block: BlockIndex) -> bool {
        self.blocks.contains_key(&block)
    }

    /// The first edited block from `block` on.
    pub fn next_edited(&self, block: BlockIndex) -> Option<BlockIndex> {
        self.blocks.range(block..).next().map(|(block, _)| *block)
    }

    /// Makes blocks `from..to` a hole; gives back the edits that this drops.
    pub fn make_hole(&mut self, from: BlockIndex, to: BlockIndex) -> Vec<Extents> {
        if from >= to {
            return Vec::new();
        }
        let mut dropped = self.blocks.split_off(&from);
        self.blocks.append(&mut dropped.split_off(&to));
        let (mut start, mut end) = (from, to);
        while let Some((&hole, &hole_end)) = self.holes.range(..=end).next_back() {
            if hole_end < start {
                break;
            }
            self.holes.remove(&hole);
            start = start.min(hole);
            end = end.max(hole_end);
        }
        self.holes.insert(start, end);
        dropped.into_values().collect()
    }

    /// Edited blocks, in order.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockIndex, &Extents)> {
        self.blocks.iter().map(|(block, extents)| (*block, extents))
    }

    /// Holes, start to end (exclusive), in order.
    pub fn holes(&self) -> impl Iterator<Item = (BlockIndex, BlockIndex)> {
        self.holes.iter().map(|(start, end)| (*start, *end))
    }

    /// How many blocks were edited.
    pub fn edited_count(&self) -> u64 {
        self.blocks.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(index: u64) -> BlockIndex {
        BlockIndex(index)
    }

    #[test]
    fn holes_merge_and_swallow_edits_but_leave_later_ones() {
        let mut edits = FileEdits::default();
        edits.edit(b(5), 64).write(0, b"x");
        edits.edit(b(9), 64).write(0, b"y");
        assert_eq!(edits.make_hole(b(4), b(8)).len(), 1);
        edits.make_hole(b(8), b(9));
        edits.make_hole(b(1), b(2));
        assert_eq!(edits.holes().collect::<Vec<_>>(), [(b(1), b(2)), (b(4), b(9))]);
        assert!(matches!(edits.change(b(5)), BlockChange::Hole));
        assert!(matches!(edits.change(b(9)), BlockChange::Edited(_)));
        assert!(matches!(edits.change(b(2)), BlockChange::Same));
        edits.edit(b(5), 64).write(3, b"z");
        assert!(matches!(edits.change(b(5)), BlockChange::Edited(e) if e.covers(64)));
    }
}
