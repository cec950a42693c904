//! The end of a mount, whoever brings it about.
//!
//! ```text
//! session over (umount by anybody) ----------------------------.
//! signal: flush while it is mounted -> unmount, lazily if busy --+-> store all -> lease, pin -> done
//! panic: nothing more is stored, the mount is taken away         '-> second signal: give up, say so
//! ```

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::serve::{KeptLease, Live};
use super::shared::Shared;
use super::signals::Signals;
use super::{DaemonError, notify};
use crate::base::ErrorKind;
use crate::fs::FsError;
use crate::fuse::{FuseError, Unmount};

/// How long a store that does not answer is waited for at the end.
const STORE_WAIT_MAX: Duration = Duration::from_mins(15);
/// Pause after a failure before everything is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How often systemd hears that it goes on, and how much time that asks for.
const EXTEND_INTERVAL: Duration = Duration::from_secs(5);
const EXTEND_TIME: Duration = Duration::from_mins(1);
/// How long a mount that is in use keeps its session after a signal.
const BUSY_WAIT: Duration = Duration::from_secs(3);
/// How long clients may take to read their last answer.
const CONTROL_WAIT: Duration = Duration::from_secs(1);

/// How the serving ended.
enum End {
    /// The session is over; what is dirty is sound.
    Session,
    /// What is in memory must not be stored.
    Broken,
    /// A second signal: no more waiting.
    Hurried,
}

/// Serves until the mount ends, then stores everything and gives back what was taken.
///
/// # Errors
/// [`DaemonError::NotStored`], [`DaemonError::Panicked`].
pub(super) async fn until_ended(
    live: Live,
    mut signals: Signals,
    mut panics: watch::Receiver<bool>,
) -> Result<(), DaemonError> {
    let end = tokio::select! {
        end = serve(&live.shared, &mut signals) => end,
        _ = panics.wait_for(|panicked| *panicked) => End::Broken,
    };
    notify::stopping("storing what is left");
    let stored = match end {
        End::Broken => Err(DaemonError::Panicked),
        End::Hurried => Err(hurried(&live.shared)),
        End::Session => tokio::select! {
            stored = store_all(&live.shared, &mut signals) => stored,
            _ = panics.wait_for(|panicked| *panicked) => Err(DaemonError::Panicked),
        },
    };
    live.shared.stop.send_replace(true);
    if stored.is_ok() {
        release(live.lease).await;
    }
    // Writes the last commit, whatever happened to the rest.
    let _ = live.pin.await;
    let said = stored.as_ref().map(|&()| ()).map_err(ToString::to_string);
    live.shared.ended.send_replace(Some(said));
    live.control.drain(CONTROL_WAIT).await;
    drop(live.place);
    tracing::info!(stored = stored.is_ok(), "ended");
    stored
}

async fn release(lease: Option<KeptLease>) {
    let Some(keeper) = lease else { return };
    if let Ok(Some(lease)) = keeper.await
        && let Err(error) = lease.lock().await.release().await
    {
        tracing::warn!(%error, "the lease could not be released: it becomes free by its age");
    }
}

/// Until the session is over, by itself or after a signal.
async fn serve(shared: &Shared, signals: &mut Signals) -> End {
    let name = tokio::select! {
        over = shared.mount.wait() => return session_end(over),
        name = signals.next() => name,
    };
    tracing::info!(signal = name, "ending the mount");
    notify::stopping("storing and unmounting");
    tokio::select! {
        end = leave(shared) => end,
        () = signals.second() => End::Hurried,
        never = keep_extending(shared) => never,
    }
}

/// Stores while it is still mounted, so that little is left to lose, then unmounts.
async fn leave(shared: &Shared) -> End {
    if let Err(message) = shared.flush().await {
        tracing::warn!("{message}");
    }
    let detached = match shared.mount.unmount(Unmount::IfIdle).await {
        Ok(()) => false,
        Err(error) => {
            tracing::warn!(%error, "unmounting although it is in use: what is written there from now on is lost");
            if let Err(error) = shared.mount.unmount(Unmount::Detach).await {
                tracing::error!(%error, "not unmounted");
            }
            true
        }
    };
    if !detached {
        return session_end(shared.mount.wait().await);
    }
    match tokio::time::timeout(BUSY_WAIT, shared.mount.wait()).await {
        Ok(over) => session_end(over),
        Err(_) => End::Session,
    }
}

fn session_end(over: Result<(), FuseError>) -> End {
    match over {
        Ok(()) => End::Session,
        Err(FuseError::Panicked { .. }) => End::Broken,
        Err(error) => {
            tracing::error!(%error, "the session ended by itself");
            End::Session
        }
    }
}

async fn keep_extending(shared: &Shared) -> End {
    loop {
        notify::extend(EXTEND_TIME);
        notify::status(&format!("storing {} bytes", shared.status().write.dirty_bytes));
        tokio::time::sleep(EXTEND_INTERVAL).await;
    }
}

fn hurried(shared: &Shared) -> DaemonError {
    let dirty = shared.status().write.dirty_bytes;
    DaemonError::NotStored { reason: format!("a second signal came while {dirty} bytes were left") }
}

/// Everything into the bucket; a store that fails is tried again for some time.
async fn store_all(shared: &Shared, signals: &mut Signals) -> Result<(), DaemonError> {
    tokio::select! {
        stored = store_with_patience(shared) => stored,
        () = signals.second() => Err(hurried(shared)),
        _ = keep_extending(shared) => Err(DaemonError::Panicked),
    }
}

async fn store_with_patience(shared: &Shared) -> Result<(), DaemonError> {
    let started = Instant::now();
    let failed = |error: FsError| DaemonError::NotStored { reason: error.to_string() };
    while let Err(error) = shared.fs.close().await {
        if error.kind() != ErrorKind::Retry || started.elapsed() > STORE_WAIT_MAX {
            return Err(failed(error));
        }
        tracing::warn!(%error, "not stored yet, trying again; a second signal gives up");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    if let Some(follower) = &shared.follower
        && let Err(error) = follower.close().await
    {
        // It stored nothing; what it held in the bucket expires by itself.
        tracing::warn!(%error, "the reader was not closed");
    }
    Ok(())
}
