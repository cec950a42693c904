//! `lidfs umount`

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::mount::mount_place;
use super::progress::ask_with_progress;
use super::{Exit, Failure, target};
use crate::daemon::{self, Entry, FILE_SYSTEM_TYPE, HealthState, Request};
use crate::fuse::mount_type_at;

/// How often it is looked whether the daemon has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a daemon may take to end after it has stored and unmounted everything.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// Unmount; returns when everything is in the bucket
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The mount point
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Give up waiting after this time, such as "2 min", and leave it mounted; default: never
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let place = mount_place(&args.mountpoint)?;
    let Some(entry) = daemon::find(&place).filter(|entry| entry.mountpoint == place) else {
        return without_daemon(&place);
    };
    let started = Instant::now();
    // What takes long is done while the mount still serves; what was not done
    // in time leaves it mounted. A fenced mount can store nothing any more.
    if target::status(&entry)?.health.state != HealthState::Fenced {
        ask_with_progress(&entry, Request::Flush, args.timeout)?;
    }
    let left = args
        .timeout
        .map(|timeout| timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1)));
    target::ask(&entry, Request::Unmount, left)?;
    let unmounted = Instant::now();
    while daemon::is_alive(entry.pid) {
        if unmounted.elapsed() > END_TIMEOUT {
            return Err(Failure::new(
                Exit::Failure,
                format!(
                    "everything is stored, but process {} does not end; see its log",
                    entry.pid
                ),
            ));
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// Nothing is mounted at `place` itself.
fn inside(place: &Path, holder: &Entry) -> Failure {
    let (place, mount) = (place.display(), holder.mountpoint.display());
    let message = format!(
        "{place}: not a mount point but a place in {mount}; `lidfs umount {mount}` ends that"
    );
    Failure::new(Exit::Mountpoint, message)
}

/// A mount whose daemon died is taken away: it has nothing left to store.
fn without_daemon(place: &Path) -> Result<(), Failure> {
    let path = place.display();
    let mounted = mount_type_at(place)
        .map_err(|error| Failure::new(Exit::Failure, format!("the list of mounts: {error}")))?;
    if mounted.as_deref() != Some(FILE_SYSTEM_TYPE) {
        return target::find(place).and_then(|holder| Err(inside(place, &holder)));
    }
    match daemon::unmount(place, true) {
        Ok(()) => {
            eprintln!(
                "lidfs: {path}: its daemon was gone; what was not in the bucket by then is lost, every fsync that returned is kept"
            );
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Failure::new(
            Exit::Mountpoint,
            format!("{path}: mounted by another user; unmount it as that user"),
        )),
        Err(error) => Err(Failure::new(Exit::Mountpoint, format!("{path}: {error}"))),
    }
}
