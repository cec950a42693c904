//! Between fuser's types and ours: pure functions, no state.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, RenameFlags, Request, TimeOrNow, WriteFlags};

use super::options::FuseOptions;
use crate::base::{Inode, KIB, Timestamp};
use crate::format::FileKind;
use crate::fs::{
    Allocate, Attributes, Caller, FsError, NewTime, RenameMode, Seek, Usage, WriteOrigin, XattrMode,
};

/// `st_blksize`: what programs take as a good unit of I/O.
const PREFERRED_IO_BYTES: u32 = 64 * KIB as u32;

const PERMISSION_BITS: u32 = 0o7777;

pub(super) fn inode(number: INodeNo) -> Inode {
    Inode(number.0)
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

pub(super) fn permissions(mode: u32) -> u16 {
    (mode & PERMISSION_BITS) as u16
}

/// What mknod is to make; no type means a regular file.
pub(super) fn node_kind(mode: u32) -> Option<FileKind> {
    match mode >> 12 {
        0 => Some(FileKind::Regular),
        kind => u8::try_from(kind).ok().and_then(FileKind::from_type),
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::Directory => FileType::Directory,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Regular => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Socket => FileType::Socket,
    }
}

/// How attributes are shown on this mount.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// How long the kernel keeps them.
    pub(super) ttl: Duration,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl View {
    pub(super) fn new(options: &FuseOptions) -> Self {
        Self { ttl: options.ttl, uid: options.uid, gid: options.gid }
    }

    pub(super) fn attributes(&self, attributes: &Attributes) -> FileAttr {
        let record = &attributes.record;
        FileAttr {
            ino: INodeNo(attributes.inode.0),
            size: record.size,
            blocks: attributes.blocks,
            atime: record.atime.into(),
            mtime: record.mtime.into(),
            ctime: record.ctime.into(),
            crtime: record.btime.into(),
            kind: file_type(record.kind),
            perm: record.permissions,
            nlink: record.nlink,
            uid: self.uid.unwrap_or(record.uid),
            gid: self.gid.unwrap_or(record.gid),
            rdev: record.rdev,
            blksize: PREFERRED_IO_BYTES,
            flags: 0,
        }
    }
}

/// Attributes of an entry of which only number and kind are known or matter:
/// `.` and `..` in a listing, and, with number 0, a name that does not exist.
pub(super) fn bare_attributes(inode: u64, kind: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

/// A time out of a setattr request.
///
/// The kernel sends whole seconds `s`, rounded down, and nanoseconds `n` after
/// them. For negative `s` fuser 0.18 makes of it the moment `|s|` seconds and `n`
/// nanoseconds *before* 1970, instead of `n` after `-|s|`. As |s| is at least 1,
/// that moment is always before 1970, and from `s >= 0` never: so the distance
/// to 1970 gives back both numbers exactly.
pub(super) fn requested_time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp::from(UNIX_EPOCH + after),
        Err(before) => {
            let before = before.duration();
            // Wrapping: the distance of the smallest second has no positive i64.
            let seconds = before.as_secs().cast_signed().wrapping_neg();
            Timestamp { seconds, nanos: before.subsec_nanos() }
        }
    }
}

pub(super) fn new_time(time: TimeOrNow) -> NewTime {
    match time {
        TimeOrNow::Now => NewTime::Now,
        TimeOrNow::SpecificTime(time) => NewTime::At(requested_time(time)),
    }
}

/// WHITEOUT would need character device 0/0 entries that overlayfs alone uses.
pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, FsError> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(FsError::Invalid)
    }
}

pub(super) fn write_origin(flags: WriteFlags) -> WriteOrigin {
    WriteOrigin {
        from_cache: flags.contains(WriteFlags::FUSE_WRITE_CACHE),
        kill_privileges: flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
    }
}

/// As fallocate(2): a hole is punched only with KEEP_SIZE.
pub(super) fn allocate(mode: i32) -> Result<Allocate, FsError> {
    const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP_SIZE;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP_SIZE: i32 = ZERO | KEEP_SIZE;
    match mode {
        0 => Ok(Allocate::Reserve { keep_size: false }),
        KEEP_SIZE => Ok(Allocate::Reserve { keep_size: true }),
        PUNCH_HOLE => Ok(Allocate::PunchHole),
        ZERO => Ok(Allocate::Zero { keep_size: false }),
        ZERO_KEEP_SIZE => Ok(Allocate::Zero { keep_size: true }),
        _ => Err(FsError::NotSupported),
    }
}

/// The kernel answers the other kinds of lseek itself.
pub(super) fn seek(offset: i64, whence: i32) -> Result<(u64, Seek), FsError> {
    let what = match whence {
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return Err(FsError::Invalid),
    };
    Ok((u64::try_from(offset).map_err(|_| FsError::BeyondEnd)?, what))
}

pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode, FsError> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(FsError::Invalid),
    }
}

/// Names as listxattr(2) wants them: each ended by a zero byte.
pub(super) fn xattr_list(names: &[Box<[u8]>]) -> Vec<u8> {
    let mut list = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
    for name in names {
        list.extend_from_slice(name);
        list.push(0);
    }
    list
}

/// What statfs answers, in units of one block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statfs {
    pub(super) blocks: u64,
    pub(super) free: u64,
    pub(super) files: u64,
    pub(super) files_free: u64,
    pub(super) block_bytes: u32,
}

pub(super) fn statfs(usage: &Usage) -> Statfs {
    let unit = u64::from(usage.block_bytes.max(1));
    let blocks = usage.bytes_total / unit;
    Statfs {
        blocks,
        free: blocks.saturating_sub(usage.bytes_used.div_ceil(unit)),
        files: usage.inodes_total,
        files_free: usage.inodes_total.saturating_sub(usage.inodes_used),
        block_bytes: usage.block_bytes.max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// fuser 0.18's own conversion, for a second that has a negation.
    fn as_fuser_makes_it(seconds: i64, nanos: u32) -> SystemTime {
        let distance = Duration::new(seconds.unsigned_abs(), nanos);
        if seconds >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
    }

    #[test]
    fn every_time_set_comes_through_to_the_nanosecond() {
        let seconds = [0, 1, -1, -2, -86_400, 4_300_000_000, -4_300_000_000, i64::MAX];
        for seconds in seconds.into_iter().chain([i64::MIN + 1]) {
            for nanos in [0, 1, 500_000_000, 999_999_999] {
                let wanted = Timestamp { seconds, nanos };
                assert_eq!(requested_time(as_fuser_makes_it(seconds, nanos)), wanted);
                let shown = SystemTime::from(wanted);
                assert_eq!(Timestamp::from(shown), wanted, "what getattr shows");
            }
        }
        let first = UNIX_EPOCH - Duration::from_secs(1 << 63);
        assert_eq!(requested_time(first), Timestamp { seconds: i64::MIN, nanos: 0 });
    }

    #[test]
    fn rename_flags_out_of_the_ordinary_are_refused() {
        assert!(matches!(rename_mode(RenameFlags::empty()), Ok(RenameMode::Replace)));
        assert!(matches!(rename_mode(RenameFlags::RENAME_EXCHANGE), Ok(RenameMode::Exchange)));
        for flags in [
            RenameFlags::RENAME_WHITEOUT,
            RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE,
            RenameFlags::from_bits_retain(1 << 20),
        ] {
            assert!(matches!(rename_mode(flags), Err(FsError::Invalid)));
        }
    }

    #[test]
    fn fallocate_modes_we_lack_are_not_taken_for_others() {
        assert!(matches!(allocate(0), Ok(Allocate::Reserve { keep_size: false })));
        assert!(matches!(allocate(3), Ok(Allocate::PunchHole)));
        assert!(matches!(allocate(0x11), Ok(Allocate::Zero { keep_size: true })));
        for mode in [2, 8, 0x20, 0x40, 0x13] {
            assert!(matches!(allocate(mode), Err(FsError::NotSupported)), "{mode:#x}");
        }
    }

    #[test]
    fn seek_before_the_start_finds_nothing() {
        assert!(matches!(seek(5, libc::SEEK_HOLE), Ok((5, Seek::Hole))));
        assert!(matches!(seek(-1, libc::SEEK_DATA), Err(FsError::BeyondEnd)));
        assert!(matches!(seek(0, libc::SEEK_END), Err(FsError::Invalid)));
    }

    #[test]
    fn mknod_types_map_to_kinds_and_nonsense_to_none() {
        assert_eq!(node_kind(0o644), Some(FileKind::Regular));
        assert_eq!(node_kind(libc::S_IFIFO | 0o600), Some(FileKind::Fifo));
        assert_eq!(node_kind(libc::S_IFSOCK), Some(FileKind::Socket));
        assert_eq!(node_kind(0o30000), None);
        assert_eq!(node_kind(u32::MAX), None);
        assert_eq!(permissions(0o104_755), 0o4755);
    }

    #[test]
    fn statfs_never_shows_more_free_than_there_is() {
        let usage = Usage {
            block_bytes: 4096,
            bytes_total: 1 << 40,
            bytes_used: 4097,
            inodes_total: 10,
            inodes_used: 11,
        };
        let shown = statfs(&usage);
        assert_eq!(shown.blocks - shown.free, 2);
        assert_eq!(shown.files_free, 0);
    }

    #[test]
    fn xattr_names_are_each_ended_by_zero() {
        assert_eq!(xattr_list(&[]), b"");
        assert_eq!(xattr_list(&[b"user.a"[..].into(), b"b"[..].into()]), b"user.a\0b\0");
    }
}
