//! What goes on beside a live mount: the lease's heartbeat, the freshness pin.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::notify;
use super::open::Storage;
use super::shared::Shared;
use super::status::HealthState;
use crate::base::CommitNumber;
use crate::fuse::Presence;
use crate::volume::{HEARTBEAT_INTERVAL, Lease, LeaseError, Pin};

/// Shortest time between two writes of the pin: commits may come by the hundred a second.
const PIN_INTERVAL: Duration = Duration::from_secs(1);
/// How often systemd hears how the mount is.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(15);

/// Gives the lease's signs of life until `stop`; the lease is then there to release.
pub(super) fn keep_lease(
    lease: Arc<Mutex<Lease>>,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<Option<Arc<Mutex<Lease>>>> {
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Some(lease),
                () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
            }
            let beat = lease.lock().await.heartbeat().await;
            match beat {
                Ok(()) => {}
                Err(error @ LeaseError::Lost { .. }) => {
                    tracing::error!(%error, "the lease is lost");
                    shared.warn(error.to_string());
                    shared.fs.make_read_only();
                    return None;
                }
                // The next one may get through; the engine's fence does not depend on it.
                Err(error) => tracing::warn!(%error, "no sign of life for the lease"),
            }
        }
    })
}

/// Keeps the pin at the newest commit until `stop`.
pub(super) fn keep_pin(
    storage: Arc<Storage>,
    pin: Pin,
    mut commits: watch::Receiver<CommitNumber>,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut stopping = false;
        while !stopping {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => stopping = true,
                changed = commits.changed() => stopping = changed.is_err(),
            }
            let commit = *commits.borrow_and_update();
            let (storage, seen) = (Arc::clone(&storage), Pin { commit, ..pin });
            let written =
                tokio::task::spawn_blocking(move || storage.pins.record(&storage.location, &seen));
            if let Ok(Err(error)) = written.await {
                tracing::warn!(%error, "freshness pin not updated");
            }
            if !stopping {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = tokio::time::sleep(PIN_INTERVAL) => {}
                }
            }
        }
    })
}

/// Has the kernel hand over written pages every `interval` until `stop`: by itself it may
/// keep them for half a minute, and a crash of this machine would lose that much.
pub(super) fn keep_pages_moving(
    shared: Arc<Shared>,
    interval: Duration,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(interval) => {}
            }
            if shared.mount.presence() != Presence::Mounted {
                continue;
            }
            if let Err(error) = shared.pages.write_back().await {
                tracing::warn!(%error, "the kernel did not hand over all written pages");
            }
        }
    })
}

/// Tells log and systemd when the health changes, until `stop`.
pub(super) fn keep_watch(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut last = HealthState::Ok;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(NOTIFY_INTERVAL) => {}
            }
            let health = shared.status().health;
            if health.state != last {
                last = health.state;
                let message = health.message.as_deref().unwrap_or("what is written is stored");
                tracing::warn!(state = last.name(), message, "health changed");
                notify::status(&format!("{}: {message}", last.name()));
            }
        }
    })
}
