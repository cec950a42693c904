//! Compaction, beside the database and not inside it.
//!
//! Inside it every opening would wait for it: it claims its own epoch and looks at its list of work, some ten
//! requests one after the other. Here it begins when there are tables to merge, and not while a mount opens.
//!
//! What that leaves to be held here:
//!
//! * What ends compaction for good ends writing too ([`Compaction::check`]), before tables pile up in silence;
//!   and whoever waits for it does not wait on ([`Compaction::failed`]).
//! * Until it has claimed its epoch, the compaction of an earlier writer may still change the manifest, as
//!   a compactor on another machine may. That does no harm: manifests are written on the condition that nobody
//!   else wrote one. But it may seal with the keys that it began with: see [`Compaction::outlast`].
//! * It claims only for the newest writer. Whoever is fenced by a compactor and still is that, claims again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slatedb::admin::{Admin, AdminBuilder};
use slatedb::compactor::stats::COMPACTOR_EPOCH;
use slatedb::compactor::{Compaction as Job, CompactionStatus};
use slatedb::object_store::ObjectStore;
use slatedb::{CompactorBuilder, DbStatus, VersionedCompactions};
use slatedb_common::SystemClock as _;
use slatedb_common::metrics::{DefaultMetricsRecorder, MetricValue};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::clock::ForwardClock;
use super::settings::{self, COMPACTION_TABLES_MIN, SlateOptions};
use super::{BLOCK_SIZE, PATH, classify};
use crate::base::WriterEpoch;
use crate::meta::MetaError;

const DOING: &str = "merging tables";
/// After there is something to merge it leaves the line to others, unless much is (`catch_up`).
const START: Duration = Duration::from_secs(20);
/// Before another try when the store is away.
const PAUSE: Duration = Duration::from_secs(10);
/// Between two looks whether earlier writers are done.
const OUTLAST_PAUSE: Duration = Duration::from_secs(1);

/// The compaction of an open database.
pub(super) struct Compaction {
    parts: Arc<Parts>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What is needed to compact.
pub(super) struct Site {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) clock: Arc<ForwardClock>,
    pub(super) options: SlateOptions,
    pub(super) writer: WriterEpoch,
}

struct Parts {
    site: Site,
    failed: watch::Sender<Option<MetaError>>,
    /// How many new claims were asked for.
    asked: watch::Sender<u64>,
    /// The compactor that runs, if one does.
    current: Mutex<Option<Attempt>>,
}

/// One compactor, from its claim to its end.
struct Attempt {
    /// It began after so many claims were asked for.
    asked: u64,
    /// Knows the epoch that it has claimed.
    metrics: Arc<DefaultMetricsRecorder>,
}

impl Attempt {
    fn epoch(&self) -> Option<u64> {
        let figures = self.metrics.snapshot();
        match figures.by_name(COMPACTOR_EPOCH).first()?.value {
            MetricValue::Gauge(epoch) => u64::try_from(epoch).ok().filter(|epoch| *epoch > 0),
            _ => None,
        }
    }
}

impl Compaction {
    /// Starts it for a database with this `status`.
    pub(super) fn start(site: Site, status: watch::Receiver<DbStatus>) -> Self {
        let background = site.options.background.clone();
        let (failed, asked) = (watch::Sender::new(None), watch::Sender::new(0));
        let parts = Arc::new(Parts { site, failed, asked, current: Mutex::default() });
        let (stop, stopped) = watch::channel(false);
        let task = background.spawn(run(Arc::clone(&parts), status, stopped));
        Self { parts, stop, task: Mutex::new(Some(task)) }
    }

    /// Ends it; returns when it has ended.
    pub(super) async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            // A runtime that is gone has ended it, too.
            let _ = task.await;
        }
    }

    /// Refuses work once compaction can never go on.
    pub(super) fn check(&self) -> Result<(), MetaError> {
        self.parts.failed.borrow().clone().map_or(Ok(()), Err)
    }

    /// Returns once compaction can never go on.
    pub(super) async fn failed(&self) -> MetaError {
        let mut failed = self.parts.failed.subscribe();
        let error = failed.wait_for(Option::is_some).await.ok().and_then(|error| error.clone());
        match error {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Returns when nothing that an earlier writer left running can change the manifest any more, nor what
    /// is noted of merging.
    ///
    /// Claims compaction anew, which writes both under their next number and with the keys of now. Who writes
    /// either after that has read it, and so has these keys, too. What was being merged before
    /// may have begun with others, by a worker that no claim fences: it is waited for.
    pub(super) async fn outlast(&self) -> Result<(), MetaError> {
        let mut asked = 0;
        self.parts.asked.send_modify(|last| {
            *last += 1;
            asked = *last;
        });
        while !self.parts.has_claimed(asked).await? {
            self.pause().await?;
        }
        let mut before = self.parts.under_way().await?;
        while !before.is_empty() {
            self.pause().await?;
            self.parts.site.clock.wake_compaction();
            let now = self.parts.under_way().await?;
            before.retain(|job| now.contains(job));
        }
        Ok(())
    }

    async fn pause(&self) -> Result<(), MetaError> {
        tokio::time::sleep(OUTLAST_PAUSE).await;
        self.check()
    }
}

/// Something that is being merged, and by whom.
type UnderWay = (String, Option<String>);

impl Parts {
    fn admin(&self) -> Admin {
        AdminBuilder::new(PATH, Arc::clone(&self.site.store)).build()
    }

    /// Epochs of the newest writer and of the newest compactor.
    async fn latest(&self) -> Result<(u64, u64), MetaError> {
        let manifest = self.admin().read_manifest(None).await;
        let manifest = manifest.map_err(|error| classify(DOING, error))?;
        Ok(manifest.map_or((0, 0), |found| (found.writer_epoch(), found.compactor_epoch())))
    }

    fn is_ours(&self, writer: u64) -> bool {
        writer == u64::from(self.site.writer.0)
    }

    /// Whether the newest compactor is ours, and began after so many claims were asked for.
    async fn has_claimed(&self, asked: u64) -> Result<bool, MetaError> {
        let epoch = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.as_ref().filter(|one| one.asked >= asked).and_then(Attempt::epoch)
        };
        let Some(epoch) = epoch else { return Ok(false) };
        let (writer, compactor) = self.latest().await?;
        if !self.is_ours(writer) {
            return Err(MetaError::Fenced);
        }
        Ok(compactor == epoch)
    }

    /// What a worker has taken on and is not yet in the manifest.
    async fn under_way(&self) -> Result<HashSet<UnderWay>, MetaError> {
        let noted = self.admin().read_compactions(None).await;
        let noted = noted.map_err(|error| classify(DOING, error))?;
        let is_taken = |job: &&Job| {
            matches!(job.status(), CompactionStatus::Running | CompactionStatus::Compacted)
        };
        let taken =
            noted.iter().flat_map(VersionedCompactions::recent_compactions).filter(is_taken);
        let worker = |job: &Job| job.worker().map(|worker| worker.worker_id.clone());
        Ok(taken.map(|job| (job.id().to_string(), worker(job))).collect())
    }

    /// Returns when there is something to merge, or a claim was asked for.
    async fn due(&self, mut status: watch::Receiver<DbStatus>) {
        let start = START.min(self.site.options.bounds.compaction_poll);
        let mut asked = self.asked.subscribe();
        let tables = async {
            let has_many =
                |status: &DbStatus| status.current_manifest.l0().len() >= COMPACTION_TABLES_MIN;
            if status.wait_for(has_many).await.is_err() {
                // The database is gone: whoever closes it stops this.
                std::future::pending::<()>().await;
            }
            self.site.clock.sleep(start).await;
        };
        tokio::select! {
            () = tables => {}
            _ = asked.wait_for(|asked| *asked > 0) => {}
        }
    }

    /// Compacts until `stop`, until a new claim is asked for, or until it cannot go on.
    async fn compact(&self, stop: &mut watch::Receiver<bool>) -> Result<(), MetaError> {
        let mut asked = self.asked.subscribe();
        let claims = *asked.borrow_and_update();
        let (writer, epoch) = tokio::select! {
            latest = self.latest() => latest?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        if !self.is_ours(writer) {
            return Err(MetaError::Fenced);
        }
        let metrics = Arc::new(DefaultMetricsRecorder::new());
        let compactor = CompactorBuilder::new(PATH, Arc::clone(&self.site.store))
            .with_options(settings::compaction(&self.site.options))
            .with_runtime(self.site.options.background.clone())
            .with_system_clock(self.site.clock.clone())
            .with_sst_block_size(BLOCK_SIZE)
            .with_metrics_recorder(metrics.clone())
            .with_expected_epoch(epoch)
            .build();
        self.set_current(Some(Attempt { asked: claims, metrics }));
        let ended = tokio::select! {
            ended = compactor.run() => Some(ended),
            _ = stop.wait_for(|stop| *stop) => None,
            _ = asked.changed() => None,
        };
        self.set_current(None);
        // Whichever part of it has ended, the others go with it.
        let stopped = compactor.stop().await;
        match ended {
            Some(Ok(())) => {
                let source = std::io::Error::other("it ended by itself");
                Err(MetaError::Stopped { doing: DOING, source: Arc::new(source) })
            }
            Some(Err(error)) => Err(classify(DOING, error)),
            None => stopped.map_err(|error| classify(DOING, error)),
        }
    }

    fn set_current(&self, attempt: Option<Attempt>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = attempt;
    }

    /// Whether `error` is the end of it.
    async fn is_final(&self, error: &MetaError) -> bool {
        match error {
            MetaError::Unavailable { .. } => false,
            MetaError::Fenced => match self.latest().await {
                Ok((writer, _)) => !self.is_ours(writer),
                Err(_) => false,
            },
            _ => true,
        }
    }
}

async fn run(
    parts: Arc<Parts>,
    status: watch::Receiver<DbStatus>,
    mut stop: watch::Receiver<bool>,
) {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => return,
        () = parts.due(status) => {}
    }
    loop {
        let ended = parts.compact(&mut stop).await;
        // Also where nobody is left who could stop it.
        if *stop.borrow() || stop.has_changed().is_err() {
            return;
        }
        let Err(error) = ended else { continue };
        let is_final = tokio::select! {
            is_final = parts.is_final(&error) => is_final,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if is_final {
            let error = final_error(error);
            tracing::error!(%error, "no more compaction, and so no more writing");
            parts.failed.send_replace(Some(error));
            return;
        }
        tracing::debug!(%error, "compaction begins anew");
        let pause = PAUSE.min(parts.site.options.bounds.compaction_poll);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = parts.site.clock.sleep(pause) => {}
        }
    }
}

/// As the writer tells it.
fn final_error(error: MetaError) -> MetaError {
    match error {
        MetaError::Corrupt { doing, source } => MetaError::Stopped { doing, source },
        MetaError::Closed { doing } => {
            let source = std::io::Error::other("it was closed by itself");
            MetaError::Stopped { doing, source: Arc::new(source) }
        }
        other => other,
    }
}
