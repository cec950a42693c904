//! Listing: directories and names of extended attributes.
//!
//! A listing goes on by hash, so entries that come and go meanwhile disturb no
//! other: each entry that stays is listed once.

use bytes::Bytes;

use super::system::SCAN_RECORDS;
use super::{Attributes, FileSystem, FsError, ListedEntry, Outcome};
use crate::base::Inode;
use crate::format::{DirEntry, FileKind, HASH_MIN, InodeFlags, Key, KeyKind};

/// Offset after `.`.
const OFFSET_DOT: u64 = 1;
/// Offset after `..`.
const OFFSET_DOT_DOT: u64 = 2;

/// Fewer records are not asked for: there may be tombstones among them.
const SCAN_RECORDS_MIN: usize = 32;

/// Inodes of one listing are fetched by a range if that is no more than this many times too long.
const SPREAD_MAX: u64 = 4;

impl FileSystem {
    /// Entries of a directory after `offset`, at most `limit`; none at the end.
    ///
    /// # Errors
    /// [`FsError::NotDirectory`]; [`FsError::Io`] if the store does not answer.
    pub fn readdir(
        &self,
        inode: Inode,
        offset: u64,
        limit: usize,
        with_attributes: bool,
    ) -> Outcome<Vec<ListedEntry>> {
        let fs = self.clone();
        self.start(async move { fs.list(inode, offset, limit, with_attributes).await })
    }

    async fn list(
        &self,
        inode: Inode,
        offset: u64,
        limit: usize,
        with_attributes: bool,
    ) -> Result<Vec<ListedEntry>, FsError> {
        let directory = self.run(move |tx| tx.directory(inode)).wait().await?;
        let mut entries = Vec::new();
        let mut dot = |offset, name: &[u8], inode| {
            let (kind, name) = (FileKind::Directory, name.into());
            entries.push(ListedEntry { inode, kind, name, offset, attributes: None });
        };
        if offset < OFFSET_DOT {
            dot(OFFSET_DOT, b".", inode);
        }
        if offset < OFFSET_DOT_DOT {
            dot(OFFSET_DOT_DOT, b"..", directory.parent);
        }
        let from = offset.saturating_add(1).max(HASH_MIN);
        let (mut start, end) = Key::range_under(KeyKind::Entry, inode, from);
        while entries.len() < limit {
            let wanted = (limit - entries.len()).clamp(SCAN_RECORDS_MIN, SCAN_RECORDS);
            let scanned = self.scan(&start, &end, wanted).await?;
            for (key, value) in &scanned.records {
                if entries.len() == limit {
                    break;
                }
                entries.extend(listed(key, value)?);
            }
            let Some(next) = scanned.next else { break };
            start = next;
        }
        entries.truncate(limit);
        if with_attributes { self.with_attributes(entries).await } else { Ok(entries) }
    }

    /// Adds attributes; entries whose inode has gone meanwhile are left out.
    async fn with_attributes(
        &self,
        entries: Vec<ListedEntry>,
    ) -> Result<Vec<ListedEntry>, FsError> {
        self.load_inodes(&entries).await?;
        let mut complete = Vec::with_capacity(entries.len());
        for mut entry in entries {
            if entry.offset <= OFFSET_DOT_DOT {
                complete.push(entry);
                continue;
            }
            let inode = entry.inode;
            let found = self.run(move |tx| {
                let attributes: Attributes = tx.attributes(inode)?;
                tx.opened().looked_up(inode);
                Ok(attributes)
            });
            match found.wait().await {
                Ok(attributes) => {
                    entry.attributes = Some(attributes);
                    complete.push(entry);
                }
                Err(FsError::NotFound) => {}
                Err(error) => {
                    complete.iter().filter(|e| e.attributes.is_some()).for_each(|e| {
                        self.forget(e.inode, 1);
                    });
                    return Err(error);
                }
            }
        }
        Ok(complete)
    }

    /// Brings the inodes of a listing into memory with one scan, where they lie close together.
    async fn load_inodes(&self, entries: &[ListedEntry]) -> Result<(), FsError> {
        let missing: Vec<Key> = {
            let mut core = self.inner.lock();
            let keys = entries.iter().map(|entry| Key::inode(entry.inode));
            keys.filter(|key| core.record(key).is_none()).collect()
        };
        let numbers = || missing.iter().filter_map(|key| Key::number(key.as_bytes(), 0));
        let (Some(first), Some(last)) = (numbers().min(), numbers().max()) else { return Ok(()) };
        if last - first >= SPREAD_MAX * missing.len() as u64 {
            return Ok(());
        }
        self.inner.load_range(&missing, Inode(first), Inode(last)).await
    }

    /// Names of an inode's extended attributes.
    pub fn listxattr(&self, inode: Inode) -> Outcome<Vec<Box<[u8]>>> {
        let fs = self.clone();
        self.start(async move {
            let record = fs.run(move |tx| tx.inode(inode)).wait().await?;
            let mut names = Vec::new();
            if !record.flags.has(InodeFlags::XATTRS) {
                return Ok(names);
            }
            let (mut start, end) = Key::range_of_xattrs(inode);
            loop {
                let scanned = fs.scan(&start, &end, SCAN_RECORDS).await?;
                let keys = scanned.records.iter().map(|(key, _)| key);
                names.extend(keys.filter_map(|key| Key::xattr_name(key)).map(Box::from));
                let Some(next) = scanned.next else { return Ok(names) };
                start = next;
            }
        })
    }
}

/// The entry that a record stands for; `None` for a tombstone.
fn listed(key: &[u8], value: &Bytes) -> Result<Option<ListedEntry>, FsError> {
    let entry = DirEntry::decode(value).map_err(|error| FsError::io(&error, error.kind()))?;
    let (Some((inode, kind)), Some(offset)) = (entry.target, Key::number(key, 1)) else {
        return Ok(None);
    };
    Ok(Some(ListedEntry { inode, kind, name: entry.name, offset, attributes: None }))
}
