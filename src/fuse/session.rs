//! A mount from its beginning to its end.
//!
//! ```text
//! mount() -> mount(2), handshake -> threads read /dev/fuse and call the adapter
//!                                        |
//!   end:  umount by anybody | abort by the administrator | defect in fuser | panic
//!                                        |
//!                                     wait() returns which
//! ```

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;

use super::FuseError;
use super::adapter::{Adapter, OpenWriters};
use super::invalidate::{self, Invalidator};
use super::mount::{Mounted, Unmount, device_opens};
use super::options::FuseOptions;
use super::users;
use crate::fs::FileSystem;

/// How long a mount may be in use before that is an error.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);
/// Between attempts.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Mounts `fs`. Returns when the mount answers.
///
/// What cannot be answered from memory runs on `runtime`, which must have
/// threads of its own (multi-thread).
///
/// # Errors
/// The mount point, the options or the machine do not allow it; see [`FuseError`].
pub fn mount(
    fs: FileSystem,
    options: &FuseOptions,
    runtime: &Handle,
) -> Result<FuseMount, FuseError> {
    let (mounted, device) = Mounted::new(options)?;
    let path = mounted.path.clone();
    let state = Arc::new(State { mounted, end: watch::Sender::new(None) });
    let (invalidator, notices) = Invalidator::new();
    // From here on an early return unmounts.
    let (runtime, writers) = (runtime.clone(), Arc::default());
    let mount = FuseMount { state, invalidator, runtime, writers };
    let adapter = Adapter::new(
        fs,
        options,
        mount.runtime.clone(),
        mount.state.clone(),
        mount.invalidator.clone(),
        mount.writers.clone(),
    );
    let mut config = Config::default();
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = device_opens();
    // Who may use the mount is the kernel's to decide: fuser's own check would
    // refuse processes that change their file system uid.
    let failed = |source| FuseError::Handshake { path: path.clone(), source };
    let session = Session::from_fd(adapter, device, SessionACL::All, config).map_err(failed)?;
    mount.state.mounted.raise_read_ahead();
    let notifier = session.notifier();
    spawn("lidfs-notices", move || invalidate::run(&notifier, notices)).map_err(failed)?;
    let (state, invalidator) = (mount.state.clone(), mount.invalidator.clone());
    spawn("lidfs-fuse", move || {
        let result = session.run();
        invalidator.stop();
        state.session_ended(result);
    })
    .map_err(failed)?;
    Ok(mount)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// A live mount. Dropping it unmounts (detaching what is in use).
#[derive(Debug)]
pub struct FuseMount {
    pub(super) state: Arc<State>,
    invalidator: Invalidator,
    runtime: Handle,
    writers: Arc<OpenWriters>,
}

impl FuseMount {
    /// Where it is mounted: absolute, without links.
    pub fn path(&self) -> &Path {
        &self.state.mounted.path
    }

    /// Waits until the session has ended: unmounted by us or by anybody else.
    /// No request reaches the file system any more; operations that it has not
    /// finished may still run on the runtime, unanswered.
    ///
    /// # Errors
    /// - [`FuseError::Aborted`], [`FuseError::Session`]: it ended otherwise; what
    ///   the file system holds is sound and should be committed.
    /// - [`FuseError::Panicked`]: what it holds must *not* be committed.
    pub async fn wait(&self) -> Result<(), FuseError> {
        let mut end = self.state.end.subscribe();
        let end = end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        let path = self.path().to_owned();
        match end {
            Some(End::Unmounted) | None => Ok(()),
            Some(End::Aborted) => Err(FuseError::Aborted { path }),
            Some(End::Failed(message)) => Err(FuseError::Session { path, message }),
            Some(End::Panicked(operation)) => Err(FuseError::Panicked { path, operation }),
        }
    }

    /// Unmounts this mount; success if that happened already. The kernel first
    /// writes back what it holds, so this may take as long as the store does.
    /// What is in use is tried again for a moment: programs such as file managers
    /// and `df` look at every mount in passing.
    /// [`wait`](Self::wait) tells when the session is over.
    ///
    /// # Errors
    /// [`FuseError::Busy`] (only with [`Unmount::IfIdle`]); [`FuseError::Unmount`].
    pub async fn unmount(&self, how: Unmount) -> Result<(), FuseError> {
        let started = Instant::now();
        loop {
            let (state, is_last) = (self.state.clone(), started.elapsed() >= BUSY_PATIENCE);
            let attempt = move || match state.mounted.unmount(how) {
                Err(FuseError::Busy { path, .. }) if is_last => {
                    let users = users::of(&path);
                    Err(FuseError::Busy { path, users })
                }
                other => other,
            };
            match self.runtime.spawn_blocking(attempt).await {
                Ok(Err(FuseError::Busy { .. })) if !is_last => sleep(BUSY_PAUSE).await,
                Ok(result) => return result,
                Err(error) => {
                    let path = self.path().to_owned();
                    return Err(FuseError::Unmount { path, source: error.into() });
                }
            }
        }
    }

    /// Has the kernel hand over the written pages of files that are open for writing, and waits
    /// for it. It drops their pages too, so this is only for kernels whose `syncfs` does not wait.
    pub async fn write_back_open(&self) {
        for inode in self.writers.all() {
            self.invalidator.write_back(inode, 0).await;
        }
    }

    /// Where it stands. Asks the kernel's tables, never the mount.
    pub fn presence(&self) -> Presence {
        if self.state.end.borrow().is_some() {
            Presence::Over
        } else if self.state.mounted.is_there() {
            Presence::Mounted
        } else {
            Presence::Detached
        }
    }

    /// For telling the kernel what changed behind it.
    pub fn invalidator(&self) -> Invalidator {
        self.invalidator.clone()
    }
}

impl Drop for FuseMount {
    fn drop(&mut self) {
        if let Err(error) = self.state.mounted.unmount(Unmount::Detach) {
            tracing::warn!(%error, "the mount stays in the mount table");
        }
    }
}

/// Whether a mount is found at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Mounted,
    /// No more, but files are open on it: it was unmounted lazily, moved or covered.
    Detached,
    /// The session is over.
    Over,
}

/// How a session ended.
#[derive(Debug, Clone)]
enum End {
    Unmounted,
    Aborted,
    Failed(String),
    Panicked(&'static str),
}

/// What the threads of a session share.
#[derive(Debug)]
pub(super) struct State {
    mounted: Mounted,
    end: watch::Sender<Option<End>>,
}

impl State {
    /// Whether an operation panicked, so that no other may touch the file system.
    pub(super) fn is_broken(&self) -> bool {
        matches!(*self.end.borrow(), Some(End::Panicked(_)))
    }

    /// An operation panicked and may have left a change half made, which the
    /// next commit would make lasting. So the mount stops, loudly: every request
    /// fails, and [`FuseMount::wait`] says not to commit.
    pub(super) fn panicked(self: &Arc<Self>, operation: &'static str, cause: &(dyn Any + Send)) {
        let text = cause.downcast_ref::<&str>().copied();
        let text = text.or_else(|| cause.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("no message");
        tracing::error!(operation, message, "an operation panicked: the mount stops");
        if !self.set_end(End::Panicked(operation)) {
            return;
        }
        // Not on this thread: it may serve requests that unmounting waits for.
        let state = Arc::clone(self);
        if let Err(error) = spawn("lidfs-abort", move || state.mounted.abort()) {
            tracing::error!(%error, "the broken mount stays in the mount table");
        }
    }

    fn session_ended(&self, result: std::io::Result<()>) {
        self.mounted.session_ended();
        // Unmounting takes the mount out of the table before it ends the session.
        let orphaned = self.mounted.is_there();
        self.set_end(match result {
            Err(error) => End::Failed(error.to_string()),
            Ok(()) if orphaned => End::Aborted,
            Ok(()) => End::Unmounted,
        });
        if orphaned && let Err(error) = self.mounted.unmount(Unmount::Detach) {
            tracing::warn!(%error, "the dead mount stays in the mount table");
        }
    }

    /// The first end counts.
    fn set_end(&self, end: End) -> bool {
        self.end.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(end);
            }
            first
        })
    }
}
