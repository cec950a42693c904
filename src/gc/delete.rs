//! Deletion of freed packs: the object, then its record.

use std::time::Duration;

use super::{Collector, GcError, Relaxed};
use crate::base::CommitNumber;
use crate::base::sabotage::{Bug, seeded};
use crate::fs::FreedPack;

/// Clocks of writers and followers may differ by so much.
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);

impl Collector {
    /// Deletes packs freed at least `keep` ago that no named checkpoint can need.
    pub(super) async fn delete(&self, keep: Duration) -> Result<(), GcError> {
        let now = self.parts.clock.now().seconds.max(0).cast_unsigned();
        let mut freed_until = now.saturating_sub(keep.as_secs());
        // Whoever reads a checkpoint may need what was freed after its making. Those without a name are
        // the engine's own, for compaction and for followers, which are behind by less than `keep`.
        let checkpoints = self.parts.meta.checkpoints().await?;
        let named = checkpoints.iter().filter(|checkpoint| !checkpoint.name.is_empty());
        if let Some(oldest) = named.map(|checkpoint| checkpoint.created.seconds).min() {
            let oldest = oldest.max(0).cast_unsigned().saturating_sub(CLOCKS_DIFFER.as_secs());
            freed_until = freed_until.min(oldest);
        }
        if seeded(Bug::CollectAtOnce) {
            freed_until = now;
        }
        let mut from = CommitNumber(0);
        loop {
            let page = self.parts.fs.freed_packs(from).await?;
            let Some(last) = page.last() else { return Ok(()) };
            from = CommitNumber(last.commit.0 + 1);
            let (old, young): (Vec<_>, Vec<_>) =
                page.into_iter().partition(|pack| pack.record.freed <= freed_until);
            self.counts.kept_packs.fetch_add(young.len() as u64, Relaxed);
            self.counts.kept_bytes.fetch_add(bytes(&young), Relaxed);
            let paths = old.iter().map(|freed| self.parts.packs.path(freed.pack)).collect();
            if seeded(Bug::ForgetPackFirst) {
                for freed in &old {
                    self.parts.fs.forget_freed(freed.clone()).await?;
                }
                self.parts.fs.flush().await?;
            }
            self.delete_objects(paths).await?;
            self.counts.deleted_packs.fetch_add(old.len() as u64, Relaxed);
            self.counts.deleted_bytes.fetch_add(bytes(&old), Relaxed);
            for freed in old {
                self.parts.fs.forget_freed(freed).await?;
            }
        }
    }
}

fn bytes(packs: &[FreedPack]) -> u64 {
    packs.iter().map(|freed| freed.record.size).sum()
}
