//! The operations that FUSE carries, each answered at once where memory suffices.

use bytes::Bytes;

use super::content::ReadPlan;
use super::core::{Mode, Stop, Tx};
use super::packing::io;
use super::{
    Allocate, Attributes, Caller, CopyRange, FileSystem, FsError, Handle, NewNode, Outcome,
    RenameMode, SetAttributes, WriteOrigin, XattrMode,
};
use crate::base::Inode;
use crate::data::{ChunkRef, DataError};
use crate::format::FileKind;

impl FileSystem {
    /// The inode that a name stands for; counts one look-up.
    pub fn lookup(&self, parent: Inode, name: &[u8]) -> Outcome<Attributes> {
        let name: Box<[u8]> = name.into();
        self.run(move |tx| tx.lookup(parent, &name))
    }

    /// An inode's attributes.
    pub fn getattr(&self, inode: Inode) -> Outcome<Attributes> {
        self.run(move |tx| tx.attributes(inode))
    }

    /// Changes attributes.
    pub fn setattr(&self, inode: Inode, changes: SetAttributes) -> Outcome<Attributes> {
        self.run(move |tx| tx.setattr(inode, changes))
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, inode: Inode) -> Outcome<Bytes> {
        self.run(move |tx| {
            let record = tx.inode(inode)?;
            match record.kind {
                FileKind::Symlink => Ok(Bytes::from(record.target.into_vec())),
                _ => Err(FsError::Invalid.into()),
            }
        })
    }

    /// Makes an inode and a name for it; counts one look-up.
    pub fn make(&self, node: NewNode) -> Outcome<Attributes> {
        self.run(move |tx| tx.make(&node))
    }

    /// Makes a file and opens it; counts one look-up.
    pub fn create(&self, node: NewNode) -> Outcome<(Attributes, Handle)> {
        self.run(move |tx| tx.create(&node))
    }

    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: Inode, name: &[u8]) -> Outcome<()> {
        let name: Box<[u8]> = name.into();
        self.run(move |tx| tx.unlink(parent, &name))
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Inode, name: &[u8]) -> Outcome<()> {
        let name: Box<[u8]> = name.into();
        self.run(move |tx| tx.rmdir(parent, &name))
    }

    /// Moves a name.
    pub fn rename(
        &self,
        parent: Inode,
        name: &[u8],
        new_parent: Inode,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Outcome<()> {
        let (name, new_name): (Box<[u8]>, Box<[u8]>) = (name.into(), new_name.into());
        self.run(move |tx| tx.rename((parent, &name), (new_parent, &new_name), mode))
    }

    /// Gives an inode another name; counts one look-up.
    pub fn link(&self, inode: Inode, new_parent: Inode, new_name: &[u8]) -> Outcome<Attributes> {
        let name: Box<[u8]> = new_name.into();
        self.run(move |tx| tx.link(inode, new_parent, &name))
    }

    /// Opens a file or directory.
    pub fn open(&self, inode: Inode) -> Outcome<Handle> {
        self.run(move |tx| {
            tx.inode(inode)?;
            Ok(tx.opened().open(inode))
        })
    }

    /// Writes `data` at `offset`.
    pub fn write(
        &self,
        inode: Inode,
        offset: u64,
        data: &[u8],
        origin: WriteOrigin,
    ) -> Outcome<u32> {
        let written = self.try_write(inode, offset, data, origin);
        self.keep_in_mind(inode, origin, written)
    }

    fn try_write(
        &self,
        inode: Inode,
        offset: u64,
        data: &[u8],
        origin: WriteOrigin,
    ) -> Outcome<u32> {
        // Without a copy where nothing has to be waited for.
        match self.inner.attempt(&mut |tx: &mut Tx<'_>| tx.write(inode, offset, data, origin)) {
            Ok(len) => Outcome::Ready(Ok(len)),
            Err(Stop::Fail(error)) => Outcome::Ready(Err(error)),
            Err(_) => {
                let data = data.to_vec();
                self.run(move |tx| tx.write(inode, offset, &data, origin))
            }
        }
    }

    /// Reads up to `len` bytes from `offset` on; fewer only at the end of the file.
    pub fn read(&self, inode: Inode, handle: Handle, offset: u64, len: u32) -> Outcome<Bytes> {
        let len = u64::from(len);
        self.read_ahead(inode, handle, offset, len);
        let plan = self.run(move |tx| {
            let plan = tx.core().plan_read(inode, offset, len)?;
            if plan.is_small_file {
                tx.core().neighbourhood.on_read(inode, plan.len as u64);
            }
            Ok(plan)
        });
        let plan = match plan {
            Outcome::Ready(Ok(plan)) => plan,
            Outcome::Ready(Err(error)) => return Outcome::Ready(Err(error)),
            Outcome::Pending(plan) => {
                let fs = self.clone();
                return self
                    .start(async move { fs.carry_out(inode, offset, len, plan.await?).await });
            }
        };
        let chunks = plan.chunks();
        let cached = chunks.iter().map(|(chunk, _)| self.inner.reader.cached(chunk));
        if let Some(contents) = cached.collect::<Option<Vec<_>>>() {
            return Outcome::Ready(plan.assemble(contents));
        }
        let fs = self.clone();
        self.start(async move { fs.carry_out(inode, offset, len, plan).await })
    }

    async fn carry_out(
        &self,
        inode: Inode,
        offset: u64,
        len: u64,
        mut plan: ReadPlan,
    ) -> Result<Bytes, FsError> {
        let mut chunks = plan.chunks();
        let missing = |(chunk, _): &(ChunkRef, _)| !self.inner.reader.is_coming(chunk);
        let mut look = None;
        if plan.is_small_file && chunks.iter().any(missing) {
            look = self.neighbours(inode).await;
        }
        loop {
            let reading = self.inner.reader.read(&chunks);
            // Only now: on a slow line, what this reader waits for is before it.
            if let Some(look) = look.take() {
                self.start_look(look);
            }
            let error = match reading.await {
                Ok(contents) => return plan.assemble(contents),
                Err(error) => error,
            };
            // The block may have moved since, and its old pack may be gone.
            if matches!(error, DataError::Missing { .. }) {
                plan = self.run(move |tx| tx.core().plan_read(inode, offset, len)).wait().await?;
                let moved = plan.chunks();
                if moved != chunks {
                    chunks = moved;
                    continue;
                }
            }
            return Err(io(&error));
        }
    }

    /// Starts to fetch what a sequential reader will want next.
    fn read_ahead(&self, inode: Inode, handle: Handle, offset: u64, len: u64) {
        let room = self.inner.reader.room_ahead();
        let range = {
            let mut core = self.inner.lock();
            let Ok(record) = core.inode(inode) else { return };
            let Some(state) = core.opened.read_ahead(handle) else { return };
            state.on_read(offset, len, record.size, room)
        };
        let Some(range) = range else { return };
        let reader = self.inner.reader.clone();
        let plan =
            self.run(move |tx| tx.core().plan_read(inode, range.start, range.end - range.start));
        match plan {
            Outcome::Ready(Ok(plan)) => reader.prefetch(plan.chunks()),
            Outcome::Ready(Err(_)) => {}
            // A reader that comes here meets the error itself.
            Outcome::Pending(plan) => drop(self.inner.runtime.spawn(async move {
                if let Ok(plan) = plan.await {
                    reader.prefetch(plan.chunks());
                }
            })),
        }
    }

    /// On `Ok`, everything before the call is in the bucket: of this inode and of all others, but
    /// for files that lost bytes.
    pub fn fsync(&self, inode: Inode) -> Outcome<()> {
        match self.inner.wait_for_commit() {
            Ok(None) => return Outcome::Ready(self.inner.check_not_lost(inode)),
            Err(error) => return Outcome::Ready(Err(error)),
            Ok(Some(_)) => {}
        }
        let inner = self.inner.clone();
        Outcome::Pending(Box::pin(async move {
            inner.within(inner.clone().flush_all()).await?;
            inner.check_not_lost(inode)
        }))
    }

    /// Reserves, punches or zeroes a range.
    pub fn fallocate(&self, inode: Inode, offset: u64, len: u64, how: Allocate) -> Outcome<()> {
        self.run(move |tx| tx.fallocate(inode, offset, len, how))
    }

    /// Copies a range by sharing what is stored; may copy less than asked for.
    pub fn copy_range(&self, range: CopyRange) -> Outcome<u64> {
        self.run(move |tx| tx.copy_range(range))
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, inode: Inode, name: &[u8]) -> Outcome<Bytes> {
        let name: Box<[u8]> = name.into();
        self.run(move |tx| tx.getxattr(inode, &name))
    }

    /// Sets an extended attribute.
    pub fn setxattr(
        &self,
        inode: Inode,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        caller: Caller,
    ) -> Outcome<()> {
        let (name, value): (Box<[u8]>, _) = (name.into(), Bytes::copy_from_slice(value));
        self.run(move |tx| tx.setxattr(inode, &name, &value, mode, caller))
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, inode: Inode, name: &[u8], _caller: Caller) -> Outcome<()> {
        let name: Box<[u8]> = name.into();
        self.run(move |tx| tx.removexattr(inode, &name))
    }

    /// Whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.inner.lock().mode != Mode::ReadWrite
    }
}
