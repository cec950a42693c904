//! Rekey: everything is sealed anew with the data key of a new epoch, then the old keys are destroyed.
//!
//! ```text
//! begin   the header has a new epoch        -> what is new is sealed with it
//! packs   of older epochs: their blocks are written anew, as in compaction; then they are deleted
//! records metadata objects are sealed anew in place
//! retire  nothing of an older epoch is left -> the header forgets its key
//! ```
//!
//! The state of it is in the bucket: as long as the header has several epochs, a rekey is not done, and
//! what is sealed with which key every pack's record and every object's header tells. So it goes on
//! after a crash wherever it was.
//!
//! Invariant: a key goes only after every write that may have taken it has ended, every page shows
//! packs of the new epoch alone, nothing that an earlier writer left running can change metadata any more, and
//! after that a look at all metadata objects has found no older one; and only while
//! the lease is held without a break since the epoch began: a writer reads the header after it took
//! the lease, so no later one seals with an older key.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use super::{Collector, GcError, Relaxed};
use crate::base::{Epoch, PackNumber};
use crate::format::PackRecord;
use crate::store::object_store::{ObjectStore as _, path::Path};
use crate::store::{Rate, SealedStore};
use crate::volume::{Lease, LeaseError, Pin, Volume, VolumeError};

/// Where metadata objects lie below the volume's prefix.
const METADATA: &str = "meta";
/// Between two looks whether freed packs may go.
const PAUSE: Duration = Duration::from_secs(5);
/// After an error it is tried again after this long, times the errors in a row.
const ERROR_PAUSE: Duration = Duration::from_secs(10);
/// But after this long at most.
const ERROR_PAUSE_MAX: Duration = Duration::from_mins(10);

/// How a rekey goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RekeyPolicy {
    /// Most bytes a second that are sealed anew.
    pub rate: Option<u64>,
    /// Packs that are not needed any more are kept this long for followers; only then the old key can go.
    pub keep: Duration,
}

/// What a rekey is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RekeyStage {
    /// None was asked for since the mount.
    #[default]
    None,
    /// Packs are written anew.
    Packs,
    /// Old packs are kept for followers, or for checkpoints.
    Waiting,
    /// Metadata objects are sealed anew.
    Metadata,
    /// The old keys are gone.
    Done,
}

impl RekeyStage {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Packs => "writing packs anew",
            Self::Waiting => "waiting until old packs may go",
            Self::Metadata => "sealing metadata anew",
            Self::Done => "done",
        }
    }
}

/// How far a rekey is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RekeyFigures {
    /// What it does.
    pub stage: RekeyStage,
    /// The epoch of the new key; 0 before it is known.
    pub epoch: u32,
    /// Bytes of packs that are still sealed with an older key, as of the last look.
    pub bytes_left: u64,
    /// Bytes of packs and metadata objects sealed anew since the mount.
    pub bytes_done: u64,
    /// Metadata objects sealed anew since the mount.
    pub objects_done: u64,
    /// What went wrong last; it is tried again.
    pub error: Option<String>,
}

/// What a rekey works on.
pub struct RekeyParts {
    /// Writes packs anew and deletes the old ones.
    pub collector: Arc<Collector>,
    /// The header.
    pub volume: Arc<Mutex<Volume>>,
    /// Taken before the header was read.
    pub lease: Arc<Mutex<Lease>>,
    /// The store of the metadata engine itself: it knows which writes are under way.
    pub metadata: Arc<SealedStore>,
}

/// Rekeys one mounted volume; one rekey at a time.
pub struct Rekeyer {
    pub(super) parts: RekeyParts,
    /// Told when the header has changed.
    changed: Box<dyn Fn(Pin) + Send + Sync>,
    figures: std::sync::Mutex<RekeyFigures>,
    is_running: AtomicBool,
    /// A new epoch was asked for and is not begun.
    may_begin: AtomicBool,
}

impl Rekeyer {
    /// For a mounted volume; `changed` is told of each change of its header.
    pub fn new(parts: RekeyParts, changed: impl Fn(Pin) + Send + Sync + 'static) -> Self {
        Self {
            parts,
            changed: Box::new(changed),
            figures: std::sync::Mutex::default(),
            is_running: AtomicBool::new(false),
            may_begin: AtomicBool::new(false),
        }
    }

    /// How far it is.
    pub fn figures(&self) -> RekeyFigures {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut RekeyFigures)) {
        note(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether one was begun and is not done, by this mount or an earlier one.
    pub async fn is_unfinished(&self) -> bool {
        self.parts.volume.lock().await.epochs().len() > 1
    }

    /// Rekeys in the background until it is done or `stop` says so; goes on with one that was begun.
    /// Errors are told by [`figures`](Self::figures), and it is tried again. Does nothing if one is running.
    pub fn start(self: &Arc<Self>, policy: RekeyPolicy, stop: watch::Receiver<bool>) {
        self.spawn(policy, stop, true);
    }

    /// As [`start`](Self::start), but begins none.
    pub fn resume(self: &Arc<Self>, policy: RekeyPolicy, stop: watch::Receiver<bool>) {
        self.spawn(policy, stop, false);
    }

    fn spawn(self: &Arc<Self>, policy: RekeyPolicy, stop: watch::Receiver<bool>, may_begin: bool) {
        if self.is_running.swap(true, AcqRel) {
            return;
        }
        self.may_begin.store(may_begin, Release);
        self.note(|figures| figures.stage = RekeyStage::Packs);
        let rekeyer = Arc::clone(self);
        tokio::spawn(async move {
            rekeyer.run(policy, stop).await;
            rekeyer.note(|figures| {
                if figures.stage != RekeyStage::Done {
                    figures.stage = RekeyStage::None;
                }
            });
            rekeyer.is_running.store(false, Release);
        });
    }

    async fn run(&self, policy: RekeyPolicy, mut stop: watch::Receiver<bool>) {
        let mut errors = 0;
        loop {
            let ended = tokio::select! {
                ended = self.rekey(policy) => ended,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match ended {
                Ok(()) => {
                    tracing::info!(figures = ?self.figures(), "rekeyed");
                    self.note(|figures| figures.error = None);
                    return;
                }
                Err(GcError::Ended) => return,
                Err(error) => {
                    tracing::warn!("not rekeyed yet, tried again: {error}");
                    self.note(|figures| figures.error = Some(error.to_string()));
                    errors += 1;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(ERROR_PAUSE.saturating_mul(errors).min(ERROR_PAUSE_MAX)) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Rekeys once.
    ///
    /// # Errors
    /// [`GcError`]; what was done until then stays done, and the next call goes on there.
    async fn rekey(&self, policy: RekeyPolicy) -> Result<(), GcError> {
        let rate = Rate::new(policy.rate);
        // Who has lost the lease begins nothing.
        self.hold().await?;
        let Some((epoch, pin)) = self.begin().await? else {
            self.note(|figures| figures.stage = RekeyStage::Done);
            return Ok(());
        };
        (self.changed)(pin);
        self.note(|figures| (figures.stage, figures.epoch) = (RekeyStage::Packs, epoch.0));
        self.packs(epoch, &rate).await?;
        self.note(|figures| figures.stage = RekeyStage::Waiting);
        self.old_packs_gone(policy.keep).await?;
        self.note(|figures| figures.stage = RekeyStage::Metadata);
        // Most of it before, as what was written until then with an older key is looked for once more.
        self.metadata(&rate).await?;
        self.parts.collector.parts.meta.outlast_predecessors().await?;
        self.metadata(&rate).await?;
        self.nothing_old_is_shown(epoch).await?;
        // Sealed with the new key; and nobody else held it since the epoch began, so nobody who writes
        // has a header without that.
        self.hold().await?;
        let pin = {
            let mut volume = self.parts.volume.lock().await;
            match volume.retire_epochs(epoch).await {
                Ok(()) => {}
                Err(VolumeError::OtherEpoch) => return Err(GcError::Ended),
                Err(error) => return Err(error.into()),
            }
            volume.pin(self.parts.collector.parts.fs.committed())
        };
        (self.changed)(pin);
        self.note(|figures| figures.stage = RekeyStage::Done);
        Ok(())
    }

    /// A whole rekey with a new epoch, or the rest of one that was begun; once.
    #[cfg(test)]
    pub(super) async fn rekey_anew(&self, policy: RekeyPolicy) -> Result<(), GcError> {
        self.may_begin.store(true, Release);
        self.rekey(policy).await
    }

    /// Whether the lease is still held: a sign of life fails if somebody else has it.
    async fn hold(&self) -> Result<(), GcError> {
        match self.parts.lease.lock().await.heartbeat().await {
            Ok(()) => Ok(()),
            Err(LeaseError::Lost { .. }) => Err(GcError::Ended),
            Err(error) => Err(error.into()),
        }
    }

    /// The epoch to rekey to; `None` if that is done: this rekey's last step was carried out though its
    /// answer was lost, or an earlier mount has ended its own after all.
    async fn begin(&self) -> Result<Option<(Epoch, Pin)>, GcError> {
        let mut volume = self.parts.volume.lock().await;
        volume.refresh().await?;
        let is_only_one = volume.epochs().len() == 1;
        if is_only_one && !self.may_begin.load(Acquire) {
            return Ok(None);
        }
        let epoch = volume.begin_epoch().await?;
        self.may_begin.store(false, Release);
        Ok(Some((epoch, volume.pin(self.parts.collector.parts.fs.committed()))))
    }

    /// Writes anew what packs of older epochs hold.
    async fn packs(&self, epoch: Epoch, rate: &Rate) -> Result<(), GcError> {
        let gc = &self.parts.collector;
        let mut last = None;
        loop {
            // A pack that was sealed before the new key was there belongs to a group that is committed now.
            gc.parts.fs.commit().await?;
            let old = self.old_packs(epoch).await?;
            let left: u64 = old.iter().map(|(_, record)| record.size).sum();
            self.note(|figures| figures.bytes_left = left);
            if old.is_empty() {
                return Ok(());
            }
            let numbers: Vec<_> = old.iter().map(|(pack, _)| *pack).collect();
            if last.as_ref() == Some(&numbers) {
                return Err(GcError::NotRekeyed { packs: numbers.len() as u64 });
            }
            for (pack, record) in &old {
                rate.wait(record.size).await;
                let _turn = gc.turn.lock().await;
                gc.compact_pack(*pack, record).await?;
                self.note(|figures| {
                    figures.bytes_done += record.size;
                    figures.bytes_left = figures.bytes_left.saturating_sub(record.size);
                });
            }
            last = Some(numbers);
        }
    }

    async fn old_packs(&self, epoch: Epoch) -> Result<Vec<(PackNumber, PackRecord)>, GcError> {
        let (mut from, mut old) = (PackNumber(0), Vec::new());
        loop {
            let page = self.parts.collector.parts.fs.packs(from).await?;
            let Some((last, _)) = page.last() else { return Ok(old) };
            from = PackNumber(last.0.saturating_add(1));
            old.extend(page.into_iter().filter(|(_, record)| record.epoch != epoch));
        }
    }

    /// Waits until what was freed by now is deleted, and orphans with it.
    async fn old_packs_gone(&self, keep: Duration) -> Result<(), GcError> {
        let gc = &self.parts.collector;
        let until = gc.parts.fs.committed();
        loop {
            {
                let _turn = gc.turn.lock().await;
                gc.sweep().await?;
                gc.counts.kept_packs.store(0, Relaxed);
                gc.counts.kept_bytes.store(0, Relaxed);
                gc.delete(keep).await?;
                gc.parts.fs.commit().await?;
            }
            let left = gc.parts.fs.freed_packs(crate::base::CommitNumber(0)).await?;
            if left.iter().all(|freed| freed.commit > until) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Seals metadata objects anew until there are none of older epochs and none can come.
    async fn metadata(&self, rate: &Rate) -> Result<(), GcError> {
        loop {
            self.parts.metadata.settle().await;
            let store = &self.parts.collector.parts.store;
            let listed: Vec<_> = store.list(Some(&Path::from(METADATA))).try_collect().await?;
            let mut anew = 0;
            for object in listed {
                let Some(bytes) = self.parts.metadata.reseal(&object.location).await? else {
                    continue;
                };
                anew += 1;
                self.note(|figures| {
                    figures.objects_done += 1;
                    figures.bytes_done += bytes;
                });
                rate.wait(bytes).await;
            }
            if anew == 0 {
                return Ok(());
            }
        }
    }

    /// A pack whose record is lost is in no list of old ones; with the old key its content would go.
    async fn nothing_old_is_shown(&self, epoch: Epoch) -> Result<(), GcError> {
        let mut shown = self.shown_without_new_record(epoch).await?;
        if !shown.is_empty() {
            // One that was freed meanwhile is no longer shown.
            self.parts.collector.parts.fs.commit().await?;
            let again = self.shown_without_new_record(epoch).await?;
            shown.retain(|pack| again.contains(pack));
        }
        if shown.is_empty() {
            return Ok(());
        }
        Err(GcError::NotRekeyed { packs: shown.len() as u64 })
    }

    async fn shown_without_new_record(&self, epoch: Epoch) -> Result<HashSet<PackNumber>, GcError> {
        let fs = &self.parts.collector.parts.fs;
        let mut shown = fs.packs_shown().await?;
        let mut from = PackNumber(0);
        loop {
            let page = fs.packs(from).await?;
            let Some((last, _)) = page.last() else { break };
            from = PackNumber(last.0.saturating_add(1));
            for (pack, _) in page.iter().filter(|(_, record)| record.epoch == epoch) {
                shown.remove(pack);
            }
        }
        Ok(shown)
    }
}
