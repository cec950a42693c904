//! Inodes without a name: kept while somebody refers to them, then given back.
//!
//! An inode that loses its last name gets an orphan record in the same group.
//! When the last reference goes (or at the next mount, after a crash), its
//! content becomes a hole and its records go, again in one group.

use std::sync::Arc;
use std::time::Duration;

use super::core::{Attempt, Mode, Tx};
use super::system::{Inner, SCAN_RECORDS};
use super::{FileSystem, FsError, Handle};
use crate::base::{BlockIndex, ErrorKind, Inode};
use crate::format::{FileKind, InodeFlags, Key, KeyKind};

/// Pause after an orphan could not be given back.
const PAUSE: Duration = Duration::from_secs(5);

impl FileSystem {
    /// The kernel forgot `count` look-ups of `inode`.
    pub fn forget(&self, inode: Inode, count: u64) {
        let unused = self.inner.lock().opened.forget(inode, count);
        self.inner.unreferenced(inode, unused);
    }

    /// Closes a handle.
    pub fn release(&self, inode: Inode, handle: Handle) {
        let unused = self.inner.lock().opened.close(inode, handle);
        self.inner.unreferenced(inode, unused);
    }
}

impl Inner {
    /// Hands an orphan that nobody refers to to the reclaimer.
    fn unreferenced(&self, inode: Inode, unused: bool) {
        if unused && self.lock().orphans.contains(&inode) {
            self.reclaim_soon(inode);
        }
    }

    /// Hands an orphan to the reclaimer.
    pub fn reclaim_soon(&self, inode: Inode) {
        self.lock().reclaiming.insert(inode);
        self.waiting().push(inode);
        self.reclaim_wanted.notify_one();
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Inode>> {
        // A list of numbers is valid at every moment.
        self.unreferenced.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn next_waiting(&self) -> Option<Inode> {
        self.waiting().pop()
    }

    /// Gives back orphans until the mount closes.
    pub async fn run_reclaimer(self: Arc<Self>) {
        let fs = FileSystem { inner: self.clone() };
        let mut closing = self.closing.subscribe();
        loop {
            tokio::select! {
                () = self.reclaim_wanted.notified() => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
            while let Some(inode) = self.next_waiting() {
                let reclaimed = fs.reclaim(inode).await;
                self.lock().reclaiming.remove(&inode);
                if let Err(error) = reclaimed {
                    tracing::warn!("inode {inode} not given back yet: {error}");
                    if self.lock().mode != Mode::ReadWrite {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                    // The others first: this one may never be.
                    self.waiting().insert(0, inode);
                }
            }
        }
    }
}

impl FileSystem {
    /// Gives back the orphans that an earlier mount left behind.
    pub(super) async fn reclaim_leftovers(&self) -> Result<(), FsError> {
        let (mut start, end) = Key::range_of(KeyKind::Orphan);
        loop {
            let scanned = self.scan(&start, &end, SCAN_RECORDS).await?;
            for (key, _) in scanned.records {
                if let Some(inode) = Key::number(&key, 0) {
                    let mut core = self.inner.lock();
                    core.orphans.insert(Inode(inode));
                    core.reclaiming.insert(Inode(inode));
                    drop(core);
                    self.inner.waiting().push(Inode(inode));
                }
            }
            let Some(next) = scanned.next else { break };
            start = next;
        }
        self.inner.reclaim_wanted.notify_one();
        Ok(())
    }

    /// Gives back the orphans that nobody refers to, without waiting for their turn. Damaged ones stay.
    ///
    /// # Errors
    /// [`FsError::Io`] if the store does not answer, or the mount stores nothing any more.
    pub async fn reclaim_unreferenced(&self) -> Result<(), FsError> {
        let orphans: Vec<_> = {
            let core = self.inner.lock();
            core.orphans.iter().copied().filter(|inode| !core.opened.refers(*inode)).collect()
        };
        for inode in orphans {
            match self.reclaim(inode).await {
                // The background was quicker.
                Ok(()) | Err(FsError::NotFound) => {}
                // It must not keep the others, and all else that is collected, for ever.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::error!("inode {inode} cannot be given back: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives back all orphans, whoever still refers to them: the mount is ending.
    /// What fails stays an orphan, for the next mount.
    pub(super) async fn reclaim_all(&self) {
        let orphans: Vec<_> = self.inner.lock().orphans.iter().copied().collect();
        for inode in orphans {
            self.inner.lock().opened.forget_all(inode);
            if let Err(error) = self.reclaim(inode).await {
                tracing::warn!("inode {inode} not given back, left for the next mount: {error}");
                if error.kind() == ErrorKind::Retry {
                    // Each of the others would wait as long for a store that does not answer.
                    return;
                }
            }
        }
    }

    /// Gives back one orphan, unless it got a name or a reference again.
    async fn reclaim(&self, inode: Inode) -> Result<(), FsError> {
        let attributes = match self.run(move |tx| tx.inode(inode)).wait().await {
            Err(FsError::NotFound) => {
                return self.run(move |tx| tx.forget_orphan(inode)).wait().await;
            }
            other => other?,
        };
        let mut rest = Vec::new();
        if attributes.flags.has(InodeFlags::XATTRS) {
            rest.push(Key::range_of_xattrs(inode));
        }
        if attributes.kind == FileKind::Directory {
            rest.push(Key::range_under(KeyKind::Entry, inode, 0));
        }
        let mut keys = Vec::new();
        for (mut start, end) in rest {
            loop {
                let scanned = self.scan(&start, &end, SCAN_RECORDS).await?;
                keys.extend(scanned.records.into_iter().map(|(key, _)| Key::from_bytes(&key)));
                let Some(next) = scanned.next else { break };
                start = next;
            }
        }
        self.run(move |tx| tx.reclaim(inode, &keys)).wait().await
    }
}

impl Tx<'_> {
    /// Removes the record of an orphan that is not there.
    fn forget_orphan(&mut self, inode: Inode) -> Attempt<()> {
        self.change()?;
        self.set(Key::orphan(inode), None);
        Ok(())
    }

    /// Removes an orphan's records and content. `keys` are its attributes and tombstones.
    fn reclaim(&mut self, inode: Inode, keys: &[Key]) -> Attempt<()> {
        self.change()?;
        let record = self.inode(inode)?;
        if record.nlink > 0 || self.opened().refers(inode) {
            return Ok(());
        }
        for key in keys {
            self.set(key.clone(), None);
        }
        self.set(Key::inode(inode), None);
        self.set(Key::orphan(inode), None);
        self.inode_gone();
        let blocks = self.fixed().block_size.count(record.size);
        if record.kind == FileKind::Regular && blocks > 0 {
            self.group().make_hole(inode, BlockIndex(0), BlockIndex(blocks));
        }
        self.core().lost.forget(inode);
        Ok(())
    }
}
