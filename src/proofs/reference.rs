//! What a file system is: maps and vectors, without disk, cache or time.
//!
//! [`Reference::judge`] carries an operation out in its own way and compares the answer.
//! [`Reference::dump`] is the whole tree as text; [`super::dump`] gives the same text of a mounted volume.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::ops::{Answer, Fill, Op, SLOTS, Target, split};
use crate::base::FILE_SIZE_MAX;
use crate::format::{FileKind, SETGID, SETUID};
use crate::fs::{Allocate, Caller, FsError, RenameMode, Seek, XattrMode};

const ROOT: usize = 1;
const UMASK: u16 = 0o022;
const NAME_LEN_MAX: usize = 255;
const XATTR_NAME_LEN_MAX: usize = 255;
const XATTR_LEN_MAX: usize = 64 * 1024;

type Refusal = Result<Answer, FsError>;

#[derive(Debug, Clone)]
struct Node {
    kind: FileKind,
    permissions: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    content: Arc<Vec<u8>>,
    entries: BTreeMap<String, usize>,
    xattrs: BTreeMap<String, Vec<u8>>,
    parent: usize,
}

impl Node {
    fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    fn kill_privileges(&mut self) {
        if self.is_directory() {
            return;
        }
        self.permissions &= !SETUID;
        if self.permissions & 0o010 != 0 {
            self.permissions &= !SETGID;
        }
        self.xattrs.remove("security.capability");
    }

    fn lay(&mut self, offset: u64, bytes: &[u8]) {
        let content = Arc::make_mut(&mut self.content);
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        content.resize(content.len().max(to), 0);
        content[from..to].copy_from_slice(bytes);
    }
}

/// A file system in memory. Inodes without a name stay: nobody can see them but who has them open.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    nodes: BTreeMap<usize, Node>,
    next: usize,
    slots: [Option<usize>; SLOTS],
}

impl Reference {
    pub fn new() -> Self {
        let root = Node { permissions: 0o755, nlink: 2, ..node(FileKind::Directory, ROOT) };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, slots: [None; SLOTS] }
    }

    /// Nothing is open any more.
    pub fn remounted(&mut self) {
        self.slots = [None; SLOTS];
    }

    /// Carries `op` out and says where `got` differs from what it should give.
    pub fn judge(&mut self, op: &Op, got: &Refusal) -> Result<(), String> {
        if let Op::Seek { target, offset, what } = op {
            return self.judge_seek(target, *offset, *what, got);
        }
        let wanted = self.carry_out(op);
        let is_same = match (&wanted, got) {
            (Ok(wanted), Ok(got)) => wanted == got,
            (Err(wanted), Err(got)) => {
                std::mem::discriminant(wanted) == std::mem::discriminant(got)
            }
            _ => false,
        };
        if is_same {
            Ok(())
        } else {
            Err(format!("{op:?}: {}, not {}", brief(got), brief(&wanted)))
        }
    }

    fn node(&self, inode: usize) -> &Node {
        &self.nodes[&inode]
    }

    fn node_mut(&mut self, inode: usize) -> &mut Node {
        self.nodes.get_mut(&inode).unwrap()
    }

    fn resolve(&self, path: &str) -> Result<usize, FsError> {
        let names = path.split('/').filter(|name| !name.is_empty());
        names
            .into_iter()
            .try_fold(ROOT, |inode, name| self.find(inode, name)?.ok_or(FsError::NotFound))
    }

    fn target(&self, target: &Target) -> Result<usize, FsError> {
        match target {
            Target::Path(path) => self.resolve(path),
            Target::Slot(slot) => self.slots[*slot].ok_or(FsError::NotFound),
        }
    }

    fn find(&self, parent: usize, name: &str) -> Result<Option<usize>, FsError> {
        let parent = self.node(parent);
        if !parent.is_directory() {
            return Err(FsError::NotDirectory);
        }
        if name.len() > NAME_LEN_MAX {
            return Err(FsError::NameTooLong);
        }
        Ok(parent.entries.get(name).copied())
    }

    fn parent_of<'a>(&self, path: &'a str) -> Result<(usize, &'a str), FsError> {
        let (parent, name) = split(path);
        Ok((self.resolve(parent)?, name))
    }

    fn regular(&self, target: &Target) -> Result<usize, FsError> {
        let inode = self.target(target)?;
        match self.node(inode).kind {
            FileKind::Regular => Ok(inode),
            FileKind::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    fn make(
        &mut self,
        path: &str,
        kind: FileKind,
        asked: u16,
        caller: Caller,
    ) -> Result<usize, FsError> {
        let (parent, name) = self.parent_of(path)?;
        check_name(name)?;
        if self.find(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let above = self.node(parent);
        let setgid = above.permissions & SETGID;
        let is_directory = kind == FileKind::Directory;
        let mut new = node(kind, if is_directory { parent } else { 0 });
        new.permissions = match kind {
            FileKind::Symlink => 0o777,
            FileKind::Directory => asked & !UMASK | setgid,
            _ => asked & !UMASK,
        };
        new.uid = caller.uid;
        new.gid = if setgid == 0 { caller.gid } else { above.gid };
        new.nlink = 1 + u32::from(is_directory);
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, new);
        let above = self.node_mut(parent);
        above.entries.insert(name.to_owned(), inode);
        above.nlink += u32::from(is_directory);
        Ok(inode)
    }

    fn drop_link(&mut self, inode: usize) {
        let node = self.node_mut(inode);
        node.nlink = if node.is_directory() { 0 } else { node.nlink - 1 };
    }

    fn remove(&mut self, path: &str, directory: bool) -> Refusal {
        let (parent, name) = self.parent_of(path)?;
        let inode = self.find(parent, name)?.ok_or(FsError::NotFound)?;
        match (directory, self.node(inode).is_directory()) {
            (true, false) => return Err(FsError::NotDirectory),
            (false, true) => return Err(FsError::IsDirectory),
            _ if !self.node(inode).entries.is_empty() => return Err(FsError::NotEmpty),
            _ => {}
        }
        let above = self.node_mut(parent);
        above.entries.remove(name);
        above.nlink -= u32::from(directory);
        self.drop_link(inode);
        Ok(Answer::Done)
    }

    fn link(&mut self, from: &Target, to: &str) -> Refusal {
        let inode = self.target(from)?;
        let (parent, name) = self.parent_of(to)?;
        check_name(name)?;
        if !self.node(parent).is_directory() {
            return Err(FsError::NotDirectory);
        }
        if self.node(inode).is_directory() {
            return Err(FsError::NotPermitted);
        }
        if self.node(inode).nlink == 0 {
            return Err(FsError::NotFound);
        }
        if self.find(parent, name)?.is_some() {
            return Err(FsError::Exists);
        }
        self.node_mut(parent).entries.insert(name.to_owned(), inode);
        self.node_mut(inode).nlink += 1;
        Ok(Answer::Done)
    }

    /// Whether directory `inode` is `of` or lies below it.
    fn is_below(&self, mut inode: usize, of: usize) -> bool {
        while inode != of {
            if inode == ROOT {
                return false;
            }
            inode = self.node(inode).parent;
        }
        true
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> Refusal {
        let (old, name) = self.parent_of(from)?;
        let (new, new_name) = self.parent_of(to)?;
        check_name(name)?;
        check_name(new_name)?;
        if !self.node(old).is_directory() || !self.node(new).is_directory() {
            return Err(FsError::NotDirectory);
        }
        let source = self.find(old, name)?.ok_or(FsError::NotFound)?;
        let target = self.find(new, new_name)?;
        let moves_directory = self.node(source).is_directory();
        if moves_directory && old != new && self.is_below(new, source) {
            return Err(FsError::Invalid);
        }
        let replaced = match (target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(FsError::Exists),
            (None, RenameMode::Exchange) => return Err(FsError::NotFound),
            (Some(target), _) if target == source => return Ok(Answer::Done),
            (Some(target), RenameMode::Exchange) => {
                if self.node(target).is_directory() && old != new && self.is_below(old, target) {
                    return Err(FsError::Invalid);
                }
                self.put(old, name, target);
                self.put(new, new_name, source);
                self.recount(&[old, new]);
                return Ok(Answer::Done);
            }
            (target, _) => target,
        };
        if let Some(target) = replaced {
            match (moves_directory, self.node(target).is_directory()) {
                (false, true) => return Err(FsError::IsDirectory),
                (true, false) => return Err(FsError::NotDirectory),
                _ if !self.node(target).entries.is_empty() => return Err(FsError::NotEmpty),
                _ => self.drop_link(target),
            }
        }
        self.node_mut(old).entries.remove(name);
        self.put(new, new_name, source);
        self.recount(&[old, new]);
        Ok(Answer::Done)
    }

    fn put(&mut self, parent: usize, name: &str, inode: usize) {
        self.node_mut(parent).entries.insert(name.to_owned(), inode);
        if self.node(inode).is_directory() {
            self.node_mut(inode).parent = parent;
        }
    }

    /// Links of directories, from what is in them.
    fn recount(&mut self, directories: &[usize]) {
        for directory in directories {
            let below = self.node(*directory).entries.values();
            let count = below.filter(|inode| self.node(**inode).is_directory()).count();
            self.node_mut(*directory).nlink = 2 + count as u32;
        }
    }

    fn carry_out(&mut self, op: &Op) -> Refusal {
        match op {
            Op::Make { path, kind, permissions, caller } => {
                self.make(path, *kind, *permissions, *caller)?;
            }
            Op::Symlink { path, target } => {
                let inode = self.make(path, FileKind::Symlink, 0o777, Caller { uid: 0, gid: 0 })?;
                self.node_mut(inode).content = Arc::new(target.clone().into_bytes());
            }
            Op::Link { from, to } => return self.link(from, to),
            Op::Unlink(path) => return self.remove(path, false),
            Op::Rmdir(path) => return self.remove(path, true),
            Op::Rename { from, to, mode } => return self.rename(from, to, *mode),
            Op::Open { slot, path } => self.slots[*slot] = Some(self.resolve(path)?),
            Op::Close(slot) => self.slots[*slot] = None,
            Op::Write { .. } | Op::Truncate { .. } | Op::Allocate { .. } | Op::Copy { .. } => {
                return self.change_content(op);
            }
            _ => return self.attributes(op),
        }
        Ok(Answer::Done)
    }

    fn change_content(&mut self, op: &Op) -> Refusal {
        match op {
            Op::Write { target, offset, fill } => {
                let inode = self.regular(target)?;
                check_end(*offset, fill.len as u64)?;
                if fill.len > 0 {
                    self.node_mut(inode).lay(*offset, &fill.bytes());
                }
                return Ok(Answer::Number(fill.len as u64));
            }
            Op::Truncate { target, size, caller } => {
                let inode = self.regular(target)?;
                check_end(*size, 0)?;
                let node = self.node_mut(inode);
                Arc::make_mut(&mut node.content).resize(*size as usize, 0);
                if caller.uid != 0 {
                    node.kill_privileges();
                }
            }
            Op::Allocate { target, offset, len, how } => {
                if *len == 0 {
                    self.target(target)?;
                    return Err(FsError::Invalid);
                }
                let inode = self.regular(target)?;
                check_end(*offset, *len)?;
                let node = self.node_mut(inode);
                node.kill_privileges();
                let content = Arc::make_mut(&mut node.content);
                let (from, to) = (*offset as usize, (*offset + *len) as usize);
                let zeroes = !matches!(how, Allocate::Reserve { .. });
                let size = content.len();
                if zeroes {
                    content[from.min(size)..to.min(size)].fill(0);
                }
                let keeps = match how {
                    Allocate::Reserve { keep_size } | Allocate::Zero { keep_size } => *keep_size,
                    Allocate::PunchHole => true,
                };
                content.resize(if keeps { size } else { size.max(to) }, 0);
            }
            Op::Copy { from, from_offset, to, to_offset, len } => {
                // Both must be there before either may be of the wrong kind.
                let (_, _) = (self.target(from)?, self.target(to)?);
                let (from, to) = (self.regular(from)?, self.regular(to)?);
                let content = self.node(from).content.clone();
                let start = (*from_offset as usize).min(content.len());
                let end = (start + *len as usize).min(content.len());
                check_end(*to_offset, (end - start) as u64)?;
                if start < end {
                    self.node_mut(to).lay(*to_offset, &content[start..end]);
                    self.node_mut(to).kill_privileges();
                }
                return Ok(Answer::Number((end - start) as u64));
            }
            other => unreachable!("{other:?} changes no content"),
        }
        Ok(Answer::Done)
    }

    fn attributes(&mut self, op: &Op) -> Refusal {
        match op {
            Op::Chmod { target, permissions } => {
                let inode = self.target(target)?;
                self.node_mut(inode).permissions = *permissions;
            }
            Op::Chown { target, uid, gid } => {
                let inode = self.target(target)?;
                let node = self.node_mut(inode);
                (node.uid, node.gid) = (*uid, *gid);
                node.kill_privileges();
            }
            Op::SetXattr { target, name, value, mode } => {
                let inode = self.target(target)?;
                check_xattr(name)?;
                return self.set_xattr(inode, name, *value, *mode);
            }
            Op::RemoveXattr { target, name } => {
                let inode = self.target(target)?;
                check_xattr(name)?;
                self.node_mut(inode).xattrs.remove(name).ok_or(FsError::NoData)?;
            }
            Op::GetXattr { target, name } => {
                let inode = self.target(target)?;
                check_xattr(name)?;
                let value = self.node(inode).xattrs.get(name).ok_or(FsError::NoData)?;
                return Ok(Answer::Bytes(value.clone().into()));
            }
            Op::Read { target, offset, len } => {
                let inode = self.target(target)?;
                let node = self.node(inode);
                if node.kind != FileKind::Regular {
                    return Err(FsError::Invalid);
                }
                let from = (*offset as usize).min(node.content.len());
                let to = (from + *len as usize).min(node.content.len());
                return Ok(Answer::Bytes(node.content[from..to].to_vec().into()));
            }
            Op::List { target, .. } => {
                let inode = self.target(target)?;
                let node = self.node(inode);
                if !node.is_directory() {
                    return Err(FsError::NotDirectory);
                }
                let names = [".", ".."].into_iter().chain(node.entries.keys().map(String::as_str));
                let mut names: Vec<_> = names.map(|name| name.as_bytes().to_vec()).collect();
                names.sort();
                return Ok(Answer::Names(names));
            }
            Op::ReadLink(path) => {
                let inode = self.resolve(path)?;
                let node = self.node(inode);
                if node.kind != FileKind::Symlink {
                    return Err(FsError::Invalid);
                }
                return Ok(Answer::Bytes(node.content.to_vec().into()));
            }
            other => unreachable!("{other:?} is dealt with elsewhere"),
        }
        Ok(Answer::Done)
    }

    fn set_xattr(&mut self, inode: usize, name: &str, value: Fill, mode: XattrMode) -> Refusal {
        if value.len > XATTR_LEN_MAX {
            return Err(FsError::TooBig);
        }
        let xattrs = &mut self.node_mut(inode).xattrs;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(FsError::Exists),
            (XattrMode::Replace, false) => return Err(FsError::NoData),
            _ => {}
        }
        xattrs.insert(name.to_owned(), value.bytes());
        Ok(Answer::Done)
    }

    /// Where holes are is the file system's choice, but they read as zeros and data is not skipped.
    fn judge_seek(
        &self,
        target: &Target,
        offset: u64,
        what: Seek,
        got: &Refusal,
    ) -> Result<(), String> {
        let content = match self.target(target) {
            Ok(inode) if self.node(inode).kind != FileKind::Regular => return Ok(()),
            Ok(inode) => self.node(inode).content.clone(),
            Err(_) if got.is_err() => return Ok(()),
            Err(error) => return Err(format!("seek: {}, not {error:?}", brief(got))),
        };
        let from = (offset as usize).min(content.len());
        let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == 0);
        let fits = match (what, got) {
            (_, Err(FsError::BeyondEnd)) if offset >= content.len() as u64 => true,
            (Seek::Data, Err(FsError::BeyondEnd)) => is_zero(&content[from..]),
            (Seek::Data, Ok(Answer::Number(found))) => {
                (from as u64..content.len() as u64).contains(found)
                    && is_zero(&content[from..*found as usize])
            }
            (Seek::Hole, Ok(Answer::Number(found))) => {
                (offset..=content.len() as u64).contains(found)
                    && content.get(*found as usize).is_none_or(|byte| *byte == 0)
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("seek {what:?} from {offset}: {}", brief(got))) }
    }

    /// The whole tree as text.
    pub fn dump(&self) -> String {
        let mut dump = Dump::default();
        self.dump_below(ROOT, "", &mut dump);
        dump.text
    }

    fn dump_below(&self, inode: usize, path: &str, dump: &mut Dump) {
        let node = self.node(inode);
        let xattrs = node.xattrs.iter();
        let line = Line {
            kind: node.kind,
            permissions: node.permissions,
            owner: (node.uid, node.gid),
            nlink: node.nlink,
            content: &node.content,
            xattrs: xattrs.map(|(name, value)| (name.clone(), value.clone())).collect(),
        };
        dump.add(path, inode as u64, &line);
        for (name, inode) in &node.entries {
            self.dump_below(*inode, &format!("{path}/{name}"), dump);
        }
    }
}

fn node(kind: FileKind, parent: usize) -> Node {
    Node {
        kind,
        permissions: 0,
        uid: 0,
        gid: 0,
        nlink: 0,
        content: Arc::default(),
        entries: BTreeMap::new(),
        xattrs: BTreeMap::new(),
        parent,
    }
}

fn check_name(name: &str) -> Result<(), FsError> {
    match name {
        "" | "." | ".." => Err(FsError::Invalid),
        _ if name.len() > NAME_LEN_MAX => Err(FsError::NameTooLong),
        _ => Ok(()),
    }
}

fn check_end(from: u64, len: u64) -> Result<(), FsError> {
    let end = from.checked_add(len).filter(|end| *end <= FILE_SIZE_MAX);
    end.map(drop).ok_or(FsError::FileTooLarge)
}

fn check_xattr(name: &str) -> Result<(), FsError> {
    if name.len() > XATTR_NAME_LEN_MAX {
        return Err(FsError::Invalid);
    }
    let known = ["user.", "trusted.", "security."].iter().any(|space| name.starts_with(space));
    if known { Ok(()) } else { Err(FsError::NotSupported) }
}

/// An answer without kilobytes of content.
fn brief(answer: &Refusal) -> String {
    match answer {
        Ok(Answer::Bytes(bytes)) => format!("{} bytes of hash {:x}", bytes.len(), hash(bytes)),
        other => format!("{other:?}"),
    }
}

/// Tells contents apart; not secret.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What a dump says of an inode.
pub(super) struct Line<'a> {
    pub kind: FileKind,
    pub permissions: u16,
    pub owner: (u32, u32),
    pub nlink: u32,
    pub content: &'a [u8],
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// A tree as text, in the order of paths; inodes get numbers in the order in which they are met.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub text: String,
    met: BTreeMap<u64, usize>,
}

impl Dump {
    pub fn add(&mut self, path: &str, inode: u64, line: &Line<'_>) {
        let next = self.met.len();
        let number = *self.met.entry(inode).or_insert(next);
        let Line { kind, permissions, owner: (uid, gid), nlink, content, xattrs } = line;
        let (size, hash_of_content) = (content.len(), hash(content));
        let result = write!(
            self.text,
            "{path} #{number} {kind:?} {permissions:o} {uid}:{gid} links {nlink} size {size} content {hash_of_content:x}"
        );
        result.unwrap();
        for (name, value) in xattrs {
            write!(self.text, " {name}={}:{:x}", value.len(), hash(value)).unwrap();
        }
        self.text.push('\n');
    }
}
