//! Seeking: the next data or hole of a file.
//!
//! ```text
//! data: [pages that may have some: edited ones, then stored ones] -> block by block -> found, or the next page
//! hole: [every page]                                              -> block by block -> found, or the next page
//! ```
//!
//! One page is searched in one attempt under the lock. After each the search
//! lets others run, so that its deadline can pass.

use std::collections::BTreeSet;

use super::content::Pages;
use super::core::{Attempt, Core};
use super::system::SCAN_RECORDS;
use super::{FileSystem, FsError, Outcome, Seek};
use crate::base::{BlockIndex, BlockSize, Inode};
use crate::data::{BlockChange, FileEdits, Piece};
use crate::format::{Key, PAGE_BLOCKS, page_of};

/// Edited blocks of a group that one look for pages with data passes under the lock.
const EDITS_LOOKED_AT: usize = 16 * 1024;

/// What is searched: bytes `from..end` of a file, none of them beyond its end, at least one.
#[derive(Debug, Clone, Copy)]
struct Area {
    inode: Inode,
    from: u64,
    end: u64,
}

impl Area {
    /// The first and the last page.
    fn pages(self, block_size: BlockSize) -> (u64, u64) {
        let page = |offset| page_of(block_size.split(offset).0).0;
        (page(self.from), page(self.end - 1))
    }
}

impl FileSystem {
    /// The next data or hole from `offset` on.
    ///
    /// # Errors
    /// [`FsError::BeyondEnd`] if there is none.
    pub fn seek(&self, inode: Inode, offset: u64, what: Seek) -> Outcome<u64> {
        let fs = self.clone();
        self.start(async move {
            let end = fs.run(move |tx| tx.inode(inode)).wait().await?.size;
            if offset >= end {
                return Err(FsError::BeyondEnd);
            }
            let area = Area { inode, from: offset, end };
            match what {
                Seek::Data => fs.next_data(area).await,
                Seek::Hole => fs.next_hole(area).await,
            }
        })
    }

    async fn next_data(&self, area: Area) -> Result<u64, FsError> {
        let (mut from, last) = area.pages(self.inner.fixed.block_size);
        while from <= last {
            let (pages, next) = self.pages_with_data(area.inode, from, last).await?;
            for page in pages {
                if let Some(found) = self.search_page(area, page, Seek::Data).await? {
                    return Ok(found);
                }
            }
            from = next;
        }
        Err(FsError::BeyondEnd)
    }

    async fn next_hole(&self, area: Area) -> Result<u64, FsError> {
        let (first, last) = area.pages(self.inner.fixed.block_size);
        for page in first..=last {
            if let Some(found) = self.search_page(area, page, Seek::Hole).await? {
                return Ok(found);
            }
        }
        Ok(area.end)
    }

    /// The first data or hole of an area in one page.
    async fn search_page(&self, area: Area, page: u64, what: Seek) -> Result<Option<u64>, FsError> {
        let found = self.run(move |tx| search(tx.core(), area, page, what)).wait().await?;
        if found.is_none() {
            tokio::task::yield_now().await;
        }
        Ok(found)
    }

    /// Pages from `from` to `last` that may show data, and the first page not looked at.
    ///
    /// Edits come before what is stored: a commit in between moves them to where the scan finds
    /// them.
    async fn pages_with_data(
        &self,
        inode: Inode,
        from: u64,
        last: u64,
    ) -> Result<(BTreeSet<u64>, u64), FsError> {
        let (mut pages, mut next) = (BTreeSet::new(), last + 1);
        {
            let core = self.inner.lock();
            for edits in core.groups().filter_map(|group| group.files.get(&inode)) {
                next = next.min(edited_pages(edits, from, last, &mut pages));
            }
        }
        let (start, end) = Key::range_of_pages(inode, from, next);
        let scanned = self.scan(&start, &end, SCAN_RECORDS).await?;
        let page = |key: &[u8]| Key::number(key, 1);
        if let Some(bound) = scanned.next.as_deref().and_then(page) {
            // Many pages lie before the bound; that it is not the first one keeps the search going.
            next = next.min(bound.max(from + 1));
        }
        pages.extend(scanned.records.iter().filter_map(|(key, _)| page(key)));
        pages.retain(|page| (from..next).contains(page));
        Ok((pages, next))
    }
}

/// Adds the pages in `from..=last` where edits may show data; gives back the first not looked at.
fn edited_pages(edits: &FileEdits, from: u64, last: u64, pages: &mut BTreeSet<u64>) -> u64 {
    let mut at = BlockIndex(from * PAGE_BLOCKS);
    for _ in 0..EDITS_LOOKED_AT {
        let Some(block) = edits.next_edited(at).filter(|block| page_of(*block).0 <= last) else {
            return last + 1;
        };
        let page = page_of(block).0;
        if shows_data(edits.change(block)) {
            pages.insert(page);
            at = BlockIndex((page + 1) * PAGE_BLOCKS);
        } else {
            at = BlockIndex(block.0 + 1);
        }
    }
    page_of(at).0
}

/// Whether an edit shows something of its own, besides zeros and what lies below.
fn shows_data(change: BlockChange<'_>) -> bool {
    match change {
        BlockChange::Edited(extents) => {
            extents.spans().iter().any(|span| !matches!(span.piece, Piece::Zero))
        }
        BlockChange::Hole | BlockChange::Same => false,
    }
}

fn search(core: &mut Core, area: Area, page: u64, what: Seek) -> Attempt<Option<u64>> {
    let block_size = core.fixed.block_size;
    let block_bytes = block_size.bytes() as u32;
    let (first, skip) = block_size.split(area.from);
    let start = first.0.max(page * PAGE_BLOCKS);
    let end = block_size.count(area.end).min((page + 1) * PAGE_BLOCKS);
    let mut pages = Pages::default();
    for block in (start..end).map(BlockIndex) {
        let from = if block == first { skip } else { 0 };
        let spans = pages.block(core, area.inode, block)?;
        let mut spans = spans.filled(from, block_bytes).into_iter();
        let wanted = |is_hole| is_hole == (what == Seek::Hole);
        if let Some(span) = spans.find(|span| wanted(matches!(span.piece, Piece::Zero))) {
            let found = block_size.start(block) + u64::from(span.at);
            return Ok((found < area.end).then_some(found));
        }
    }
    Ok(None)
}
