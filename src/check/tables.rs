//! What a check remembers: some bytes for each inode, directory and pack.

use std::collections::BTreeMap;

use crate::base::{CommitNumber, Inode, PackNumber};
use crate::format::{FileKind, FormatError, InodeRecord, PackRecord};

/// An inode, and what was seen of it.
#[derive(Debug)]
pub(super) struct Node {
    pub inode: Inode,
    pub size: u64,
    /// Bytes of content, as recorded.
    pub allocated: u64,
    /// Bytes of content, as its pages say.
    pub content: u64,
    /// One past the last byte that its pages show.
    pub end: u64,
    /// Links, as recorded.
    pub nlink: u32,
    /// Names that lead to it.
    pub names: u32,
    /// `None` if its record does not decode.
    pub kind: Option<FileKind>,
    /// Flags, as recorded.
    pub flags: u8,
    /// Flags, as its extended attributes say.
    pub seen_flags: u8,
    /// There is an orphan record.
    pub is_marked: bool,
    /// A page of its block map does not decode.
    pub has_damaged_page: bool,
    /// A page is marked for inline bytes, and is not there.
    pub has_stray_mark: bool,
}

impl Node {
    pub fn new(inode: Inode, record: Option<&InodeRecord>) -> Self {
        Self {
            inode,
            size: record.map_or(0, |record| record.size),
            allocated: record.map_or(0, |record| record.allocated),
            content: 0,
            end: 0,
            nlink: record.map_or(0, |record| record.nlink),
            names: 0,
            kind: record.map(|record| record.kind),
            flags: record.map_or(0, |record| record.flags.0 as u8),
            seen_flags: 0,
            is_marked: false,
            has_damaged_page: false,
            has_stray_mark: false,
        }
    }

    /// Whether its pages show less than it counts.
    pub fn lacks_content(&self) -> bool {
        self.content < self.allocated
    }

    /// The same, or it is not known what it counts.
    pub fn may_lack_content(&self) -> bool {
        self.kind.is_none() || self.lacks_content()
    }
}

/// A directory, besides what is known of its inode.
#[derive(Debug)]
pub(super) struct Dir {
    pub inode: Inode,
    /// The directory that holds it, as recorded.
    pub parent: Inode,
    /// The directory in which it has a name.
    pub holder: Option<Inode>,
    /// Names in it, as recorded.
    pub entries: u64,
    /// Names in it.
    pub names: u64,
    /// Those of directories.
    pub subdirectories: u32,
}

/// All inodes in order, and those of directories.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    pub nodes: Vec<Node>,
    pub dirs: Vec<Dir>,
}

impl Inodes {
    /// Inodes come in order.
    pub fn add(&mut self, inode: Inode, record: Option<&InodeRecord>) {
        self.nodes.push(Node::new(inode, record));
        if let Some(record) = record.filter(|record| record.is_directory()) {
            self.dirs.push(Dir {
                inode,
                parent: record.parent,
                holder: None,
                entries: record.entries,
                names: 0,
                subdirectories: 0,
            });
        }
    }

    pub fn node(&mut self, inode: Inode) -> Option<&mut Node> {
        let at = self.nodes.binary_search_by_key(&inode, |node| node.inode).ok()?;
        self.nodes.get_mut(at)
    }

    /// Where a directory stands among them.
    pub fn dir_index(&self, inode: Inode) -> Option<usize> {
        self.dirs.binary_search_by_key(&inode, |dir| dir.inode).ok()
    }

    pub fn dir(&mut self, inode: Inode) -> Option<&mut Dir> {
        let at = self.dir_index(inode)?;
        self.dirs.get_mut(at)
    }
}

/// A pack with a record.
#[derive(Debug)]
pub(super) struct Pack {
    pub number: PackNumber,
    pub size: u64,
    pub content: u64,
    /// Bytes that files show of it, as recorded.
    pub live: u64,
    /// Bytes that files show of it.
    pub shown: u64,
    pub birth: CommitNumber,
    pub damage: Option<FormatError>,
}

/// A record of a freed pack.
#[derive(Debug)]
pub(super) struct Freed {
    pub commit: CommitNumber,
    pub size: u64,
    pub damage: Option<FormatError>,
}

/// All packs in order, freed ones, and bytes that files show of packs without a record.
#[derive(Debug, Default)]
pub(super) struct Packs {
    pub used: Vec<Pack>,
    pub freed: BTreeMap<PackNumber, Freed>,
    pub unknown: BTreeMap<PackNumber, u64>,
}

impl Packs {
    /// Packs come in order.
    pub fn add(&mut self, number: PackNumber, record: Result<PackRecord, FormatError>) {
        let damage = record.as_ref().err().copied();
        let record = record.ok();
        let field = |field: fn(&PackRecord) -> u64| record.as_ref().map_or(0, field);
        self.used.push(Pack {
            number,
            size: field(|record| record.size),
            content: field(|record| record.content),
            live: field(|record| record.live),
            shown: 0,
            birth: CommitNumber(field(|record| record.birth.0)),
            damage,
        });
    }

    pub fn pack(&mut self, number: PackNumber) -> Option<&mut Pack> {
        let at = self.used.binary_search_by_key(&number, |pack| pack.number).ok()?;
        self.used.get_mut(at)
    }

    /// Bytes that packs count and no block map shows. A pack whose record does not decode counts some.
    pub fn lack(&self) -> u64 {
        let counted = |pack: &Pack| if pack.damage.is_some() { 1 } else { pack.live };
        let lacks = self.used.iter().map(|pack| counted(pack).saturating_sub(pack.shown));
        lacks.fold(0, u64::saturating_add)
    }

    pub fn is_known(&mut self, number: PackNumber) -> bool {
        self.pack(number).is_some() || self.freed.contains_key(&number)
    }
}
