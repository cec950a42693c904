//! What goes in and comes out of the file system's operations.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::FsError;
use crate::base::{Inode, Timestamp};
use crate::format::{FileKind, InodeRecord};

/// The answer to an operation: at hand, or to be waited for.
///
/// What memory can answer is `Ready` and costs no task; only what must wait
/// for the store is `Pending`, to be driven on the tokio runtime.
pub enum Outcome<T> {
    /// The answer.
    Ready(Result<T, FsError>),
    /// The rest of the work.
    Pending(Pin<Box<dyn Future<Output = Result<T, FsError>> + Send>>),
}

impl<T> Outcome<T> {
    /// Waits for the answer.
    pub async fn wait(self) -> Result<T, FsError> {
        match self {
            Self::Ready(result) => result,
            Self::Pending(future) => future.await,
        }
    }

    /// The answer turned into another, now or when it comes.
    pub fn map<U>(self, turn: impl FnOnce(T) -> U + Send + 'static) -> Outcome<U>
    where
        T: 'static,
    {
        match self {
            Self::Ready(result) => Outcome::Ready(result.map(turn)),
            Self::Pending(future) => Outcome::Pending(Box::pin(async { future.await.map(turn) })),
        }
    }
}

/// An inode and its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// The inode.
    pub inode: Inode,
    /// Its record.
    pub record: InodeRecord,
    /// Content in units of 512 bytes, uncommitted content included (`st_blocks`).
    pub blocks: u64,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
}

/// A new inode and the name it gets.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// The directory.
    pub parent: Inode,
    /// The name in it.
    pub name: Box<[u8]>,
    /// What to make.
    pub kind: FileKind,
    /// Permission bits as asked for, the umask not yet applied (12 bits).
    pub permissions: u16,
    /// The caller's umask; a default ACL of the directory takes its place.
    pub umask: u16,
    /// Who owns it (the group is the directory's when that has setgid).
    pub caller: Caller,
    /// Device number of a device node.
    pub rdev: u32,
    /// Target of a symbolic link.
    pub target: Box<[u8]>,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTime {
    /// The present moment.
    Now,
    /// This moment.
    At(Timestamp),
}

/// Attributes to change; `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAttributes {
    /// Who asks.
    pub caller: Caller,
    /// Permission bits (12 bits).
    pub permissions: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<NewTime>,
    /// Last change of content.
    pub mtime: Option<NewTime>,
    /// Last change of attributes (the kernel sends it with its write-back cache).
    pub ctime: Option<Timestamp>,
}

/// What `rename` does with a name that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Refuse with [`FsError::Exists`].
    NoReplace,
    /// Swap the two.
    Exchange,
}

/// An open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// One entry of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// The inode it stands for.
    pub inode: Inode,
    /// What that is.
    pub kind: FileKind,
    /// Its name; `.` and `..` come first.
    pub name: Box<[u8]>,
    /// Where the listing goes on after this entry: stable while the directory
    /// changes, positive as a signed 64-bit number.
    pub offset: u64,
    /// Attributes, where they were asked for (never of `.` and `..`). Such an
    /// entry counts as looked up once.
    pub attributes: Option<Attributes>,
}

/// Where bytes to write come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOrigin {
    /// From the kernel's write-back cache, which keeps size and times itself.
    pub from_cache: bool,
    /// The write takes setuid and setgid away.
    pub kill_privileges: bool,
}

/// What `fallocate` does with the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Make sure that it can be written; grows the file unless `keep_size`.
    Reserve {
        /// The file keeps its size.
        keep_size: bool,
    },
    /// Make it a hole.
    PunchHole,
    /// Make it read as zeros; grows the file unless `keep_size`.
    Zero {
        /// The file keeps its size.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is not in a hole.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// How `setxattr` treats a name that is or is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// Only create ([`FsError::Exists`]).
    Create,
    /// Only replace ([`FsError::NoData`]).
    Replace,
}

/// A range of one file to copy to another place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRange {
    /// File to read.
    pub from: Inode,
    /// First byte to read.
    pub from_offset: u64,
    /// File to write.
    pub to: Inode,
    /// First byte to write.
    pub to_offset: u64,
    /// Bytes to copy.
    pub len: u64,
}

/// What `statfs` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in one block of the volume.
    pub block_bytes: u32,
    /// Bytes the volume can hold.
    pub bytes_total: u64,
    /// Bytes in use.
    pub bytes_used: u64,
    /// Inodes the volume can hold.
    pub inodes_total: u64,
    /// Inodes in use.
    pub inodes_used: u64,
}

/// Bytes read from a file.
pub type Content = Bytes;
