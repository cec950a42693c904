//! Each FUSE operation: convert, call the file system, reply. Nothing else.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::adapter::Adapter;
use super::convert::{self, View};
use super::errno::errno;
use crate::base::{GIB, Inode, NAME_LEN_MAX};
use crate::format::FileKind;
use crate::fs::{
    Attributes, CopyRange, FileSystem, FsError, Handle, NewNode, Outcome, SetAttributes,
};

/// Inode numbers are never used twice, so all are of one generation.
const GENERATION: Generation = Generation(0);

/// Most bytes of one copy_file_range: the reply has 32 bits, and the caller
/// cannot be interrupted meanwhile.
const COPY_BYTES_MAX: u64 = GIB;

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.negotiate(config)
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let view = self.view;
        self.answer(
            "lookup",
            |fs| fs.lookup(convert::inode(parent), name.as_bytes()),
            move |result| match result {
                // Inode 0: the kernel remembers that there is no such name.
                Err(Errno::ENOENT) => {
                    let nothing = convert::bare_attributes(0, FileKind::Regular);
                    reply.entry(&view.ttl, &nothing, GENERATION);
                }
                result => reply_entry(view, reply, result),
            },
        );
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.tell("forget", |fs| fs.forget(convert::inode(ino), count));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let view = self.view;
        self.answer(
            "getattr",
            |fs| fs.getattr(convert::inode(ino)),
            move |result| reply_attributes(view, reply, result),
        );
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let view = self.view;
        let changes = SetAttributes {
            caller: convert::caller(request),
            permissions: mode.map(convert::permissions),
            uid,
            gid,
            size,
            atime: atime.map(convert::new_time),
            mtime: mtime.map(convert::new_time),
            ctime: ctime.map(convert::requested_time),
        };
        self.answer(
            "setattr",
            |fs| fs.setattr(convert::inode(ino), changes),
            move |result| reply_attributes(view, reply, result),
        );
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(
            "readlink",
            |fs| fs.readlink(convert::inode(ino)),
            move |result| match result {
                Ok(target) => reply.data(&target),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = convert::node_kind(mode) else {
            return reply.error(errno(&FsError::Invalid));
        };
        let node = NewNode { kind, rdev, ..node(request, parent, name, mode, umask) };
        let view = self.view;
        self.answer("mknod", |fs| fs.make(node), move |result| reply_entry(view, reply, result));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let node =
            NewNode { kind: FileKind::Directory, ..node(request, parent, name, mode, umask) };
        let view = self.view;
        self.answer("mkdir", |fs| fs.make(node), move |result| reply_entry(view, reply, result));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let node = NewNode {
            kind: FileKind::Symlink,
            target: target.as_os_str().as_bytes().into(),
            ..node(request, parent, name, 0o777, 0)
        };
        let view = self.view;
        self.answer("symlink", |fs| fs.make(node), move |result| reply_entry(view, reply, result));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(
            "unlink",
            |fs| fs.unlink(convert::inode(parent), name.as_bytes()),
            move |result| reply_empty(reply, result),
        );
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.answer(
            "rmdir",
            |fs| fs.rmdir(convert::inode(parent), name.as_bytes()),
            move |result| reply_empty(reply, result),
        );
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match convert::rename_mode(flags) {
            Ok(mode) => mode,
            Err(error) => return reply.error(errno(&error)),
        };
        let (parent, new_parent) = (convert::inode(parent), convert::inode(new_parent));
        self.answer(
            "rename",
            |fs| fs.rename(parent, name.as_bytes(), new_parent, new_name.as_bytes(), mode),
            move |result| reply_empty(reply, result),
        );
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let view = self.view;
        self.answer(
            "link",
            |fs| fs.link(convert::inode(ino), convert::inode(new_parent), new_name.as_bytes()),
            move |result| reply_entry(view, reply, result),
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let node = node(request, parent, name, mode, umask);
        let (view, file_flags, writers) = (self.view, self.file_flags(), self.writers.clone());
        self.answer(
            "create",
            |fs| fs.create(node),
            move |result| match result {
                Ok((attributes, handle)) => {
                    // Before the reply: from then on the kernel may hold changes.
                    writers.opened(attributes.inode, flags);
                    let shown = view.attributes(&attributes);
                    let handle = FileHandle(handle.0);
                    reply.created(&view.ttl, &shown, GENERATION, handle, file_flags);
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let inode = convert::inode(ino);
        let (file_flags, writers) = (self.file_flags(), self.writers.clone());
        self.answer(
            "open",
            |fs| fs.open(inode),
            move |result| match result {
                Ok(handle) => {
                    writers.opened(inode, flags.0);
                    reply.opened(FileHandle(handle.0), file_flags);
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let inode = convert::inode(ino);
        self.writers.released(inode, flags.0);
        self.tell("release", |fs| fs.release(inode, Handle(fh.0)));
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answer(
            "read",
            |fs| fs.read(convert::inode(ino), Handle(fh.0), offset, size),
            move |result| match result {
                Ok(data) => reply.data(&data),
                Err(errno) => reply.error(errno),
            },
        );
    }

    /// The offset is always the kernel's: with O_APPEND too, which it resolves.
    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let origin = convert::write_origin(write_flags);
        self.answer(
            "write",
            |fs| fs.write(convert::inode(ino), offset, data, origin),
            move |result| match result {
                Ok(written) => reply.written(written),
                Err(errno) => reply.error(errno),
            },
        );
    }

    /// Answered once with ENOSYS, and then the kernel asks no more. It still
    /// writes back dirty pages at each close, and close() returns the errors of
    /// those writes; asking us in addition would give no more: only fsync
    /// promises that anything is in the bucket.
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(
            "fsync",
            |fs| fs.fsync(convert::inode(ino)),
            move |result| reply_empty(reply, result),
        );
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = self.directory_flags();
        self.answer(
            "opendir",
            |fs| fs.open(convert::inode(ino)),
            move |result| match result {
                Ok(handle) => reply.opened(FileHandle(handle.0), flags),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let size = self.listing.clone();
        let limit = size.limit();
        self.answer(
            "readdir",
            |fs| fs.readdir(convert::inode(ino), offset, limit, false),
            move |result| match result {
                Ok(entries) => {
                    let full = entries.iter().position(|entry| {
                        let name = OsStr::from_bytes(&entry.name);
                        let kind = convert::file_type(entry.kind);
                        reply.add(INodeNo(entry.inode.0), entry.offset, kind, name)
                    });
                    size.learn(limit, entries.len(), full.unwrap_or(entries.len()));
                    reply.ok();
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (size, view, fs) = (self.listing_plus.clone(), self.view, self.fs.clone());
        let limit = size.limit();
        self.answer(
            "readdirplus",
            |fs| fs.readdir(convert::inode(ino), offset, limit, true),
            move |result| match result {
                Ok(entries) => {
                    let full = entries.iter().position(|entry| {
                        let name = OsStr::from_bytes(&entry.name);
                        // Only `.` and `..` come without, and the kernel does
                        // not take attributes of those.
                        let shown = entry.attributes.as_ref().map_or_else(
                            || convert::bare_attributes(entry.inode.0, entry.kind),
                            |attributes| view.attributes(attributes),
                        );
                        let inode = INodeNo(entry.inode.0);
                        reply.add(inode, entry.offset, name, &view.ttl, &shown, GENERATION)
                    });
                    let fitted = full.unwrap_or(entries.len());
                    size.learn(limit, entries.len(), fitted);
                    reply.ok();
                    // The kernel never heard of the others and will not forget them.
                    let unheard = entries[fitted..].iter().filter(|e| e.attributes.is_some());
                    unheard.for_each(|entry| fs.forget(entry.inode, 1));
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.tell("releasedir", |fs| fs.release(convert::inode(ino), Handle(fh.0)));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(
            "fsyncdir",
            |fs| fs.fsync(convert::inode(ino)),
            move |result| reply_empty(reply, result),
        );
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.answer("statfs", FileSystem::statfs, move |result| match result {
            Ok(usage) => {
                let s = convert::statfs(&usage);
                let (unit, name_max) = (s.block_bytes, NAME_LEN_MAX as u32);
                reply.statfs(s.blocks, s.free, s.free, s.files, s.files_free, unit, name_max, unit);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match convert::xattr_mode(flags) {
            Ok(mode) => mode,
            Err(error) => return reply.error(errno(&error)),
        };
        let (inode, caller) = (convert::inode(ino), convert::caller(request));
        self.answer(
            "setxattr",
            |fs| fs.setxattr(inode, name.as_bytes(), value, mode, caller),
            move |result| reply_empty(reply, result),
        );
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        self.answer(
            "getxattr",
            |fs| fs.getxattr(convert::inode(ino), name.as_bytes()),
            move |result| match result {
                Ok(value) => reply_sized(reply, size, &value),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(
            "listxattr",
            |fs| fs.listxattr(convert::inode(ino)),
            move |result| match result {
                Ok(names) => reply_sized(reply, size, &convert::xattr_list(&names)),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (inode, caller) = (convert::inode(ino), convert::caller(request));
        self.answer(
            "removexattr",
            |fs| fs.removexattr(inode, name.as_bytes(), caller),
            move |result| reply_empty(reply, result),
        );
    }

    /// Never asked, as the kernel checks permissions itself.
    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// Answered once; the kernel then takes files for always ready.
    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let how = match convert::allocate(mode) {
            Ok(how) => how,
            Err(error) => return reply.error(errno(&error)),
        };
        self.answer(
            "fallocate",
            |fs| fs.fallocate(convert::inode(ino), offset, length, how),
            move |result| reply_empty(reply, result),
        );
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (offset, what) = match convert::seek(offset, whence) {
            Ok(found) => found,
            Err(error) => return reply.error(errno(&error)),
        };
        let inode = convert::inode(ino);
        // The kernel asks without writing back first, so that what it still
        // holds would pass for a hole, and a program that copies only data
        // would lose it.
        let dirty = self.writeback && self.writers.any(inode);
        let invalidator = dirty.then(|| self.invalidator.clone());
        self.answer(
            "lseek",
            |fs| match invalidator {
                None => fs.seek(inode, offset, what),
                Some(invalidator) => {
                    let fs = fs.clone();
                    Outcome::Pending(Box::pin(async move {
                        invalidator.write_back(inode, offset).await;
                        fs.seek(inode, offset, what).wait().await
                    }))
                }
            },
            move |result| match result.map(i64::try_from) {
                Ok(Ok(place)) => reply.offset(place),
                Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(errno(&FsError::Invalid));
        }
        let range = CopyRange {
            from: convert::inode(ino_in),
            from_offset: offset_in,
            to: convert::inode(ino_out),
            to_offset: offset_out,
            len: len.min(COPY_BYTES_MAX),
        };
        self.answer(
            "copy_file_range",
            |fs| fs.copy_range(range),
            move |result| match result.map(u32::try_from) {
                Ok(Ok(copied)) => reply.written(copied),
                Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
                Err(errno) => reply.error(errno),
            },
        );
    }
}

/// A regular file to make; for other kinds the rest is filled in.
fn node(request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32) -> NewNode {
    NewNode {
        parent: Inode(parent.0),
        name: name.as_bytes().into(),
        kind: FileKind::Regular,
        permissions: convert::permissions(mode),
        umask: convert::permissions(umask),
        caller: convert::caller(request),
        rdev: 0,
        target: Box::default(),
    }
}

fn reply_entry(view: View, reply: ReplyEntry, result: Result<Attributes, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&view.ttl, &view.attributes(&attributes), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn reply_attributes(view: View, reply: ReplyAttr, result: Result<Attributes, Errno>) {
    match result {
        Ok(attributes) => reply.attr(&view.ttl, &view.attributes(&attributes)),
        Err(errno) => reply.error(errno),
    }
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// As getxattr(2): size 0 asks for the size, one too small is ERANGE.
fn reply_sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        Ok(_) | Err(_) => reply.error(Errno::ERANGE),
    }
}
