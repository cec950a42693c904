//! A mount from its assembly to its end.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use super::assemble::{Assembled, assemble};
use super::background::Starting;
use super::open::{Storage, harden};
use super::pages::Pages;
use super::registry::{self, Place};
use super::shared::Shared;
use super::signals::Signals;
use super::{DaemonError, control, finish, keepers, log, notify, system};
use crate::config::Config;
use crate::fs::FileSystem;
use crate::fuse::{self, FuseError, FuseOptions};
use crate::gc::{RekeyParts, Rekeyer};
use crate::keys::KeySource;
use crate::volume::{Lease, Pin};

/// Threads of the runtime: the FUSE threads do what memory can answer, so
/// these mostly wait for the network.
const WORKERS_MAX: usize = 8;
/// Blocking threads: sealing, compression, the disk cache; each may hold some MiB.
const BLOCKING_THREADS_MAX: usize = 32;
/// How long tasks that are still running may hold up the end of the process.
const RUNTIME_END: Duration = Duration::from_secs(2);

/// What to mount, where and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The directory: absolute, without links.
    pub mountpoint: PathBuf,
    /// The configuration, flags included.
    pub config: Config,
    /// The file that it came from: absolute.
    pub config_file: Option<PathBuf>,
    /// Where the secret comes from.
    pub key: KeySource,
    /// Options for the kernel.
    pub mount_options: Vec<String>,
    /// Take the lease from its holder.
    pub takeover: bool,
    /// Mount whatever state the bucket has.
    pub accept_rollback: bool,
}

/// Mounts, serves, and returns when the mount has ended with everything in the bucket.
///
/// `starting` hears when the mount answers.
///
/// # Errors
/// Why it could not be mounted, or what could not be stored at its end.
pub fn run(plan: &Plan, starting: &mut Starting) -> Result<(), DaemonError> {
    // Before any thread: children and threads inherit them.
    system::raise_limits();
    let protected = system::protect_from_oom() & system::declare_io_flusher();
    harden()?;
    log::start(&plan.config.log, log_file(plan, starting)?.as_deref())
        .map_err(|source| system_error("the log", source))?;
    if !protected {
        tracing::debug!("not protected from memory pressure: needs root");
    }
    let panics = log::watch_panics();
    let runtime = runtime("lidfs", workers())?;
    // Compaction gets a thread of its own, so that it never delays an answer.
    let background = self::runtime("lidfs-compact", 1)?;
    let has_parent = !starting.is_foreground();
    let ended = runtime.block_on(mount_and_serve(plan, starting, background.handle(), panics));
    // With the parent gone nobody else hears it.
    if let Err(error) = &ended
        && has_parent
        && starting.is_foreground()
    {
        tracing::error!(%error, "the mount ended badly");
    }
    background.shutdown_background();
    runtime.shutdown_timeout(RUNTIME_END);
    ended
}

/// Where the log goes: a mount in the background has no standard error.
fn log_file(plan: &Plan, starting: &Starting) -> Result<Option<PathBuf>, DaemonError> {
    let config = &plan.config;
    if config.log.file.is_some() || starting.is_foreground() {
        return Ok(config.log.file.clone());
    }
    let name = format!("mount-{}.log", registry::name_of(&plan.mountpoint));
    Ok(Some(config.state.directory()?.join("log").join(name)))
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, WORKERS_MAX)
}

fn runtime(name: &str, workers: usize) -> Result<Runtime, DaemonError> {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|source| system_error("threads", source))
}

pub(super) fn system_error(what: &str, source: io::Error) -> DaemonError {
    DaemonError::System { what: what.to_owned(), source }
}

async fn mount_and_serve(
    plan: &Plan,
    starting: &mut Starting,
    background: &Handle,
    mut panics: watch::Receiver<bool>,
) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(|source| system_error("signals", source))?;
    let assembled = tokio::select! {
        assembled = assemble(plan, background.clone(), &mut signals) => assembled?,
        _ = panics.wait_for(|panicked| *panicked) => return Err(DaemonError::Panicked),
    };
    let Assembled {
        storage,
        volume,
        pinned,
        fs,
        reader,
        collector,
        sealed,
        lease,
        follower,
        fuse,
        warnings,
    } = assembled;
    // All that can fail comes before the mount: one that vanishes again could lose what is written there.
    let shown = announce(plan).and_then(|place| Ok((place, show(&fs, &fuse)?)));
    let (Announced { place, listener, pages }, mount) = match shown {
        Ok(shown) => shown,
        Err(error) => {
            abandon(&fs, lease).await;
            return Err(error);
        }
    };
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let pin = volume.pin(*fs.commits().borrow());
    let (storage, id) = (Arc::new(storage), volume.id());
    let lease = lease.map(|lease| Arc::new(tokio::sync::Mutex::new(lease)));
    let rekeyer = collector.clone().zip(sealed).zip(lease.clone());
    let rekeyer = rekeyer.map(|((collector, metadata), lease)| {
        let storage = Arc::clone(&storage);
        let remember = move |pin: Pin| {
            if let Err(error) = storage.pins.record(&storage.location, &pin) {
                tracing::warn!(%error, "the change of the header is not noted on this machine");
            }
        };
        let volume = Arc::new(tokio::sync::Mutex::new(volume));
        let parts = RekeyParts { collector, volume, lease, metadata };
        Arc::new(Rekeyer::new(parts, remember))
    });
    let shared = Arc::new(Shared {
        mountpoint: mount.path().to_owned(),
        fs,
        mount,
        pages,
        reader,
        collector,
        gc_keep: plan.config.gc.keep,
        meter: Arc::clone(&storage.meter),
        trouble: Arc::clone(&storage.trouble),
        url: storage.url.clone(),
        rekeyer,
        rekey_policy: plan.config.gc.rekey_policy(),
        volume: id.to_string(),
        pinned,
        read_only: plan.config.mount.read_only,
        follower,
        started: Instant::now(),
        warnings: Mutex::new(warnings),
        stop: watch::Sender::new(false),
        ended: watch::Sender::new(None),
    });
    let live = Live::start(shared, storage, pin, lease, (place, listener), &plan.config);
    let place = live.shared.mountpoint.display();
    tracing::info!(volume = live.shared.volume, "mounted");
    starting.mounted("").map_err(|source| system_error("the terminal cannot be left", source))?;
    notify::ready(&format!("mounted at {place}"));
    finish::until_ended(live, signals, panics).await
}

fn show(fs: &FileSystem, options: &FuseOptions) -> Result<fuse::FuseMount, FuseError> {
    tokio::task::block_in_place(|| fuse::mount(fs.clone(), options, &Handle::current()))
}

/// Gives back what was taken for a mount that did not come about.
async fn abandon(fs: &FileSystem, lease: Option<Lease>) {
    if let Err(error) = fs.close().await {
        tracing::warn!(%error, "the volume was not closed cleanly: the next mount recovers it");
    }
    if let Some(mut lease) = lease
        && let Err(error) = lease.release().await
    {
        tracing::warn!(%error, "the lease could not be released: it becomes free by its age");
    }
}

/// Who gives the lease's signs of life; at its end the lease, unless it was lost.
pub(super) type KeptLease = tokio::task::JoinHandle<Option<Arc<tokio::sync::Mutex<Lease>>>>;

/// A mount that answers, and its tasks.
pub(super) struct Live {
    pub shared: Arc<Shared>,
    pub lease: Option<KeptLease>,
    pub pin: tokio::task::JoinHandle<()>,
    pub control: control::Server,
    /// Found by other commands as long as this lives.
    pub place: Place,
}

impl Live {
    fn start(
        shared: Arc<Shared>,
        storage: Arc<Storage>,
        pin: Pin,
        lease: Option<Arc<tokio::sync::Mutex<Lease>>>,
        (place, listener): (Place, UnixListener),
        config: &Config,
    ) -> Self {
        let stopped = shared.stop.subscribe();
        let commits = shared.fs.commits();
        let lease =
            lease.map(|lease| keepers::keep_lease(lease, Arc::clone(&shared), stopped.clone()));
        let pin = keepers::keep_pin(storage, pin, commits, stopped.clone());
        keepers::keep_watch(Arc::clone(&shared), stopped.clone());
        if !shared.read_only {
            let interval = shared.fs.commit_interval() / 2;
            keepers::keep_pages_moving(Arc::clone(&shared), interval, stopped.clone());
        }
        if let Some(collector) = shared.collector.clone() {
            let (policy, interval) = (config.gc.policy(), config.gc.interval);
            let stopped = stopped.clone();
            tokio::spawn(async move { collector.run(policy, interval, stopped).await });
        }
        if let Some(rekeyer) = shared.rekeyer.clone() {
            let policy = shared.rekey_policy;
            // What an earlier mount began.
            tokio::spawn(async move {
                if rekeyer.is_unfinished().await {
                    rekeyer.resume(policy, stopped);
                }
            });
        }
        let answering = Arc::clone(&shared);
        let control =
            control::Server::start(listener, move |request| Arc::clone(&answering).answer(request));
        Self { shared, lease, pin, control, place }
    }
}

/// What a mount is found and asked by.
struct Announced {
    place: Place,
    listener: UnixListener,
    pages: Pages,
}

/// Whoever connects from now on is answered once the mount is there.
fn announce(plan: &Plan) -> Result<Announced, DaemonError> {
    let failed = |source| system_error("control socket", source);
    let place = Place::claim(&plan.mountpoint).map_err(failed)?;
    let listener = control::listen(&place.socket).map_err(failed)?;
    place.publish(&plan.mountpoint, plan.config_file.as_deref()).map_err(failed)?;
    let pages =
        Pages::start(plan.mountpoint.clone()).map_err(|source| system_error("threads", source))?;
    Ok(Announced { place, listener, pages })
}
