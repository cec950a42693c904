//! Telling the kernel to drop what it caches.
//!
//! The kernel may answer such a call only after it has written dirty pages back
//! or got a directory's lock from a process that waits for us. So a thread of
//! its own makes these calls, which holds no lock and serves no requests.
//!
//! ```text
//! follower: new state published -> Invalidator -> queue -> thread -> kernel drops its copy
//! writer:   lseek for data/hole -> Invalidator -> queue -> thread -> kernel writes dirty pages back
//! ```

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use fuser::{INodeNo, Notifier};
use tokio::sync::{mpsc, oneshot};

use crate::base::Inode;

/// Notices that may wait; who has more to tell waits for room.
const QUEUE_MAX: usize = 1024;

/// One thing to tell the kernel.
#[derive(Debug)]
pub(super) enum Notice {
    Inode {
        inode: Inode,
        offset: i64,
    },
    Entry {
        parent: Inode,
        name: Box<[u8]>,
    },
    Deleted {
        parent: Inode,
        inode: Inode,
        name: Box<[u8]>,
    },
    /// Everything before has been told.
    Reached(oneshot::Sender<()>),
    /// The session is over.
    Stop,
}

/// Makes the kernel forget what it caches of inodes and names.
///
/// Publish the new state first: the kernel asks again at once. Each call only
/// queues; [`settled`](Self::settled) waits. Cheap to clone. After the mount has
/// ended every call returns at once.
#[derive(Debug, Clone)]
pub struct Invalidator {
    queue: mpsc::Sender<Notice>,
}

impl Invalidator {
    pub(super) fn new() -> (Self, mpsc::Receiver<Notice>) {
        let (queue, notices) = mpsc::channel(QUEUE_MAX);
        (Self { queue }, notices)
    }

    /// Attributes, content and (of a directory) the listing of `inode` changed.
    pub async fn inode(&self, inode: Inode) {
        self.send(Notice::Inode { inode, offset: 0 }).await;
    }

    /// The name now stands for something else, or for something at all.
    pub async fn entry(&self, parent: Inode, name: &[u8]) {
        self.send(Notice::Entry { parent, name: name.into() }).await;
    }

    /// The name is gone, which also tells those who watch it with inotify.
    pub async fn deleted(&self, parent: Inode, inode: Inode, name: &[u8]) {
        self.send(Notice::Deleted { parent, inode, name: name.into() }).await;
    }

    /// Waits until the kernel has taken everything queued before.
    pub async fn settled(&self) {
        let (done, reached) = oneshot::channel();
        self.send(Notice::Reached(done)).await;
        // An error means that the session is over and nothing is cached any more.
        let _ = reached.await;
    }

    /// Makes the kernel write back what is dirty of `inode` from `offset` on.
    pub(super) async fn write_back(&self, inode: Inode, offset: u64) {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        self.send(Notice::Inode { inode, offset }).await;
        self.settled().await;
    }

    pub(super) fn stop(&self) {
        // Full: the thread stops by itself at its next call, which fails.
        let _ = self.queue.try_send(Notice::Stop);
    }

    async fn send(&self, notice: Notice) {
        // An error means that the session is over and nothing is cached any more.
        let _ = self.queue.send(notice).await;
    }
}

/// The thread's work, until the session is over.
pub(super) fn run(notifier: &Notifier, mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.blocking_recv() {
        let told = match notice {
            Notice::Inode { inode, offset } => notifier.inval_inode(INodeNo(inode.0), offset, 0),
            Notice::Entry { parent, name } => {
                notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(&name))
            }
            Notice::Deleted { parent, inode, name } => {
                notifier.delete(INodeNo(parent.0), INodeNo(inode.0), OsStr::from_bytes(&name))
            }
            Notice::Reached(done) => {
                let _ = done.send(());
                Ok(())
            }
            Notice::Stop => return,
        };
        match told {
            Ok(()) => {}
            Err(error) if session_is_over(&error) => return,
            // What the kernel does not cache it need not drop; its time to live bounds the rest.
            Err(error) => tracing::debug!(%error, "the kernel did not take an invalidation"),
        }
    }
}

fn session_is_over(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOTCONN | libc::ECONNABORTED))
}
