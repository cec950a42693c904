//! The inode record: attributes of one file, directory, link or device.

use super::{FormatError, Reader, Writer};
use crate::base::{FILE_SIZE_MAX, Inode, Timestamp};

const VERSION: u8 = 1;
const WHAT: &str = "inode record";

/// Permission bit: a program runs as its owner.
pub const SETUID: u16 = 0o4000;
/// Permission bit: a program runs as its group; what is made in a directory gets its group.
pub const SETGID: u16 = 0o2000;
/// Permission bit: only owners remove names from a directory.
pub const STICKY: u16 = 0o1000;

/// The extended attribute with an access ACL.
pub const ACCESS_ACL_NAME: &[u8] = b"system.posix_acl_access";
/// The extended attribute with a default ACL.
pub const DEFAULT_ACL_NAME: &[u8] = b"system.posix_acl_default";

/// What an inode is; the value is the type part of `st_mode` shifted right by 12 (as in `d_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileKind {
    /// Named pipe.
    Fifo = 1,
    /// Character device.
    CharDevice = 2,
    /// Directory.
    Directory = 4,
    /// Block device.
    BlockDevice = 6,
    /// Regular file.
    Regular = 8,
    /// Symbolic link.
    Symlink = 10,
    /// Socket.
    Socket = 12,
}

impl FileKind {
    /// From the type part of `st_mode` shifted right by 12.
    pub fn from_type(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Fifo,
            2 => Self::CharDevice,
            4 => Self::Directory,
            6 => Self::BlockDevice,
            8 => Self::Regular,
            10 => Self::Symlink,
            12 => Self::Socket,
            _ => return None,
        })
    }
}

/// Facts about an inode that spare a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InodeFlags(pub u32);

impl InodeFlags {
    /// The inode may have extended attributes.
    pub const XATTRS: u32 = 1;
    /// The inode has a POSIX access ACL.
    pub const ACCESS_ACL: u32 = 2;
    /// The directory has a default ACL.
    pub const DEFAULT_ACL: u32 = 4;

    /// The flag that goes with an extended attribute; 0 if none does.
    pub fn of_xattr(name: &[u8]) -> u32 {
        match name {
            ACCESS_ACL_NAME => Self::ACCESS_ACL,
            DEFAULT_ACL_NAME => Self::DEFAULT_ACL,
            _ => 0,
        }
    }

    /// Whether all bits of `flag` are set.
    pub fn has(self, flag: u32) -> bool {
        self.0 & flag == flag
    }

    /// Sets or clears `flag`.
    pub fn set(&mut self, flag: u32, on: bool) {
        if on { self.0 |= flag } else { self.0 &= !flag }
    }
}

/// Attributes of one inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InodeRecord {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with [`SETUID`], [`SETGID`] and [`STICKY`] (12 bits).
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links; of a directory: 2 and one for each subdirectory.
    pub nlink: u32,
    /// Device number of a device node, in the kernel's encoding.
    pub rdev: u32,
    /// Bytes in a file, bytes of a link's target; 0 for others.
    pub size: u64,
    /// Bytes of committed content, holes not counted.
    pub allocated: u64,
    /// Last access, as set by `utimensat` (reads do not change it).
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// The directory that holds this directory; 0 for anything but a directory.
    pub parent: Inode,
    /// Entries in a directory, `.` and `..` not counted.
    pub entries: u64,
    /// Facts that spare a look-up.
    pub flags: InodeFlags,
    /// Target of a symbolic link.
    pub target: Box<[u8]>,
}

impl InodeRecord {
    /// `st_mode`: type and permissions.
    pub fn mode(&self) -> u32 {
        u32::from(self.kind as u8) << 12 | u32::from(self.permissions)
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(96 + self.target.len());
        out.u8(VERSION).varint(u64::from(self.mode()));
        out.varint(u64::from(self.uid)).varint(u64::from(self.gid));
        out.varint(u64::from(self.nlink)).varint(u64::from(self.rdev));
        out.varint(self.size).varint(self.allocated);
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            out.u64(time.seconds.cast_unsigned()).u32(time.nanos);
        }
        out.varint(self.parent.0).varint(self.entries);
        out.varint(u64::from(self.flags.0)).string(&self.target);
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, bytes);
        if reader.u8()? != VERSION {
            return Err(reader.invalid());
        }
        let mode = reader.varint32()?;
        let kind = u8::try_from(mode >> 12).ok().and_then(FileKind::from_type);
        let record = Self {
            kind: kind.ok_or_else(|| reader.invalid())?,
            permissions: (mode & 0o7777) as u16,
            uid: reader.varint32()?,
            gid: reader.varint32()?,
            nlink: reader.varint32()?,
            rdev: reader.varint32()?,
            size: reader.varint()?,
            allocated: reader.varint()?,
            atime: time(&mut reader)?,
            mtime: time(&mut reader)?,
            ctime: time(&mut reader)?,
            btime: time(&mut reader)?,
            parent: Inode(reader.varint()?),
            entries: reader.varint()?,
            flags: InodeFlags(reader.varint32()?),
            target: reader.string()?.into(),
        };
        if record.size > FILE_SIZE_MAX {
            return Err(reader.invalid());
        }
        reader.finish()?;
        Ok(record)
    }
}

fn time(reader: &mut Reader<'_>) -> Result<Timestamp, FormatError> {
    let seconds = reader.u64()?.cast_signed();
    let nanos = reader.u32()?;
    if nanos >= 1_000_000_000 {
        return Err(reader.invalid());
    }
    Ok(Timestamp { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> InodeRecord {
        let time = |seconds| Timestamp { seconds, nanos: 999_999_999 };
        InodeRecord {
            kind: FileKind::Symlink,
            permissions: 0o4755,
            uid: u32::MAX,
            gid: 7,
            nlink: 1,
            rdev: 0,
            size: 6,
            allocated: 0,
            atime: time(-1),
            mtime: time(5_000_000_000),
            ctime: time(0),
            btime: time(1),
            parent: Inode(0),
            entries: 0,
            flags: InodeFlags(InodeFlags::XATTRS),
            target: b"target"[..].into(),
        }
    }

    #[test]
    fn inode_reads_back_what_was_written() {
        assert_eq!(InodeRecord::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn no_size_beyond_the_largest_is_read() {
        let file = |size| InodeRecord { size, ..sample() };
        assert!(InodeRecord::decode(&file(FILE_SIZE_MAX).encode()).is_ok());
        assert!(InodeRecord::decode(&file(FILE_SIZE_MAX + 1).encode()).is_err());
    }

    #[test]
    fn cut_or_altered_inode_is_an_error_and_never_a_panic() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            assert!(InodeRecord::decode(&bytes[..len]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(InodeRecord::decode(&longer).is_err());
        let mut other = bytes;
        other[0] = 9;
        assert!(InodeRecord::decode(&other).is_err());
    }
}
