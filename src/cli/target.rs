//! From a path to the daemon that serves it.

use std::path::Path;
use std::time::Duration;

use super::{Exit, Failure, mount::mount_place};
use crate::daemon::{self, Entry, FILE_SYSTEM_TYPE, Request, Response, Status};
use crate::fuse::mount_type_at;

/// How long a daemon may take to tell how things stand.
pub(super) const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

/// The daemon that serves the mount at `path` or above it.
///
/// # Errors
/// Nothing of ours is mounted there, or its daemon is gone.
pub(super) fn find(path: &Path) -> Result<Entry, Failure> {
    let place = mount_place(path)?;
    daemon::find(&place).ok_or_else(|| {
        let ours =
            mount_type_at(&place).is_ok_and(|kind| kind.as_deref() == Some(FILE_SYSTEM_TYPE));
        let path = place.display();
        let message = if ours {
            format!("{path}: its daemon does not answer: it died, or belongs to another user; end the mount with `lidfs umount {path}` as the user who mounted it")
        } else {
            format!("{path}: no lidfs is mounted there by this user; `lidfs status` lists those that are")
        };
        Failure::new(Exit::Mountpoint, message)
    })
}

/// Asks a daemon for what it does not refuse.
///
/// # Errors
/// It did not answer in time, ended, or says why not.
pub(super) fn ask(
    entry: &Entry,
    request: Request,
    timeout: Option<Duration>,
) -> Result<Response, Failure> {
    let place = entry.mountpoint.display();
    match daemon::ask(&entry.socket, request, timeout) {
        Ok(Response::Failed { message, busy }) => {
            let exit = if busy { Exit::Mountpoint } else { Exit::Failure };
            Err(Failure::new(exit, message))
        }
        Ok(response) => Ok(response),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err(Failure::new(
            Exit::Failure,
            format!(
                "{place}: not done in time; it goes on in the background, see `lidfs status {place}`"
            ),
        )),
        Err(error) => Err(Failure::new(
            Exit::Failure,
            format!("{place}: no answer from process {}: {error}; see its log", entry.pid),
        )),
    }
}

/// How the mount of `entry` stands.
///
/// # Errors
/// As [`ask`].
pub(super) fn status(entry: &Entry) -> Result<Status, Failure> {
    match ask(entry, Request::Status, Some(STATUS_TIMEOUT))? {
        Response::Status(status) => Ok(*status),
        Response::Done | Response::Collected(_) | Response::Failed { .. } => Err(Failure::new(
            Exit::Failure,
            "the daemon answered something else; use the lidfs of its version",
        )),
    }
}
