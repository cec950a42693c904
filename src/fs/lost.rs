//! Lost writes: what the kernel had taken over from programs, and this file system refused.
//!
//! With its write-back cache the kernel accepts bytes first and hands them over
//! later. If they are refused then (an outage that outlasts the deadline while
//! all memory for dirty bytes is in use), the kernel drops them and tells only
//! the next fsync or close. So it is kept here: fsync of such a file and flushes
//! of the volume fail from then on, until the file is truncated to nothing, to
//! be written anew, or removed, or the mount ends. Ending the mount tells it once more.
//! A commit that meets a damaged page of a file's block map marks the file likewise.

use std::collections::HashSet;

use super::core::Core;
use super::system::Inner;
use super::{FileSystem, FsError, Outcome, WriteOrigin};
use crate::base::{ErrorKind, Inode};

/// Files that lost bytes which a program believes to be written.
#[derive(Debug, Default)]
pub(super) struct LostWrites(HashSet<Inode>);

impl LostWrites {
    /// Bytes of `inode` are lost.
    pub fn add(&mut self, inode: Inode) {
        self.0.insert(inode);
    }

    /// The content of `inode` is given up, or begins anew.
    pub fn forget(&mut self, inode: Inode) {
        self.0.remove(&inode);
    }

    pub fn contains(&self, inode: Inode) -> bool {
        self.0.contains(&inode)
    }
}

impl Core {
    /// Files that lost bytes and have a name.
    pub fn lost_files(&self) -> impl Iterator<Item = Inode> {
        self.lost.0.iter().copied().filter(|inode| !self.orphans.contains(inode))
    }
}

impl Inner {
    /// Fails if `inode` lost bytes.
    pub fn check_not_lost(&self, inode: Inode) -> Result<(), FsError> {
        if self.lock().lost.contains(inode) { Err(lost(inode)) } else { Ok(()) }
    }

    /// Fails if any file lost bytes.
    pub fn check_nothing_lost(&self) -> Result<(), FsError> {
        self.lock().lost_files().next().map_or(Ok(()), |inode| Err(lost(inode)))
    }
}

impl FileSystem {
    /// Keeps in mind that a write was refused, if nobody but the kernel learns of it.
    pub(super) fn keep_in_mind(
        &self,
        inode: Inode,
        origin: WriteOrigin,
        written: Outcome<u32>,
    ) -> Outcome<u32> {
        if !origin.from_cache {
            return written;
        }
        let fs = self.clone();
        let note = move |written: Result<u32, FsError>| {
            // Of a file that is gone nobody misses anything.
            if let Err(error) = written.as_ref()
                && !matches!(error, FsError::NotFound)
            {
                tracing::error!("inode {inode}: written bytes are lost: {error}");
                fs.inner.lock().lost.add(inode);
            }
            written
        };
        match written {
            Outcome::Ready(written) => Outcome::Ready(note(written)),
            Outcome::Pending(work) => Outcome::Pending(Box::pin(async move { note(work.await) })),
        }
    }
}

fn lost(inode: Inode) -> FsError {
    let message = format!(
        "inode {inode}: bytes written to it could not be stored and are lost: write it anew \
         from length 0, or remove it (find -inum {inode})"
    );
    FsError::Io { message, kind: ErrorKind::Full }
}
