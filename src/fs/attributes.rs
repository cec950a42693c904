//! Attributes: reading and changing them.

use super::core::{Attempt, Tx};
use super::{Attributes, NewTime, SetAttributes};
use crate::base::{Inode, Timestamp};
use crate::format::{InodeRecord, Key, SETGID, SETUID};

const GROUP_EXECUTE: u16 = 0o010;

/// The attribute that gives a program capabilities; it goes when others may have changed the file.
const CAPABILITY: &[u8] = b"security.capability";

/// Bytes in the unit of `st_blocks`.
const STAT_BLOCK_BYTES: u64 = 512;

impl Tx<'_> {
    pub fn attributes(&mut self, inode: Inode) -> Attempt<Attributes> {
        let record = self.inode(inode)?;
        let blocks = self.stat_blocks(inode, &record);
        Ok(Attributes { inode, record, blocks })
    }

    /// Committed content, and an upper estimate of what is not committed: a file
    /// with written bytes must never look like one hole to a program that copies.
    fn stat_blocks(&mut self, inode: Inode, record: &InodeRecord) -> u64 {
        let block_bytes = self.fixed().block_size.bytes();
        let edited = self.core().groups().filter_map(|group| group.files.get(&inode));
        let edited_blocks: u64 = edited.map(crate::data::FileEdits::edited_count).sum();
        let bytes = record.allocated.saturating_add(edited_blocks.saturating_mul(block_bytes));
        let bytes = if edited_blocks > 0 { bytes.min(record.size) } else { bytes };
        bytes.div_ceil(STAT_BLOCK_BYTES)
    }

    pub fn setattr(&mut self, inode: Inode, changes: SetAttributes) -> Attempt<Attributes> {
        self.change()?;
        let mut record = self.inode(inode)?;
        if changes.uid.is_some() || changes.gid.is_some() {
            record.uid = changes.uid.unwrap_or(record.uid);
            record.gid = changes.gid.unwrap_or(record.gid);
            self.kill_privileges(inode, &mut record);
        }
        if let Some(permissions) = changes.permissions {
            record.permissions = permissions & 0o7777;
            self.chmod_acl(inode, &record)?;
        }
        if changes.size.is_some() {
            record.mtime = self.now;
            if changes.caller.uid != 0 {
                self.kill_privileges(inode, &mut record);
            }
        }
        let now = self.now;
        let time = |new: NewTime| match new {
            NewTime::Now => now,
            NewTime::At(time) => time,
        };
        record.atime = changes.atime.map_or(record.atime, time);
        record.mtime = changes.mtime.map_or(record.mtime, time);
        record.ctime = changes.ctime.unwrap_or(now);
        match changes.size {
            Some(size) => self.truncate(inode, &mut record, size)?,
            None => self.set_inode(inode, &record),
        }
        let blocks = self.stat_blocks(inode, &record);
        Ok(Attributes { inode, record, blocks })
    }

    /// Takes setuid, setgid of an executable and file capabilities away.
    pub fn kill_privileges(&mut self, inode: Inode, record: &mut InodeRecord) {
        if record.is_directory() {
            return;
        }
        record.permissions &= !SETUID;
        if record.permissions & GROUP_EXECUTE != 0 {
            record.permissions &= !SETGID;
        }
        if record.flags.has(crate::format::InodeFlags::XATTRS) {
            self.set(Key::xattr(inode, CAPABILITY), None);
        }
    }

    /// Content changed now.
    pub fn modified(&self, record: &mut InodeRecord) {
        let now: Timestamp = self.now;
        record.mtime = now;
        record.ctime = now;
    }
}
