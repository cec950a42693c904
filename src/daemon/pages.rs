//! The thread that has the kernel hand over written pages.
//!
//! It waits in the kernel until this very process has taken them. Were the process
//! killed meanwhile, the thread would live until it is answered; and if it shared
//! the table of descriptors, the connection to the kernel would live as long as
//! the thread: nobody would ever answer, and whoever uses the mount would hang.
//! So it has a table of its own, without that connection. Of the other threads only the one
//! for notices (`fuse/invalidate.rs`) may wait for its own mount, which it cannot do without
//! the connection: for a seek to data, and for a flush where syncfs does not wait.
//!
//! Invariant: it uses no descriptor but those it opens. So it neither logs nor wakes
//! tasks (which takes an eventfd): it is talked to through channels of the standard
//! library.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use super::system;

/// Who may wait at once; more wait for room.
const QUEUE_MAX: usize = 64;

type Waiting = Sender<io::Result<()>>;

/// Asks the thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pages {
    queue: SyncSender<Waiting>,
}

impl Pages {
    /// Starts the thread for the mount at `mountpoint`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(mountpoint: PathBuf) -> io::Result<Self> {
        let (queue, asked) = sync_channel(QUEUE_MAX);
        let (ready, started) = channel();
        thread::Builder::new().name("lidfs-pages".into()).spawn(move || {
            // Who waits for it has nothing to do with how it went.
            let _ = ready.send(system::leave_descriptors());
            serve(&mountpoint, &asked);
        })?;
        if let Ok(Err(error)) = started.recv() {
            // Before Linux 5.9, or forbidden. All works, but for the one thing said above.
            tracing::warn!(%error, "no descriptor table of its own for the thread of written pages");
        }
        Ok(Self { queue })
    }

    /// On return the file system has every page that was written before the call.
    ///
    /// # Errors
    /// It has not taken them all, or the mount is not there.
    pub(super) async fn write_back(&self) -> io::Result<()> {
        let queue = self.queue.clone();
        let asking = move || {
            let (waiting, answer) = channel();
            queue.send(waiting).map_err(|_| ended())?;
            answer.recv().unwrap_or_else(|_| Err(ended()))
        };
        tokio::task::spawn_blocking(asking).await.unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread for written pages has ended")
}

fn serve(mountpoint: &Path, asked: &Receiver<Waiting>) {
    while let Ok(first) = asked.recv() {
        // Who has asked by now is served by the same call.
        let all: Vec<Waiting> = std::iter::once(first).chain(asked.try_iter()).collect();
        let done = system::write_back(mountpoint);
        for waiting in all {
            let copy = match &done {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            // Who gave up waiting needs no answer.
            let _ = waiting.send(copy);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What `lidfs-pages` of this process has open, by the names of the files.
    fn open_in_the_thread() -> Vec<String> {
        let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let is_pages = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "lidfs-pages")
        };
        let open = |task: PathBuf| {
            let all = fs::read_dir(task.join("fd")).unwrap();
            all.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
                .map(|file| file.display().to_string())
                .collect::<Vec<_>>()
        };
        tasks.filter(is_pages).flat_map(open).collect()
    }

    #[tokio::test]
    async fn pages_are_handed_over_without_a_hold_on_the_daemons_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let held = fs::File::create(dir.path().join("held")).unwrap();
        let pages = Pages::start(dir.path().to_owned()).unwrap();
        pages.write_back().await.unwrap();
        let open = open_in_the_thread();
        assert!(!open.is_empty() && !open.iter().any(|file| file.ends_with("held")), "{open:?}");
        held.sync_all().unwrap();
    }

    #[tokio::test]
    async fn a_mount_point_that_is_gone_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let pages = Pages::start(dir.path().join("gone")).unwrap();
        let error = pages.write_back().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
