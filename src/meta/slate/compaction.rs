//! Compaction, beside the database and not inside it.
//!
//! Inside it every opening would wait for it: it claims its own epoch and looks at its list of work, some ten
//! requests one after the other. Here it begins a moment after the database is open, or as soon as tables
//! pile up (`catch_up`).
//!
//! What that leaves to be held here:
//!
//! * What ends compaction for good ends writing too ([`Compaction::check`]), before tables pile up in silence.
//! * Until it has claimed its epoch, the compaction of an earlier writer may still change the manifest, as
//!   a compactor on another machine may. That does no harm: manifests are written on the condition that nobody
//!   else wrote one. But it may seal with the keys that it began with: see [`Compaction::is_claimed`].
//! * It claims only for the newest writer. Whoever is fenced by a compactor and still is that, claims again.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use slatedb::CompactorBuilder;
use slatedb::admin::AdminBuilder;
use slatedb::object_store::ObjectStore;
use slatedb_common::SystemClock;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::settings::{self, SlateOptions};
use super::{BLOCK_SIZE, PATH, classify};
use crate::base::WriterEpoch;
use crate::meta::MetaError;

const DOING: &str = "merging tables";
/// After opening it leaves the line to others.
const START: Duration = Duration::from_secs(5);
/// Before another try when the store is away.
const PAUSE: Duration = Duration::from_secs(10);

/// The compaction of an open database.
pub(super) struct Compaction {
    parts: Arc<Parts>,
    /// The compactor epoch when the database was opened.
    before: u64,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Parts {
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn SystemClock>,
    options: SlateOptions,
    writer: WriterEpoch,
    failed: OnceLock<MetaError>,
    hurry: Notify,
}

impl Compaction {
    /// Starts it for `writer`, whose database found compaction at the epoch `before`.
    pub(super) fn start(
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn SystemClock>,
        options: &SlateOptions,
        writer: WriterEpoch,
        before: u64,
    ) -> Self {
        let options = options.clone();
        let background = options.background.clone();
        let (failed, hurry) = (OnceLock::new(), Notify::new());
        let parts = Arc::new(Parts { store, clock, options, writer, failed, hurry });
        let (stop, stopped) = watch::channel(false);
        let task = background.spawn(run(Arc::clone(&parts), stopped));
        Self { parts, before, stop, task: Mutex::new(Some(task)) }
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

    /// Begins now, if it has not yet.
    pub(super) fn hurry(&self) {
        self.parts.hurry.notify_one();
    }

    /// Refuses work once compaction can never go on.
    pub(super) fn check(&self) -> Result<(), MetaError> {
        self.parts.failed.get().cloned().map_or(Ok(()), Err)
    }

    /// Whether no compaction of an earlier writer can change the manifest any more.
    pub(super) async fn is_claimed(&self) -> Result<bool, MetaError> {
        self.check()?;
        Ok(self.parts.latest().await?.1 > self.before)
    }
}

impl Parts {
    /// Epochs of the newest writer and of the newest compactor.
    async fn latest(&self) -> Result<(u64, u64), MetaError> {
        let admin = AdminBuilder::new(PATH, Arc::clone(&self.store)).build();
        let manifest = admin.read_manifest(None).await.map_err(|error| classify(DOING, error))?;
        Ok(manifest.map_or((0, 0), |found| (found.writer_epoch(), found.compactor_epoch())))
    }

    /// Compacts until `stop`, or until it cannot go on.
    async fn compact(&self, stop: &mut watch::Receiver<bool>) -> Result<(), MetaError> {
        let (writer, before) = tokio::select! {
            latest = self.latest() => latest?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        if writer != u64::from(self.writer.0) {
            return Err(MetaError::Fenced);
        }
        let compactor = CompactorBuilder::new(PATH, Arc::clone(&self.store))
            .with_options(settings::compaction(&self.options))
            .with_runtime(self.options.background.clone())
            .with_system_clock(Arc::clone(&self.clock))
            .with_sst_block_size(BLOCK_SIZE)
            .with_expected_epoch(before)
            .build();
        let ended = tokio::select! {
            ended = compactor.run() => ended,
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        };
        // Whichever part of it has ended, the others go with it.
        let stopped = compactor.stop().await;
        ended.and(stopped).map_err(|error| classify(DOING, error))
    }

    /// Whether `error` is the end of it.
    async fn is_final(&self, error: &MetaError) -> bool {
        match error {
            MetaError::Unavailable { .. } => false,
            MetaError::Fenced => match self.latest().await {
                Ok((writer, _)) => writer != u64::from(self.writer.0),
                Err(_) => false,
            },
            _ => true,
        }
    }
}

async fn run(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    let mut pause = START.min(parts.options.bounds.compaction_poll);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = parts.hurry.notified() => {}
            () = parts.clock.sleep(pause) => {}
        }
        let Err(error) = parts.compact(&mut stop).await else { return };
        let is_final = tokio::select! {
            is_final = parts.is_final(&error) => is_final,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        if is_final {
            tracing::warn!(%error, "no more compaction");
            let _ = parts.failed.set(final_error(error));
            return;
        }
        tracing::debug!(%error, "compaction begins anew");
        pause = PAUSE.min(parts.options.bounds.compaction_poll);
    }
}

/// As the writer tells it.
fn final_error(error: MetaError) -> MetaError {
    match error {
        MetaError::Corrupt { doing, source } => MetaError::Stopped { doing, source },
        MetaError::Closed { doing } => {
            let source = std::io::Error::other("compaction ended by itself");
            MetaError::Stopped { doing, source: Arc::new(source) }
        }
        other => other,
    }
}
