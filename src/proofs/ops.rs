//! Operations by path, and how a mounted file system carries them out.
//!
//! Each is one operation of [`FileSystem`], so it is wholly in one commit or not at all.

use bytes::Bytes;

use crate::base::Inode;
use crate::format::FileKind;
use crate::fs::tests::support::{PLAIN, ROOT_CALLER, resize};
use crate::fs::{
    Allocate, Caller, CopyRange, FileSystem, FsError, Handle, NewNode, RenameMode, Seek,
    SetAttributes, XattrMode,
};

/// Files that may be held open at a time.
pub(super) const SLOTS: usize = 3;

/// Names an inode: by path, or as one that was opened before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Path(String),
    Slot(usize),
}

/// Bytes that are easily made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    pub seed: u64,
    pub len: usize,
}

impl Fill {
    /// One byte again and again, a text that repeats, or noise.
    pub fn bytes(self) -> Vec<u8> {
        let Self { seed, len } = self;
        match seed % 4 {
            0 => vec![(seed / 4 % 255 + 1) as u8; len],
            1 => format!("line {seed} of a text\n").bytes().cycle().take(len).collect(),
            _ => {
                let mut random = super::Random::new(seed);
                let mut bytes = Vec::with_capacity(len + 8);
                while bytes.len() < len {
                    bytes.extend_from_slice(&random.next().to_le_bytes());
                }
                bytes.truncate(len);
                bytes
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Make { path: String, kind: FileKind, permissions: u16, caller: Caller },
    Symlink { path: String, target: String },
    Link { from: Target, to: String },
    Unlink(String),
    Rmdir(String),
    Rename { from: String, to: String, mode: RenameMode },
    Write { target: Target, offset: u64, fill: Fill },
    Truncate { target: Target, size: u64, caller: Caller },
    Allocate { target: Target, offset: u64, len: u64, how: Allocate },
    Copy { from: Target, from_offset: u64, to: Target, to_offset: u64, len: u64 },
    Chmod { target: Target, permissions: u16 },
    Chown { target: Target, uid: u32, gid: u32 },
    SetXattr { target: Target, name: String, value: Fill, mode: XattrMode },
    RemoveXattr { target: Target, name: String },
    GetXattr { target: Target, name: String },
    Open { slot: usize, path: String },
    Close(usize),
    Read { target: Target, offset: u64, len: u32 },
    Seek { target: Target, offset: u64, what: Seek },
    List { target: Target, page: usize },
    ReadLink(String),
}

/// What an operation gives back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Number(u64),
    Bytes(Bytes),
    Names(Vec<Vec<u8>>),
}

/// The directory part and the last name of a path.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Carries operations out and counts references as the kernel does.
pub(super) struct Driver {
    pub fs: FileSystem,
    slots: [Option<(Inode, Handle)>; SLOTS],
    /// Look-ups to be forgotten when the operation is done.
    looked_up: Vec<Inode>,
}

impl Driver {
    pub fn new(fs: FileSystem) -> Self {
        Self { fs, slots: [None; SLOTS], looked_up: Vec::new() }
    }

    pub async fn run(&mut self, op: &Op) -> Result<Answer, FsError> {
        let result = self.carry_out(op).await;
        for inode in std::mem::take(&mut self.looked_up) {
            self.fs.forget(inode, 1);
        }
        result
    }

    async fn resolve(&mut self, path: &str) -> Result<Inode, FsError> {
        let mut inode = Inode::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            inode = self.fs.lookup(inode, name.as_bytes()).wait().await?.inode;
            self.looked_up.push(inode);
        }
        Ok(inode)
    }

    async fn target(&mut self, target: &Target) -> Result<Inode, FsError> {
        match target {
            Target::Path(path) => self.resolve(path).await,
            Target::Slot(slot) => Ok(self.slots[*slot].ok_or(FsError::NotFound)?.0),
        }
    }

    fn handle(&self, target: &Target) -> Handle {
        match target {
            Target::Slot(slot) => self.slots[*slot].map_or(Handle(0), |(_, handle)| handle),
            Target::Path(_) => Handle(0),
        }
    }

    async fn make(
        &mut self,
        path: &str,
        kind: FileKind,
        (permissions, caller): (u16, Caller),
        target: &str,
    ) -> Result<Answer, FsError> {
        let (parent, name) = split(path);
        let parent = self.resolve(parent).await?;
        let (name, target) = (name.as_bytes().into(), target.as_bytes().into());
        let node =
            NewNode { parent, name, kind, permissions, umask: 0o022, caller, rdev: 0, target };
        if kind == FileKind::Regular {
            let (made, handle) = self.fs.create(node).wait().await?;
            self.fs.release(made.inode, handle);
            self.looked_up.push(made.inode);
        } else {
            let made = self.fs.make(node).wait().await?;
            self.looked_up.push(made.inode);
        }
        Ok(Answer::Done)
    }

    async fn carry_out(&mut self, op: &Op) -> Result<Answer, FsError> {
        match op {
            Op::Make { path, kind, permissions, caller } => {
                return self.make(path, *kind, (*permissions, *caller), "").await;
            }
            Op::Symlink { path, target } => {
                return self.make(path, FileKind::Symlink, (0o777, ROOT_CALLER), target).await;
            }
            Op::Link { from, to } => {
                let inode = self.target(from).await?;
                let (parent, name) = split(to);
                let parent = self.resolve(parent).await?;
                self.fs.link(inode, parent, name.as_bytes()).wait().await?;
                self.looked_up.push(inode);
            }
            Op::Unlink(path) => {
                let (parent, name) = split(path);
                let parent = self.resolve(parent).await?;
                self.fs.unlink(parent, name.as_bytes()).wait().await?;
            }
            Op::Rmdir(path) => {
                let (parent, name) = split(path);
                let parent = self.resolve(parent).await?;
                self.fs.rmdir(parent, name.as_bytes()).wait().await?;
            }
            Op::Rename { from, to, mode } => {
                let ((parent, name), (new_parent, new_name)) = (split(from), split(to));
                let parent = self.resolve(parent).await?;
                let new_parent = self.resolve(new_parent).await?;
                let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
                self.fs.rename(parent, name, new_parent, new_name, *mode).wait().await?;
            }
            Op::Write { .. } | Op::Truncate { .. } | Op::Allocate { .. } | Op::Copy { .. } => {
                return self.change_content(op).await;
            }
            Op::Open { slot, path } => {
                let inode = self.resolve(path).await?;
                let handle = self.fs.open(inode).wait().await?;
                self.close(*slot);
                self.slots[*slot] = Some((inode, handle));
            }
            Op::Close(slot) => self.close(*slot),
            _ => return self.attributes(op).await,
        }
        Ok(Answer::Done)
    }

    async fn change_content(&mut self, op: &Op) -> Result<Answer, FsError> {
        match op {
            Op::Write { target, offset, fill } => {
                let inode = self.target(target).await?;
                let written = self.fs.write(inode, *offset, &fill.bytes(), PLAIN).wait().await?;
                return Ok(Answer::Number(u64::from(written)));
            }
            Op::Truncate { target, size, caller } => {
                let inode = self.target(target).await?;
                let changes = SetAttributes { caller: *caller, ..resize(*size) };
                self.fs.setattr(inode, changes).wait().await?;
            }
            Op::Allocate { target, offset, len, how } => {
                let inode = self.target(target).await?;
                self.fs.fallocate(inode, *offset, *len, *how).wait().await?;
            }
            Op::Copy { from, from_offset, to, to_offset, len } => {
                let (from, to) = (self.target(from).await?, self.target(to).await?);
                let (from_offset, to_offset, len) = (*from_offset, *to_offset, *len);
                let range = CopyRange { from, from_offset, to, to_offset, len };
                return Ok(Answer::Number(self.fs.copy_range(range).wait().await?));
            }
            other => unreachable!("{other:?} changes no content"),
        }
        Ok(Answer::Done)
    }

    async fn attributes(&mut self, op: &Op) -> Result<Answer, FsError> {
        let nothing = SetAttributes { size: None, ..resize(0) };
        match op {
            Op::Chmod { target, permissions } => {
                let inode = self.target(target).await?;
                let changes = SetAttributes { permissions: Some(*permissions), ..nothing };
                self.fs.setattr(inode, changes).wait().await?;
            }
            Op::Chown { target, uid, gid } => {
                let inode = self.target(target).await?;
                let changes = SetAttributes { uid: Some(*uid), gid: Some(*gid), ..nothing };
                self.fs.setattr(inode, changes).wait().await?;
            }
            Op::SetXattr { target, name, value, mode } => {
                let inode = self.target(target).await?;
                let (name, value) = (name.as_bytes(), value.bytes());
                self.fs.setxattr(inode, name, &value, *mode, ROOT_CALLER).wait().await?;
            }
            Op::RemoveXattr { target, name } => {
                let inode = self.target(target).await?;
                self.fs.removexattr(inode, name.as_bytes(), ROOT_CALLER).wait().await?;
            }
            _ => return self.look(op).await,
        }
        Ok(Answer::Done)
    }

    async fn look(&mut self, op: &Op) -> Result<Answer, FsError> {
        Ok(match op {
            Op::GetXattr { target, name } => {
                let inode = self.target(target).await?;
                Answer::Bytes(self.fs.getxattr(inode, name.as_bytes()).wait().await?)
            }
            Op::Read { target, offset, len } => {
                let (inode, handle) = (self.target(target).await?, self.handle(target));
                Answer::Bytes(self.fs.read(inode, handle, *offset, *len).wait().await?)
            }
            Op::Seek { target, offset, what } => {
                let inode = self.target(target).await?;
                Answer::Number(self.fs.seek(inode, *offset, *what).wait().await?)
            }
            Op::List { target, page } => {
                let inode = self.target(target).await?;
                Answer::Names(names(&self.fs, inode, *page).await?)
            }
            Op::ReadLink(path) => {
                let inode = self.resolve(path).await?;
                Answer::Bytes(self.fs.readlink(inode).wait().await?)
            }
            other => unreachable!("{other:?} only looks"),
        })
    }

    fn close(&mut self, slot: usize) {
        if let Some((inode, handle)) = self.slots[slot].take() {
            self.fs.release(inode, handle);
        }
    }
}

/// All names in a directory in order, `page` at a time.
async fn names(fs: &FileSystem, inode: Inode, page: usize) -> Result<Vec<Vec<u8>>, FsError> {
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let entries = fs.readdir(inode, offset, page, false).wait().await?;
        let Some(last) = entries.last() else { break };
        offset = last.offset;
        names.extend(entries.into_iter().map(|entry| entry.name.into_vec()));
    }
    names.sort();
    Ok(names)
}
