//! Extended attributes.

use bytes::Bytes;

use super::acl::{self, Acl};
use super::core::{Attempt, Tx};
use super::{Caller, FsError, XattrMode};
use crate::base::Inode;
use crate::format::{FileKind, InodeFlags, InodeRecord, Key, SETGID, SETUID, STICKY};

/// Longest name of an attribute in bytes (`XATTR_NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;

/// Largest value in bytes (`XATTR_SIZE_MAX`).
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Namespaces that are kept; the kernel checks who may use which.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

fn check(name: &[u8], record: &InodeRecord) -> Result<(), FsError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(FsError::Invalid);
    }
    let acl_fits = match name {
        acl::ACCESS => record.kind != FileKind::Symlink,
        acl::DEFAULT => record.is_directory(),
        _ => NAMESPACES.iter().any(|namespace| name.starts_with(namespace)),
    };
    if acl_fits { Ok(()) } else { Err(FsError::NotSupported) }
}

/// Takes over the permission bits of a new ACL; whether it has to be stored besides.
fn follow_acl(
    record: &mut InodeRecord,
    flag: u32,
    value: &Bytes,
    caller: Caller,
) -> Result<bool, FsError> {
    let mut acl = Acl::decode(value)?;
    let stored = flag == InodeFlags::DEFAULT_ACL || !acl.is_plain();
    record.flags.set(flag, stored);
    if flag == InodeFlags::ACCESS_ACL {
        record.permissions = record.permissions & (SETUID | SETGID | STICKY) | acl.permissions();
        // Who is not in the group must not keep it by way of an ACL; the
        // supplementary groups are not known here, so they do not count.
        if caller.uid != 0 && caller.gid != record.gid {
            record.permissions &= !SETGID;
        }
    }
    Ok(stored)
}

impl Tx<'_> {
    pub fn getxattr(&mut self, inode: Inode, name: &[u8]) -> Attempt<Bytes> {
        let record = self.inode(inode)?;
        check(name, &record)?;
        let acl = InodeFlags::of_xattr(name);
        if !record.flags.has(InodeFlags::XATTRS) || !record.flags.has(acl) {
            return Err(FsError::NoData.into());
        }
        Ok(self.get(&Key::xattr(inode, name))?.ok_or(FsError::NoData)?)
    }

    pub fn setxattr(
        &mut self,
        inode: Inode,
        name: &[u8],
        value: &Bytes,
        mode: XattrMode,
        caller: Caller,
    ) -> Attempt<()> {
        self.change()?;
        let mut record = self.inode(inode)?;
        check(name, &record)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(FsError::TooBig.into());
        }
        let key = Key::xattr(inode, name);
        let exists = record.flags.has(InodeFlags::XATTRS) && self.get(&key)?.is_some();
        match (mode, exists) {
            (XattrMode::Create, true) => return Err(FsError::Exists.into()),
            (XattrMode::Replace, false) => return Err(FsError::NoData.into()),
            _ => {}
        }
        let stored = match InodeFlags::of_xattr(name) {
            0 => true,
            flag => follow_acl(&mut record, flag, value, caller)?,
        };
        if stored {
            record.flags.set(InodeFlags::XATTRS, true);
        }
        self.set(key, stored.then(|| value.clone()));
        record.ctime = self.now;
        self.set_inode(inode, &record);
        Ok(())
    }

    pub fn removexattr(&mut self, inode: Inode, name: &[u8]) -> Attempt<()> {
        self.change()?;
        let mut record = self.inode(inode)?;
        check(name, &record)?;
        let key = Key::xattr(inode, name);
        if !record.flags.has(InodeFlags::XATTRS) || self.get(&key)?.is_none() {
            // Removing an ACL that is not there is no error (as for ext4).
            return if InodeFlags::of_xattr(name) == 0 {
                Err(FsError::NoData.into())
            } else {
                Ok(())
            };
        }
        self.set(key, None);
        record.flags.set(InodeFlags::of_xattr(name), false);
        record.ctime = self.now;
        self.set_inode(inode, &record);
        Ok(())
    }
}
