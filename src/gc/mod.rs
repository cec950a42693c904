//! Garbage collection: space that nothing needs comes back to the bucket.
//!
//! ```text
//! sweep    packs of writers that crashed: no record tells of them        -> delete
//! compact  packs of which files show little: their blocks written anew   -> freed by the next commit
//! delete   packs freed long enough ago: object first, then its record
//! rekey    packs of older keys are compacted whatever they hold, metadata is sealed anew in place
//! ```
//!
//! Invariants: an object is deleted only when the commit that freed it is in the bucket, no named
//! checkpoint is as old, and followers have had time to move on; its record goes after it, so a crash
//! in between repeats the deletion and loses nothing. Everything else is ordinary changes of the file system.

mod compact;
mod delete;
mod error;
mod rekey;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use crate::base::Clock;
use crate::data::{BlockReader, PackContext};
use crate::fs::FileSystem;
use crate::meta::MetaStore;
use crate::store::object_store::ObjectStore;

pub use error::GcError;
pub use rekey::{RekeyFigures, RekeyParts, RekeyPolicy, RekeyStage, Rekeyer};

/// After an error a collection in the background waits this long, times the errors in a row.
const PAUSE: Duration = Duration::from_mins(1);
/// A collection in the background does not come sooner after mounting.
const FIRST: Duration = Duration::from_mins(5);

/// What a collector works on.
pub struct GcParts {
    /// The volume, mounted read-write.
    pub fs: FileSystem,
    /// Its records: which checkpoints there are.
    pub meta: Arc<dyn MetaStore>,
    /// Names and opens packs.
    pub packs: Arc<PackContext>,
    /// Reads their content.
    pub reader: Arc<BlockReader>,
    /// Where packs are.
    pub store: Arc<dyn ObjectStore>,
    /// Tells how long ago a pack was freed.
    pub clock: Arc<dyn Clock>,
}

/// How thorough a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    /// Freed packs are kept this long for followers that read an older state.
    pub keep: Duration,
    /// Packs of whose content files show less than this many percent are compacted.
    pub compact_below: u8,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self { keep: Duration::from_hours(1), compact_below: 50 }
    }
}

/// What a collection did, or all since mounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct GcFigures {
    /// Objects of crashed writers that were deleted.
    pub orphans: u64,
    /// Packs whose blocks were written anew elsewhere.
    pub compacted_packs: u64,
    /// Blocks written anew for that.
    pub moved_blocks: u64,
    /// Freed packs that were deleted.
    pub deleted_packs: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Freed packs that are kept for followers or checkpoints.
    pub kept_packs: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Packs that could not be compacted because they are damaged.
    pub damaged_packs: u64,
}

/// Collects the garbage of one mounted volume; one collection at a time.
pub struct Collector {
    parts: GcParts,
    mounted: Instant,
    turn: Mutex<()>,
    counts: Counts,
}

/// Figures since mounting.
#[derive(Default)]
struct Counts {
    orphans: AtomicU64,
    compacted_packs: AtomicU64,
    moved_blocks: AtomicU64,
    deleted_packs: AtomicU64,
    deleted_bytes: AtomicU64,
    kept_packs: AtomicU64,
    kept_bytes: AtomicU64,
    damaged_packs: AtomicU64,
}

impl Collector {
    /// A collector for a volume that was mounted just now.
    pub fn new(parts: GcParts) -> Self {
        let (mounted, turn) = (Instant::now(), Mutex::new(()));
        Self { parts, mounted, turn, counts: Counts::default() }
    }

    /// Collects now. What was deleted, and what was written anew, is in the bucket on return.
    ///
    /// # Errors
    /// [`GcError`]; what was done until then stays done.
    pub async fn collect(&self, policy: GcPolicy) -> Result<GcFigures, GcError> {
        let _turn = self.turn.lock().await;
        let before = self.figures();
        self.counts.kept_packs.store(0, Relaxed);
        self.counts.kept_bytes.store(0, Relaxed);
        self.parts.fs.reclaim_unreferenced().await?;
        // What is freed by now shall be so in the bucket.
        self.parts.fs.commit().await?;
        self.sweep().await?;
        self.compact(policy.compact_below).await?;
        self.delete(policy.keep).await?;
        self.parts.fs.commit().await?;
        Ok(self.figures().since(&before))
    }

    /// Collects every now and then until `stop` says so.
    pub async fn run(&self, policy: GcPolicy, interval: Duration, mut stop: watch::Receiver<bool>) {
        let (mut pause, mut errors) = (FIRST.min(interval), 0);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let collected = tokio::select! {
                collected = self.collect(policy) => collected,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match collected {
                Ok(figures) => {
                    if figures != GcFigures::default() {
                        tracing::info!(?figures, "garbage collected");
                    }
                    (pause, errors) = (interval, 0);
                }
                Err(GcError::Ended) => return,
                Err(error) => {
                    tracing::warn!("garbage not collected, tried again later: {error}");
                    errors += 1;
                    pause = PAUSE.saturating_mul(errors).min(interval);
                }
            }
        }
    }

    /// What was done since mounting, and what is kept as of the last collection.
    pub fn figures(&self) -> GcFigures {
        let counts = &self.counts;
        GcFigures {
            orphans: counts.orphans.load(Relaxed),
            compacted_packs: counts.compacted_packs.load(Relaxed),
            moved_blocks: counts.moved_blocks.load(Relaxed),
            deleted_packs: counts.deleted_packs.load(Relaxed),
            deleted_bytes: counts.deleted_bytes.load(Relaxed),
            kept_packs: counts.kept_packs.load(Relaxed),
            kept_bytes: counts.kept_bytes.load(Relaxed),
            damaged_packs: counts.damaged_packs.load(Relaxed),
        }
    }
}

impl GcFigures {
    /// What was done since `before`; what is kept stays as it is.
    fn since(&self, before: &Self) -> Self {
        Self {
            orphans: self.orphans - before.orphans,
            compacted_packs: self.compacted_packs - before.compacted_packs,
            moved_blocks: self.moved_blocks - before.moved_blocks,
            deleted_packs: self.deleted_packs - before.deleted_packs,
            deleted_bytes: self.deleted_bytes - before.deleted_bytes,
            damaged_packs: self.damaged_packs - before.damaged_packs,
            ..*self
        }
    }
}
