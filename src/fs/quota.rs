//! The quota: how many bytes of content the volume may hold.
//!
//! Far from it, what waits to be committed counts as new in full, which costs nothing to know. Near it,
//! what a change really adds decides, once what waits is committed.

use super::FsError;
use super::content::{Pages, blocks_of};
use super::core::{Attempt, Core, Stop, Tx};
use super::group::Group;
use crate::base::Inode;
use crate::data::Piece;

impl Core {
    /// Bytes of content, those that wait to be committed counted as if they replaced nothing.
    pub fn used_bytes(&self) -> u64 {
        let waiting: u64 = self.groups().map(|group| group.content_bytes).sum();
        self.counters.bytes.saturating_add(waiting)
    }

    /// Bytes of `from..to` of a file that show nothing but holes.
    fn hole_bytes(&mut self, inode: Inode, from: u64, to: u64) -> Attempt<u64> {
        let (mut bytes, mut pages) = (to.saturating_sub(from), Pages::default());
        for (block, from, to) in blocks_of(self, from, to) {
            let shown = pages.block(self, inode, block)?;
            let content = shown.within(from, to).filter(|span| !matches!(span.piece, Piece::Zero));
            bytes -= content.map(|span| u64::from(span.len)).sum::<u64>();
        }
        Ok(bytes)
    }
}

impl Tx<'_> {
    /// Refuses content for `from..to` of a file if the quota has no room for what it adds.
    pub fn claim_room(&mut self, inode: Inode, from: u64, to: u64) -> Attempt<()> {
        if self.has_room(to.saturating_sub(from)) {
            return Ok(());
        }
        let more = self.core().hole_bytes(inode, from, to)?;
        self.claim_bytes(more)
    }

    /// Refuses `more` bytes of content if the quota has no room for them.
    pub fn claim_bytes(&mut self, more: u64) -> Attempt<()> {
        if more == 0 || self.has_room(more) {
            return Ok(());
        }
        let quota = self.fixed().quota_bytes.unwrap_or(u64::MAX);
        let core = self.core();
        let may_fit = core.counters.bytes.saturating_add(more) <= quota;
        let is_waiting = |group: &Group| group.shrinks || may_fit && group.content_bytes > 0;
        if core.reclaiming.is_empty() && !core.groups().any(is_waiting) {
            return Err(FsError::NoSpace.into());
        }
        // Committed, it may turn out to be less.
        core.wanted = core.wanted.max(core.open.number);
        Err(Stop::Space)
    }

    fn has_room(&mut self, more: u64) -> bool {
        let used = self.core().used_bytes().saturating_add(more);
        self.fixed().quota_bytes.is_none_or(|quota| used <= quota)
    }
}
