//! POSIX access control lists, as the kernel stores them in extended attributes.
//!
//! The kernel checks access; what is left to a file system is to keep an ACL
//! and the permission bits in step and to hand default ACLs down
//! (POSIX.1e draft 17, acl(5); layout: `linux/posix_acl_xattr.h`).

use bytes::Bytes;

use super::core::{Attempt, Tx};
use super::{FsError, NewNode};
pub(super) use crate::format::{ACCESS_ACL_NAME as ACCESS, DEFAULT_ACL_NAME as DEFAULT};
use crate::format::{
    FileKind, FormatError, InodeFlags, InodeRecord, Key, Reader, SETGID, SETUID, STICKY, Writer,
};

const VERSION: u32 = 2;
const ENTRIES_MAX: usize = 8 * 1024;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// An access control list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    pub fn decode(bytes: &[u8]) -> Result<Self, FsError> {
        parse(bytes).ok().flatten().ok_or(FsError::Invalid)
    }

    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(4 + 8 * self.0.len());
        out.u32(VERSION);
        for entry in &self.0 {
            out.bytes(&entry.tag.to_le_bytes()).bytes(&entry.permissions.to_le_bytes());
            out.u32(entry.id);
        }
        out.finish().into()
    }

    /// Whether permission bits say the same.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    fn find(&mut self, tag: u16) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.tag == tag)
    }

    /// The entry that the group bits of the mode show: the mask, where there is one.
    fn group_class(&mut self) -> Option<&mut Entry> {
        let tag = if self.0.iter().any(|entry| entry.tag == MASK) { MASK } else { GROUP_OBJ };
        self.find(tag)
    }

    /// The nine permission bits that this list stands for.
    pub fn permissions(&mut self) -> u16 {
        let bits = |entry: Option<&mut Entry>| entry.map_or(0, |entry| entry.permissions & 7);
        bits(self.find(USER_OBJ)) << 6 | bits(self.group_class()) << 3 | bits(self.find(OTHER))
    }

    /// Follows a change of the nine permission bits.
    pub fn set_permissions(&mut self, permissions: u16) {
        let set = |entry: Option<&mut Entry>, bits: u16| {
            if let Some(entry) = entry {
                entry.permissions = bits & 7;
            }
        };
        set(self.find(USER_OBJ), permissions >> 6);
        set(self.group_class(), permissions >> 3);
        set(self.find(OTHER), permissions);
    }

    /// Takes away what the creator did not ask for; gives back the bits that are left.
    fn restrict(&mut self, permissions: u16) -> u16 {
        let allowed = self.permissions() & permissions;
        self.set_permissions(allowed);
        allowed
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Acl>, FormatError> {
    let mut reader = Reader::new("access control list", bytes);
    if reader.u32()? != VERSION {
        return Ok(None);
    }
    let mut entries = Vec::new();
    while !reader.is_empty() && entries.len() < ENTRIES_MAX {
        let tag = u16::from_le_bytes(reader.array()?);
        let permissions = u16::from_le_bytes(reader.array()?);
        let id = reader.u32()?;
        entries.push(Entry { tag, permissions, id });
    }
    reader.finish()?;
    Ok(is_valid(&entries).then_some(Acl(entries)))
}

/// Whether this is a list, or one that is taken for none.
#[cfg(any(test, fuzzing))]
pub(crate) fn accepts_acl(bytes: &[u8]) -> bool {
    parse(bytes).is_ok()
}

/// Each of the three base entries once, a mask if anybody is named, nothing unknown.
fn is_valid(entries: &[Entry]) -> bool {
    let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
    let named = count(USER) + count(GROUP);
    let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
    entries.iter().all(|entry| known.contains(&entry.tag) && entry.permissions <= 7)
        && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1)
        && count(MASK) <= 1
        && (named == 0 || count(MASK) == 1)
}

/// What a new inode gets from its directory.
pub(super) struct Inherited {
    pub permissions: u16,
    pub acls: Vec<(&'static [u8], Bytes)>,
}

impl Tx<'_> {
    /// Permission bits and ACLs of a new inode: the directory's default ACL, or else the umask.
    pub fn inherited_acls(&mut self, node: &NewNode, parent: &InodeRecord) -> Attempt<Inherited> {
        let special = node.permissions & (SETUID | SETGID | STICKY);
        let inherits_group = parent.permissions & SETGID != 0 && node.kind == FileKind::Directory;
        let special = if inherits_group { special | SETGID } else { special };
        if node.kind == FileKind::Symlink {
            return Ok(Inherited { permissions: 0o777, acls: Vec::new() });
        }
        let default = if parent.flags.has(InodeFlags::DEFAULT_ACL) {
            self.get(&Key::xattr(node.parent, DEFAULT))?
        } else {
            None
        };
        let Some(default) = default else {
            let permissions = node.permissions & 0o777 & !node.umask | special;
            return Ok(Inherited { permissions, acls: Vec::new() });
        };
        let mut acl = Acl::decode(&default)?;
        let permissions = acl.restrict(node.permissions & 0o777) | special;
        let mut acls = Vec::new();
        if !acl.is_plain() {
            acls.push((ACCESS, acl.encode()));
        }
        if node.kind == FileKind::Directory {
            acls.push((DEFAULT, default));
        }
        Ok(Inherited { permissions, acls })
    }

    /// Brings a file's access ACL in step with new permission bits.
    pub fn chmod_acl(&mut self, inode: crate::base::Inode, record: &InodeRecord) -> Attempt<()> {
        if !record.flags.has(InodeFlags::ACCESS_ACL) {
            return Ok(());
        }
        let key = Key::xattr(inode, ACCESS);
        if let Some(bytes) = self.get(&key)? {
            let mut acl = Acl::decode(&bytes)?;
            acl.set_permissions(record.permissions & 0o777);
            self.set(key, Some(acl.encode()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        let entry = |&(tag, permissions, id)| Entry { tag, permissions, id };
        Acl(entries.iter().map(entry).collect())
    }

    fn extended() -> Acl {
        let none = u32::MAX;
        acl(&[(1, 7, none), (2, 6, 1000), (4, 5, none), (0x10, 6, none), (0x20, 4, none)])
    }

    #[test]
    fn group_bits_show_the_mask_where_there_is_one() {
        let mut acl = extended();
        assert_eq!(acl.permissions(), 0o764);
        acl.set_permissions(0o640);
        assert_eq!(acl.permissions(), 0o640);
        assert_eq!(acl.0[2].permissions, 5, "the group's own entry stays");
        assert_eq!(Acl::decode(&acl.encode()).unwrap(), acl);
    }

    #[test]
    fn creation_takes_away_what_was_not_asked_for() {
        assert_eq!(extended().restrict(0o600), 0o600);
        assert_eq!(extended().restrict(0o777), 0o764);
    }

    #[test]
    fn lists_without_base_entries_or_mask_are_refused() {
        let none = u32::MAX;
        let base = [(1, 7, none), (4, 5, none), (0x20, 4, none)];
        assert!(Acl::decode(&acl(&base).encode()).unwrap().is_plain());
        assert!(Acl::decode(&acl(&base[..2]).encode()).is_err());
        assert!(Acl::decode(&acl(&[&base[..], &[(2, 6, 1000)]].concat()).encode()).is_err());
        assert!(Acl::decode(b"").is_err());
        assert!(Acl::decode(&extended().encode()[..9]).is_err());
    }
}
