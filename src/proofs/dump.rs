//! A mounted volume as text, every byte of it read.

use std::collections::BTreeMap;

use super::reference::{Dump, Line};
use crate::base::Inode;
use crate::format::FileKind;
use crate::fs::{FileSystem, FsError, Handle};

const READ_BYTES: u32 = 256 << 10;
const LIST_ENTRIES: usize = 100;

/// The whole tree in the words of [`Reference::dump`](super::reference::Reference::dump).
pub(super) async fn dump(fs: &FileSystem) -> Result<String, FsError> {
    let mut dump = Dump::default();
    // Deepest last, and names in order: a stack of what is still to be visited.
    let mut stack = vec![(String::new(), Inode::ROOT)];
    while let Some((path, inode)) = stack.pop() {
        let record = fs.getattr(inode).wait().await?.record;
        let content = match record.kind {
            FileKind::Regular => content(fs, inode, record.size).await?,
            FileKind::Symlink => fs.readlink(inode).wait().await?.to_vec(),
            _ => Vec::new(),
        };
        let line = Line {
            kind: record.kind,
            permissions: record.permissions,
            owner: (record.uid, record.gid),
            nlink: record.nlink,
            content: &content,
            xattrs: xattrs(fs, inode).await?,
        };
        dump.add(&path, inode.0, &line);
        if record.is_directory() {
            let entries = entries(fs, inode).await?;
            stack.extend(
                entries.into_iter().rev().map(|(name, inode)| (format!("{path}/{name}"), inode)),
            );
        }
    }
    Ok(dump.text)
}

async fn content(fs: &FileSystem, inode: Inode, size: u64) -> Result<Vec<u8>, FsError> {
    let mut content = Vec::with_capacity(size as usize);
    loop {
        let part = fs.read(inode, Handle(0), content.len() as u64, READ_BYTES).wait().await?;
        if part.is_empty() {
            return Ok(content);
        }
        content.extend_from_slice(&part);
    }
}

async fn xattrs(fs: &FileSystem, inode: Inode) -> Result<BTreeMap<String, Vec<u8>>, FsError> {
    let mut xattrs = BTreeMap::new();
    for name in fs.listxattr(inode).wait().await? {
        let value = fs.getxattr(inode, &name).wait().await?;
        xattrs.insert(String::from_utf8_lossy(&name).into_owned(), value.to_vec());
    }
    Ok(xattrs)
}

async fn entries(fs: &FileSystem, inode: Inode) -> Result<BTreeMap<String, Inode>, FsError> {
    let (mut all, mut offset) = (BTreeMap::new(), 0);
    loop {
        let entries = fs.readdir(inode, offset, LIST_ENTRIES, false).wait().await?;
        let Some(last) = entries.last() else { break };
        offset = last.offset;
        let named = entries
            .into_iter()
            .map(|entry| (String::from_utf8_lossy(&entry.name).into_owned(), entry.inode));
        all.extend(named.filter(|(name, _)| name != "." && name != ".."));
    }
    Ok(all)
}
