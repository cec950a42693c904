//! Tidying: blocks in too many fragments are read and written anew, as one.
//!
//! This is an ordinary change in the open group, made only if the block still
//! shows what was read. A commit never does it: what a closed group shows must
//! not change, since others may be sharing its stored bytes, and a block that
//! cannot be read must not keep anything else from being committed.

use std::sync::Arc;

use bytes::Bytes;

use super::content::Pages;
use super::core::{Attempt, Tx};
use super::packing::io;
use super::system::Inner;
use super::{FileSystem, FsError};
use crate::base::sabotage::{Bug, seeded};
use crate::base::{BlockIndex, Inode};
use crate::data::{Extents, Piece, Span};

/// A block in more fragments than this is tidied.
pub(super) const FRAGMENTS_MAX: usize = 8;

/// What becomes of holes inside a block that is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holes {
    /// They stay.
    Keep,
    /// They become zeros, so that the block is one fragment.
    Fill,
}

/// Blocks that may wait; further ones are met again at their next change.
const CROWDED_MAX: usize = 4096;

impl Inner {
    fn crowded(&self) -> std::sync::MutexGuard<'_, Vec<(Inode, BlockIndex)>> {
        // A list of numbers is valid at every moment.
        self.crowded.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Hands blocks to the tidier.
    pub fn tidy_soon(&self, blocks: Vec<(Inode, BlockIndex)>) {
        if blocks.is_empty() {
            return;
        }
        {
            let mut crowded = self.crowded();
            let room = CROWDED_MAX.saturating_sub(crowded.len());
            crowded.extend(blocks.into_iter().take(room));
        }
        self.tidy_wanted.notify_one();
    }

    fn next_crowded(&self) -> Option<(Inode, BlockIndex)> {
        self.crowded().pop()
    }

    /// Tidies until the mount closes.
    pub async fn run_tidier(self: Arc<Self>) {
        let fs = FileSystem { inner: self.clone() };
        let mut closing = self.closing.subscribe();
        loop {
            tokio::select! {
                () = self.tidy_wanted.notified() => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
            while let Some((inode, block)) = self.next_crowded() {
                if let Err(error) = fs.tidy(inode, block).await {
                    tracing::debug!("inode {inode}: block {block} stays in fragments: {error}");
                }
            }
        }
    }
}

impl FileSystem {
    async fn tidy(&self, inode: Inode, block: BlockIndex) -> Result<bool, FsError> {
        let is_crowded = |spans: &Extents| {
            let stored = spans.spans().iter().filter(|s| !matches!(s.piece, Piece::Zero));
            stored.count() > FRAGMENTS_MAX
        };
        self.rewrite(inode, block, Holes::Fill, is_crowded).await
    }

    /// Reads a block and writes it anew if what it shows is `wanted` so; whether it did.
    pub(super) async fn rewrite(
        &self,
        inode: Inode,
        block: BlockIndex,
        holes: Holes,
        wanted: impl Fn(&Extents) -> bool + Send + 'static,
    ) -> Result<bool, FsError> {
        let planned = self.run(move |tx| {
            let spans = tx.shown(inode, block)?;
            if !wanted(&spans) {
                return Ok(None);
            }
            let end = spans.spans().last().map_or(0, Span::end);
            let plan = tx.core().plan_spans(&spans, end)?;
            Ok(Some((spans, plan)))
        });
        let Some((spans, plan)) = planned.wait().await? else { return Ok(false) };
        let contents = self.inner.reader.read(&plan.chunks()).await.map_err(|error| io(&error))?;
        let content = plan.assemble(contents)?;
        let runs = runs(&spans, holes);
        self.run(move |tx| tx.make_whole(inode, block, &spans, &runs, &content)).wait().await
    }
}

impl Tx<'_> {
    /// What a block of a file that exists shows.
    pub(super) fn shown(&mut self, inode: Inode, block: BlockIndex) -> Attempt<Extents> {
        self.inode(inode)?;
        Pages::default().block(self.core(), inode, block)
    }

    /// Writes each of `runs` of a block as one, unless it shows something else by now.
    fn make_whole(
        &mut self,
        inode: Inode,
        block: BlockIndex,
        shown: &Extents,
        runs: &[(u32, u32)],
        content: &Bytes,
    ) -> Attempt<bool> {
        // Nobody waits for it: it goes behind whoever writes.
        self.change_content(u64::MAX)?;
        if !self.shown(inode, block)?.is_same(shown) && !seeded(Bug::TidyChangedBlock) {
            return Ok(false);
        }
        let block_bytes = self.fixed().block_size.bytes() as u32;
        let size = self.inode(inode)?.size;
        let file_blocks = self.fixed().block_size.count(size);
        self.expect_page(inode, block, file_blocks);
        self.group().edit(inode, block, block_bytes, |extents| {
            for &(from, to) in runs {
                extents.cut(from, to);
                extents.write(from, &content[from as usize..to as usize]);
            }
        });
        Ok(true)
    }
}

/// From where to where a block is written as one.
fn runs(shown: &Extents, holes: Holes) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for span in shown.spans() {
        if holes == Holes::Keep && matches!(span.piece, Piece::Zero) {
            continue;
        }
        match runs.last_mut().filter(|(_, end)| holes == Holes::Fill || *end == span.at) {
            Some((_, end)) => *end = span.end(),
            None => runs.push((span.at, span.end())),
        }
    }
    runs
}
