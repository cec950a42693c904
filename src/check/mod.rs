//! Checks that a volume is what it says: its records against each other (`fsck`), its packs byte by
//! byte (`scrub`).
//!
//! ```text
//! fsck    I, P, F, X, O, R, U --> tables: some bytes an inode, a pack
//!         L, B (block maps), D (names) --> counted against the tables --> findings, with repairs
//! repair  findings of the lowest stage --> batches --> check again, until nothing is left to mend
//! scrub   every object, every record --> faulty packs --> block maps --> files, byte ranges
//! ```
//!
//! Invariants: a check reads each record once and changes nothing; a repair takes away only what
//! shows no content and leads to none, and leaves what is not clear.

mod content;
mod cursor;
mod edit;
mod entries;
mod error;
mod names;
mod packs;
mod paths;
mod problem;
mod refusal;
mod repair;
mod report;
mod scrub;
mod sums;
mod tables;
mod tree;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::base::{BlockIndex, BlockSize, Inode, PackNumber};
use crate::crypto::SecretKey;
use crate::format::{FileKind, InodeFlags, InodeRecord, Key, KeyKind};
use crate::meta::MetaRead;

use content::Unread;
use cursor::Cursor;
use entries::Dangling;
use tables::{Inodes, Packs};

pub use error::CheckError;
pub use paths::paths;
pub use problem::Problem;
pub use repair::{Bucket, Means, Mended, repair};
pub use report::{Fields, Finding, Repair, Report};
pub use scrub::{
    DamagedFile, DamagedObject, Fault, FaultyPack, Objects, Progress, ScrubOptions, Scrubbed,
    scrub, scrub_metadata,
};

/// Checks of records that move on meanwhile. A reader with a long interval does so once, at its beginning.
const TRIES_MAX: usize = 5;
/// Between two looks at whether the records have settled.
const SETTLING: Duration = Duration::from_millis(50);

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
/// `meta` must show one state for as long as this takes; [`fsck_beside`] sees to it beside a writer.
///
/// # Errors
/// [`CheckError::Meta`]: not all records could be read.
pub async fn fsck(meta: &dyn MetaRead, facts: &Facts) -> Result<Report, CheckError> {
    fsck_again(meta, facts, false).await
}

/// The same beside a writer: where `meta` moved on to another state meanwhile, it is done again.
///
/// # Errors
/// As [`fsck`]; [`CheckError::Moving`]: it moved on each time.
pub async fn fsck_beside(meta: &dyn MetaRead, facts: &Facts) -> Result<Report, CheckError> {
    for _ in 0..TRIES_MAX {
        while meta.is_settling() {
            tokio::time::sleep(SETTLING).await;
        }
        let version = meta.version();
        let report = fsck(meta, facts).await;
        if meta.version() == version && !meta.is_settling() {
            return report;
        }
    }
    Err(CheckError::Moving)
}

/// As [`fsck`], of records that are being mended; `was_doubtful` before that.
async fn fsck_again(
    meta: &dyn MetaRead,
    facts: &Facts,
    was_doubtful: bool,
) -> Result<Report, CheckError> {
    let mut check = Check {
        meta,
        facts,
        was_doubtful,
        report: Report::default(),
        inodes: Inodes::default(),
        packs: Packs::default(),
        inode_max: Inode::ROOT,
        has_damaged_page: false,
        has_missing_content: false,
        unread: None,
        odd: Vec::new(),
        dangling: Vec::new(),
        missing: BTreeSet::new(),
    };
    check.unknown_records().await?;
    check.load_inodes().await?;
    check.load_packs().await?;
    check.orphan_marks().await?;
    check.block_maps().await?;
    check.entries().await?;
    check.attributes().await?;
    check.judge_odd();
    check.judge_tree();
    check.judge_links();
    check.judge_content();
    check.references().await?;
    check.judge_packs();
    check.sums().await?;
    check.report.is_doubtful = check.is_doubtful();
    Ok(check.report)
}

/// A check under way.
struct Check<'a> {
    meta: &'a dyn MetaRead,
    facts: &'a Facts,
    was_doubtful: bool,
    report: Report,
    inodes: Inodes,
    packs: Packs,
    /// The highest number that any record names.
    inode_max: Inode,
    /// What a damaged page showed is not known: some counts can only be too low.
    has_damaged_page: bool,
    /// Block maps lack what a pack counts, and a file counts it too or may: of no pack less is in
    /// use than it counts.
    has_missing_content: bool,
    /// What cannot be read of the file whose pages are being met.
    unread: Option<Unread>,
    /// Inodes whose fields contradict their kind, in order.
    odd: Vec<Odd>,
    /// Names of inodes without a record.
    dangling: Vec<Dangling>,
    /// Inodes without a record that have content or names in them: they are made anew.
    missing: BTreeSet<Inode>,
}

/// An inode whose fields contradict its kind.
struct Odd {
    inode: Inode,
    what: &'static str,
    /// Bringing the fields in line with the kind loses nothing. Otherwise it is not clear which of
    /// them is right.
    is_safe: bool,
}

impl Check<'_> {
    fn unknown(&mut self, key: Bytes) {
        self.report.add(Problem::UnknownRecord { key }, None);
    }

    /// Whether what is damaged or missing may show content of any pack.
    fn is_doubtful(&self) -> bool {
        self.was_doubtful || self.has_damaged_page || self.has_missing_content
    }

    fn met(&mut self, inode: Inode) {
        self.inode_max = self.inode_max.max(inode);
    }

    /// The next record of a walk and the numbers in its key; keys of another form are told.
    async fn next<const N: usize>(
        &mut self,
        cursor: &mut Cursor<'_>,
    ) -> Result<Option<([u64; N], Bytes)>, CheckError> {
        while let Some((key, value)) = cursor.next().await? {
            self.report.records += 1;
            match Key::numbers(&key) {
                Some(numbers) => return Ok(Some((numbers, value))),
                None => self.unknown(key),
            }
        }
        Ok(None)
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
        while let Some(([inode], value)) = self.next(&mut cursor).await? {
            let inode = Inode(inode);
            self.met(inode);
            match InodeRecord::decode(&value) {
                Ok(record) if inode == Inode::ROOT && !record.is_directory() => {
                    // The names in it are not given up for that.
                    let what = "the root is no directory";
                    self.report.add(Problem::WrongFields { inode, what }, None);
                    self.inodes.add(inode, None);
                }
                Ok(record) => {
                    if let Some((what, is_safe)) = contradiction(&record) {
                        self.odd.push(Odd { inode, what, is_safe });
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
            } else if !self.missing.contains(&inode) {
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
        while let Some(([inode], _)) = self.next(&mut cursor).await? {
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
        while let Some(([pack, inode, block], _)) = self.next(&mut cursor).await? {
            let pack = PackNumber(pack);
            if !self.packs.is_known(pack) && !self.packs.unknown.contains_key(&pack) {
                let key = Key::reference(pack, Inode(inode), BlockIndex(block));
                // A page that is damaged or missing may show something of the pack.
                let repair = (!self.is_doubtful()).then(|| Repair::Set(vec![(key, None)]));
                self.report.add(Problem::StrayReference { pack }, repair);
            }
        }
        Ok(())
    }

    /// Fields that contradict an inode's kind, once its pages and the names under it are seen.
    fn judge_odd(&mut self) {
        let packs_lack = self.packs.lack() > 0;
        for Odd { inode, what, is_safe } in std::mem::take(&mut self.odd) {
            // Or it had some, in pages that are missing.
            let has_content = self.inodes.node(inode).is_some_and(|node| {
                let has_content = node.content > 0 || (packs_lack && node.lacks_content());
                node.kind != Some(FileKind::Regular) && has_content
            });
            let normal = Fields { normal: true, ..Fields::default() };
            let repair = (is_safe && !has_content).then_some(Repair::Inode(inode, normal));
            self.report.add(Problem::WrongFields { inode, what }, repair);
        }
    }
}

/// What contradicts an inode's kind, and whether nothing is lost if the kind is right.
fn contradiction(record: &InodeRecord) -> Option<(&'static str, bool)> {
    let InodeRecord { kind, size, allocated, parent, entries, target, .. } = record;
    let (is_file, is_link) = (*kind == FileKind::Regular, *kind == FileKind::Symlink);
    if !is_link && !target.is_empty() {
        Some(("a link's target, but it is no link", false))
    } else if is_link && *size != target.len() as u64 {
        Some(("a link whose size is not that of its target", true))
    } else if !is_file && !is_link && *size != 0 {
        Some(("a size, but neither file nor link", true))
    } else if !is_file && *allocated != 0 {
        Some(("it has bytes of content, but is no file", true))
    } else if !record.is_directory() && (*parent != Inode(0) || *entries != 0) {
        Some(("no directory, but with a parent or names in it", true))
    } else {
        None
    }
}
