//! Checks that a volume is what it says: its records against each other (`fsck`).
//!
//! ```text
//! fsck    I, P, F, X, O, R, U --> tables: some bytes an inode, a pack
//!         L, B (block maps), D (names) --> counted against the tables --> findings, with repairs
//! ```
//!
//! Invariant: a check reads each record once and changes nothing.

mod content;
mod cursor;
mod entries;
mod error;
mod packs;
mod report;
mod sums;
mod tables;
mod tree;

use crate::base::{BlockSize, Inode, PackNumber};
use crate::crypto::SecretKey;
use crate::format::{FileKind, InodeFlags, InodeRecord, Key, KeyKind};
use crate::meta::MetaRead;

use bytes::Bytes;
use cursor::Cursor;
use tables::{Inodes, Packs};

pub use error::CheckError;
pub use report::{Fields, Finding, Problem, Repair, Report};

/// What a check has to know besides the records.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The volume's block size.
    pub block_size: BlockSize,
    /// Tells where names belong; without it, that is not looked at.
    pub names: Option<SecretKey>,
}

/// Checks all records of a volume against each other.
///
/// `meta` must show one state for as long as this takes; beside a writer, a reader that does not
/// follow it.
///
/// # Errors
/// [`CheckError::Meta`]: not all records could be read.
pub async fn fsck(meta: &dyn MetaRead, facts: &Facts) -> Result<Report, CheckError> {
    let mut check = Check {
        meta,
        facts,
        report: Report::default(),
        inodes: Inodes::default(),
        packs: Packs::default(),
        inode_max: Inode::ROOT,
        has_damaged_page: false,
    };
    check.unknown_records().await?;
    check.load_inodes().await?;
    check.load_packs().await?;
    check.attributes().await?;
    check.orphan_marks().await?;
    check.block_maps().await?;
    check.references().await?;
    check.entries().await?;
    check.judge_tree();
    check.judge_links();
    check.judge_content();
    check.judge_packs();
    check.sums().await?;
    Ok(check.report)
}

/// A check under way.
struct Check<'a> {
    meta: &'a dyn MetaRead,
    facts: &'a Facts,
    report: Report,
    inodes: Inodes,
    packs: Packs,
    /// The highest number that any record names.
    inode_max: Inode,
    /// What a damaged page showed is not known: some counts can only be too low.
    has_damaged_page: bool,
}

impl Check<'_> {
    fn unknown(&mut self, key: Bytes) {
        self.report.add(Problem::UnknownRecord { key }, None);
    }

    fn met(&mut self, inode: Inode) {
        self.inode_max = self.inode_max.max(inode);
    }

    /// Records between and around the known kinds.
    async fn unknown_records(&mut self) -> Result<(), CheckError> {
        let mut start = vec![0];
        let ranges = KeyKind::ALL.map(Key::range_of);
        for (from, to) in ranges.into_iter().chain([(vec![0xff; 2], Vec::new())]) {
            if start < from {
                let mut cursor = Cursor::over(self.meta, (start, from));
                while let Some((key, _)) = cursor.next().await? {
                    self.unknown(key);
                }
            }
            start = to;
        }
        Ok(())
    }

    async fn load_inodes(&mut self) -> Result<(), CheckError> {
        let mut cursor = Cursor::of(self.meta, KeyKind::Inode);
        while let Some((key, value)) = cursor.next().await? {
            self.report.records += 1;
            let Some([inode]) = Key::numbers(&key) else {
                self.unknown(key);
                continue;
            };
            let inode = Inode(inode);
            self.met(inode);
            match InodeRecord::decode(&value) {
                Ok(record) => {
                    if let Some(what) = contradiction(inode, &record) {
                        let normal = Fields { normal: true, ..Fields::default() };
                        let is_root_file = inode == Inode::ROOT && !record.is_directory();
                        let repair = (!is_root_file).then_some(Repair::Inode(inode, normal));
                        self.report.add(Problem::WrongFields { inode, what }, repair);
                    }
                    self.inodes.add(inode, Some(&record));
                }
                Err(error) => {
                    self.report.add(Problem::DamagedInode { inode, error }, None);
                    self.inodes.add(inode, None);
                }
            }
        }
        Ok(())
    }

    /// Extended attributes.
    async fn attributes(&mut self) -> Result<(), CheckError> {
        let mut cursor = Cursor::of(self.meta, KeyKind::Xattr);
        while let Some((key, _)) = cursor.next().await? {
            self.report.records += 1;
            let name = Key::xattr_name(&key).filter(|name| !name.is_empty());
            let (Some(inode), Some(name)) = (Key::number(&key, 0).map(Inode), name) else {
                self.unknown(key);
                continue;
            };
            self.met(inode);
            let flags = InodeFlags::XATTRS | InodeFlags::of_xattr(name);
            if let Some(node) = self.inodes.node(inode) {
                node.seen_flags |= flags as u8;
            } else {
                let repair = Repair::Set(vec![(Key::from_bytes(&key), None)]);
                self.report.add(Problem::StrayXattr { inode }, repair);
            }
        }
        for node in self.inodes.nodes.iter().filter(|node| node.kind.is_some()) {
            let acls = (InodeFlags::ACCESS_ACL | InodeFlags::DEFAULT_ACL) as u8;
            // The first flag says that there may be some.
            let found = node.flags & !acls | node.seen_flags;
            if found != node.flags {
                let fields = Fields { flags: Some(u32::from(found)), ..Fields::default() };
                let inode = node.inode;
                self.report.add(Problem::WrongFlags { inode }, Repair::Inode(inode, fields));
            }
        }
        Ok(())
    }

    async fn orphan_marks(&mut self) -> Result<(), CheckError> {
        let mut cursor = Cursor::of(self.meta, KeyKind::Orphan);
        while let Some((key, _)) = cursor.next().await? {
            self.report.records += 1;
            let Some([inode]) = Key::numbers(&key) else {
                self.unknown(key);
                continue;
            };
            let inode = Inode(inode);
            self.met(inode);
            if let Some(node) = self.inodes.node(inode) {
                node.is_marked = true;
            } else {
                let repair = Repair::Set(vec![(Key::orphan(inode), None)]);
                self.report.add(Problem::StrayOrphanMark { inode }, repair);
            }
        }
        Ok(())
    }

    /// Back-references, and notes of unswept packs.
    async fn references(&mut self) -> Result<(), CheckError> {
        let mut cursor = Cursor::of(self.meta, KeyKind::Reference);
        while let Some((key, _)) = cursor.next().await? {
            self.report.records += 1;
            let Some([pack, _, _]) = Key::numbers(&key) else {
                self.unknown(key);
                continue;
            };
            let pack = PackNumber(pack);
            if !self.packs.is_known(pack) && !self.packs.unknown.contains_key(&pack) {
                let repair = Repair::Set(vec![(Key::from_bytes(&key), None)]);
                self.report.add(Problem::StrayReference { pack }, repair);
            }
        }
        Ok(())
    }
}

/// What contradicts an inode's kind.
fn contradiction(inode: Inode, record: &InodeRecord) -> Option<&'static str> {
    let InodeRecord { kind, size, allocated, parent, entries, target, .. } = record;
    let is_directory = *kind == FileKind::Directory;
    match kind {
        _ if inode == Inode::ROOT && !is_directory => Some("the root is no directory"),
        _ if !is_directory && (*parent != Inode(0) || *entries != 0) => {
            Some("no directory, but with a parent or names in it")
        }
        FileKind::Regular if !target.is_empty() => Some("a file with a link's target"),
        FileKind::Regular => None,
        _ if *allocated != 0 => Some("it has bytes of content, but is no file"),
        FileKind::Symlink if *size != target.len() as u64 || target.is_empty() => {
            Some("a link whose size is not that of its target")
        }
        FileKind::Symlink => None,
        _ if *size != 0 || !target.is_empty() => {
            Some("a size or target, but neither file nor link")
        }
        _ => None,
    }
}
