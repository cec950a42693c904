//! Compaction: blocks of packs that are mostly dead are written anew, as ordinary changes.
//!
//! A pack's directory and the back-references name every block that may show something of it. When
//! none does any more, the commit that moved the last one frees the pack.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _};

use super::{Collector, GcError, Relaxed};
use crate::base::{BlockIndex, ErrorKind, Inode, PackNumber};
use crate::data::{self, PackContext};
use crate::format::PackRecord;
use crate::fs::FsError;

/// Blocks that are read and written anew at once.
const PARALLEL: usize = 8;

impl Collector {
    /// Writes anew what is live in packs of which less than `percent` is, and frees them.
    pub(super) async fn compact(&self, percent: u8) -> Result<(), GcError> {
        let mut from = PackNumber(0);
        loop {
            let page = self.parts.fs.packs(from).await?;
            let Some((last, _)) = page.last() else { break };
            from = PackNumber(last.0.saturating_add(1));
            for (pack, record) in &page {
                if is_sparse(record, percent) {
                    self.compact_pack(*pack, record).await?;
                }
            }
        }
        self.parts.fs.commit().await?;
        Ok(())
    }

    /// Writes anew what is live in a pack, which the next commit then frees.
    pub(super) async fn compact_pack(
        &self,
        pack: PackNumber,
        record: &PackRecord,
    ) -> Result<(), GcError> {
        let parts = &self.parts;
        let directory = match data::read_directory(&parts.store, &parts.packs, pack, record).await {
            Ok(directory) => directory,
            Err(error) => return self.leave(pack, FsError::io(&error, error.kind())),
        };
        let owners = directory.entries.iter().map(|entry| (entry.inode, entry.block));
        let mut owners: BTreeSet<(Inode, BlockIndex)> = owners.collect();
        owners.extend(parts.fs.references(pack).await?);
        // A few requests instead of one for each block.
        let seal = PackContext::seal_of(record);
        let chunks = data::chunks_of(pack, &directory).into_iter();
        parts.reader.prefetch(chunks.map(|chunk| (chunk, seal)).collect());
        let moves = futures::stream::iter(owners)
            .map(|(inode, block)| parts.fs.move_out(inode, block, pack))
            .buffer_unordered(PARALLEL);
        let count = async |moved: u64, is_moved: bool| Ok(moved + u64::from(is_moved));
        match moves.try_fold(0, count).await {
            Ok(moved) => {
                self.counts.moved_blocks.fetch_add(moved, Relaxed);
                self.counts.compacted_packs.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(error) => self.leave(pack, error),
        }
    }

    /// A damaged pack must not keep others from being compacted; everything else ends a collection.
    fn leave(&self, pack: PackNumber, error: FsError) -> Result<(), GcError> {
        if error.kind() != ErrorKind::Corrupt {
            return Err(error.into());
        }
        tracing::error!("pack {pack} is damaged and stays as it is, run lidfs scrub: {error}");
        self.counts.damaged_packs.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// Whether files show less than `percent` of a pack.
fn is_sparse(record: &PackRecord, percent: u8) -> bool {
    u128::from(record.live) * 100 < u128::from(record.content) * u128::from(percent)
}
