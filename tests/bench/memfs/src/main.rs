//! A FUSE file system that answers from memory: what any FUSE file system on this machine can reach.
//!
//!     memfs MOUNTPOINT
//!
//! It asks the kernel for the same as lidfs does (`src/fuse`: capabilities, limits, how long names are
//! kept, threads), so that what differs is the work behind the answers alone. Ends when unmounted.
//! Only what the benchmark does to it is there: no links, no renames, no attributes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, SessionACL,
    TimeOrNow, WriteFlags,
};

const TTL: Duration = Duration::from_secs(24 * 3600);
const GENERATION: Generation = Generation(0);
const MIB: usize = 1 << 20;
const THREADS_MAX: usize = 16;
const READ_AHEAD_KIB: u32 = 1024;

/// Pieces of up to one MiB; what a piece lacks at its end is zeros.
type Content = Arc<RwLock<Vec<Vec<u8>>>>;

struct Node {
    attributes: FileAttr,
    content: Content,
    /// Of a directory.
    entries: BTreeMap<OsString, u64>,
}

#[derive(Default)]
struct Tree {
    nodes: HashMap<u64, Node>,
    last: u64,
}

impl Tree {
    fn add(&mut self, parent: Option<u64>, name: &OsStr, kind: FileType, mode: u32, owner: (u32, u32)) -> FileAttr {
        self.last += 1;
        let now = SystemTime::now();
        let attributes = FileAttr {
            ino: INodeNo(self.last),
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm: (mode & 0o7777) as u16,
            nlink: 1,
            uid: owner.0,
            gid: owner.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        self.nodes.insert(self.last, Node { attributes, content: Content::default(), entries: BTreeMap::new() });
        if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            parent.entries.insert(name.to_owned(), self.last);
        }
        attributes
    }

    fn remove(&mut self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let parent = self.nodes.get_mut(&parent).ok_or(Errno::ENOENT)?;
        // Nobody here reads a file that has been removed.
        let inode = parent.entries.remove(name).ok_or(Errno::ENOENT)?;
        self.nodes.remove(&inode);
        Ok(())
    }

    fn child(&self, parent: u64, name: &OsStr) -> Option<FileAttr> {
        let inode = self.nodes.get(&parent)?.entries.get(name)?;
        Some(self.nodes.get(inode)?.attributes)
    }
}

struct Memory {
    tree: Mutex<Tree>,
}

impl Memory {
    fn new() -> Self {
        let mut tree = Tree::default();
        tree.add(None, OsStr::new(""), FileType::Directory, 0o755, (0, 0));
        Self { tree: Mutex::new(tree) }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn content(&self, inode: INodeNo) -> Option<Content> {
        self.tree().nodes.get(&inode.0).map(|node| node.content.clone())
    }
}

impl Filesystem for Memory {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_WRITEBACK_CACHE,
        ] {
            if config.add_capabilities(flag).is_err() {
                eprintln!("memfs: the kernel does not know {flag:?}");
            }
        }
        let refused = |limit| io::Error::other(format!("FUSE limit {limit} refused"));
        config.set_max_write(MIB as u32).map_err(refused)?;
        let refused = |limit| io::Error::other(format!("FUSE limit {limit} refused"));
        config.set_max_background(64).map_err(refused)?;
        config.set_congestion_threshold(48).map_err(refused)?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.tree().child(parent.0, name);
        match found {
            Some(attributes) => reply.entry(&TTL, &attributes, GENERATION),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.tree().nodes.get(&inode.0).map(|node| node.attributes);
        match found {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree();
        let Some(node) = tree.nodes.get_mut(&inode.0) else { return reply.error(Errno::ENOENT) };
        let attributes = &mut node.attributes;
        attributes.perm = mode.map_or(attributes.perm, |mode| (mode & 0o7777) as u16);
        attributes.uid = uid.unwrap_or(attributes.uid);
        attributes.gid = gid.unwrap_or(attributes.gid);
        match mtime {
            Some(TimeOrNow::SpecificTime(time)) => attributes.mtime = time,
            Some(TimeOrNow::Now) => attributes.mtime = SystemTime::now(),
            None => {}
        }
        if let Some(size) = size {
            attributes.size = size;
            let mut pieces = node.content.write().unwrap_or_else(PoisonError::into_inner);
            pieces.truncate((size as usize).div_ceil(MIB));
            if let (Some(last), within) = (pieces.get_mut(size as usize / MIB), size as usize % MIB) {
                last.truncate(within);
            }
        }
        let attributes = *attributes;
        drop(tree);
        reply.attr(&TTL, &attributes);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let owner = (request.uid(), request.gid());
        let made = self.tree().add(Some(parent.0), name, FileType::Directory, mode & !umask, owner);
        reply.entry(&TTL, &made, GENERATION);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.tree().remove(parent.0, name);
        match removed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, parent, name, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let owner = (request.uid(), request.gid());
        let made = self.tree().add(Some(parent.0), name, FileType::RegularFile, mode & !umask, owner);
        reply.created(&TTL, &made, GENERATION, FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(content) = self.content(inode) else { return reply.error(Errno::ENOENT) };
        let pieces = content.read().unwrap_or_else(PoisonError::into_inner);
        let (begin, size) = (offset as usize, size as usize);
        // The usual case: all in one piece, copied by the kernel alone.
        if begin / MIB == (begin + size).saturating_sub(1) / MIB {
            let piece = pieces.get(begin / MIB).map_or(&[][..], Vec::as_slice);
            let within = (begin % MIB).min(piece.len());
            return reply.data(&piece[within..(begin % MIB + size).min(piece.len()).max(within)]);
        }
        let mut data = Vec::with_capacity(size);
        let mut at = begin;
        while at < begin + size {
            let Some(piece) = pieces.get(at / MIB) else { break };
            let part = (begin + size - at).min(MIB - at % MIB);
            let within = (at % MIB).min(piece.len());
            data.extend_from_slice(&piece[within..(at % MIB + part).min(piece.len()).max(within)]);
            at += part;
        }
        reply.data(&data);
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(content) = self.content(inode) else { return reply.error(Errno::ENOENT) };
        {
            let mut pieces = content.write().unwrap_or_else(PoisonError::into_inner);
            let (mut at, mut rest) = (offset as usize, data);
            while !rest.is_empty() {
                let (part, next) = rest.split_at(rest.len().min(MIB - at % MIB));
                if pieces.len() <= at / MIB {
                    pieces.resize_with(at / MIB + 1, Vec::new);
                }
                let piece = &mut pieces[at / MIB];
                let end = at % MIB + part.len();
                if piece.len() == at % MIB {
                    piece.extend_from_slice(part);
                } else {
                    piece.resize(piece.len().max(end), 0);
                    piece[at % MIB..end].copy_from_slice(part);
                }
                (at, rest) = (at + part.len(), next);
            }
        }
        if let Some(node) = self.tree().nodes.get_mut(&inode.0) {
            node.attributes.size = node.attributes.size.max(offset + data.len() as u64);
        }
        reply.written(data.len() as u32);
    }

    fn flush(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        {
            let tree = self.tree();
            let Some(node) = tree.nodes.get(&inode.0) else { return reply.error(Errno::ENOENT) };
            for (number, (name, child)) in node.entries.iter().enumerate().skip(offset as usize) {
                let kind = tree.nodes.get(child).map_or(FileType::RegularFile, |node| node.attributes.kind);
                if reply.add(INodeNo(*child), number as u64 + 1, kind, name) {
                    break;
                }
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        {
            let tree = self.tree();
            let Some(node) = tree.nodes.get(&inode.0) else { return reply.error(Errno::ENOENT) };
            for (number, (name, child)) in node.entries.iter().enumerate().skip(offset as usize) {
                let Some(found) = tree.nodes.get(child) else { continue };
                if reply.add(INodeNo(*child), number as u64 + 1, name, &TTL, &found.attributes, GENERATION) {
                    break;
                }
            }
        }
        reply.ok();
    }

    fn getxattr(&self, _request: &Request, _inode: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }

    fn access(&self, _request: &Request, _inode: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}

fn run(mount_point: &str) -> io::Result<()> {
    let mut config = Config::default();
    let text = |text: &str| text.to_owned();
    config.mount_options = vec![
        MountOption::FSName(text("memfs")),
        MountOption::Subtype(text("memfs")),
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    config.acl = SessionACL::Owner;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.n_threads = Some(cores.clamp(2, THREADS_MAX));
    config.clone_fd = true;
    let session = fuser::spawn_mount(Memory::new(), mount_point, &config)?;
    // The device of what is mounted now names its read-ahead.
    let device = std::fs::metadata(mount_point)?.dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff_ff00));
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB.to_string())?;
    println!("mounted");
    session.join()
}

fn main() {
    let Some(mount_point) = std::env::args().nth(1) else {
        eprintln!("usage: memfs MOUNTPOINT");
        std::process::exit(2);
    };
    if let Err(error) = run(&mount_point) {
        eprintln!("memfs: {mount_point}: {error}");
        std::process::exit(1);
    }
}
