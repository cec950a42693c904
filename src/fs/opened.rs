//! Who still refers to an inode: the kernel's look-ups and open handles.

use std::collections::HashMap;

use super::Handle;
use crate::base::Inode;
use crate::data::ReadAhead;

#[derive(Debug, Default, Clone, Copy)]
struct References {
    lookups: u64,
    handles: u64,
}

/// References to inodes. An inode without a name lives until its last one goes.
#[derive(Default)]
pub(super) struct Opened {
    references: HashMap<Inode, References>,
    handles: HashMap<Handle, ReadAhead>,
    next_handle: u64,
}

impl Opened {
    /// The kernel learned of `inode` once more.
    pub fn looked_up(&mut self, inode: Inode) {
        self.references.entry(inode).or_default().lookups += 1;
    }

    /// The kernel forgot `count` look-ups. Whether nobody refers to `inode` now.
    pub fn forget(&mut self, inode: Inode, count: u64) -> bool {
        let Some(references) = self.references.get_mut(&inode) else { return true };
        references.lookups = references.lookups.saturating_sub(count);
        self.drop_unused(inode)
    }

    /// A new handle of `inode`.
    pub fn open(&mut self, inode: Inode) -> Handle {
        self.references.entry(inode).or_default().handles += 1;
        self.next_handle += 1;
        let handle = Handle(self.next_handle);
        self.handles.insert(handle, ReadAhead::default());
        handle
    }

    /// Closes a handle. Whether nobody refers to `inode` now.
    pub fn close(&mut self, inode: Inode, handle: Handle) -> bool {
        if self.handles.remove(&handle).is_some()
            && let Some(references) = self.references.get_mut(&inode)
        {
            references.handles = references.handles.saturating_sub(1);
        }
        self.drop_unused(inode)
    }

    /// Where the readers of a handle are.
    pub fn read_ahead(&mut self, handle: Handle) -> Option<&mut ReadAhead> {
        self.handles.get_mut(&handle)
    }

    /// Drops all references to `inode`.
    pub fn forget_all(&mut self, inode: Inode) {
        self.references.remove(&inode);
    }

    /// Whether somebody refers to `inode`.
    pub fn refers(&self, inode: Inode) -> bool {
        self.references.contains_key(&inode)
    }

    fn drop_unused(&mut self, inode: Inode) -> bool {
        let unused = self.references.get(&inode).is_none_or(|r| r.lookups == 0 && r.handles == 0);
        if unused {
            self.references.remove(&inode);
        }
        unused
    }
}
