//! What a check found, and what would mend it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Problem;
use crate::base::{CommitNumber, Inode, PackNumber};
use crate::format::{Counters, FileKind, Key};

/// Findings that one report holds of those with a repair, and as many of those without; the others
/// are counted. Mending some shows the next ones.
const FINDINGS_MAX: u64 = 10_000;

/// What mends one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// These records change so; `None` removes one.
    Set(Vec<(Key, Option<Bytes>)>),
    /// These fields of an inode change.
    Inode(Inode, Fields),
    /// The entry goes, its chain stays whole.
    Unlink {
        /// The directory.
        holder: Inode,
        /// Place of the entry.
        place: u64,
    },
    /// The names of one inode in one directory go, but for so many.
    UnlinkNames {
        /// The directory.
        holder: Inode,
        /// What they name.
        inode: Inode,
        /// Names that stay.
        keep: usize,
    },
    /// The entry moves to where its hash leads.
    Replace {
        /// The directory.
        holder: Inode,
        /// Place of the entry.
        place: u64,
    },
    /// The entry says the right type.
    Retype {
        /// The directory.
        holder: Inode,
        /// Place of the entry.
        place: u64,
        /// The type.
        kind: FileKind,
    },
    /// A directory for names whose own is missing.
    MakeDirectory(Inode),
    /// A file for content whose own is missing.
    MakeFile {
        /// The file.
        inode: Inode,
        /// One past the last byte of its content.
        size: u64,
        /// Bytes of content, those included that may be lost.
        allocated: u64,
    },
    /// A name under `/lost+found`.
    Adopt(Inode),
    /// The record of a pack is read out of the pack itself.
    Rebuild {
        /// The pack.
        pack: PackNumber,
        /// The commit that freed it, if there is a record that says so.
        freed: Option<CommitNumber>,
        /// Bytes that files show.
        live: u64,
    },
    /// The pack counts as freed from now on; its size is not known.
    Free(CommitNumber, PackNumber),
    /// Files show so many bytes of a pack; none free it.
    Live(PackNumber, u64),
    /// New counters.
    Counters(Counters),
}

/// Fields of an inode that a repair changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fields {
    /// Links.
    pub nlink: Option<u32>,
    /// Names in a directory.
    pub entries: Option<u64>,
    /// The directory that holds a directory.
    pub parent: Option<Inode>,
    /// Size of a file.
    pub size: Option<u64>,
    /// Bytes of content.
    pub allocated: Option<u64>,
    /// Flags about extended attributes.
    pub flags: Option<u32>,
    /// What contradicts the inode's kind is brought in line with it.
    pub normal: bool,
}

/// Repairs come in this order: a later stage counts what an earlier one leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Which records there are.
    Structure,
    /// Names that are added, once nothing else is in their place.
    Names,
    /// What they say of each other.
    Counts,
    /// The volume's sums.
    Sums,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Structure, Self::Names, Self::Counts, Self::Sums];
}

impl Repair {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Set(_)
            | Self::Unlink { .. }
            | Self::UnlinkNames { .. }
            | Self::Retype { .. }
            | Self::MakeDirectory(_)
            | Self::MakeFile { .. }
            | Self::Free(..)
            | Self::Rebuild { .. } => Stage::Structure,
            Self::Replace { .. } | Self::Adopt(_) => Stage::Names,
            Self::Inode(..) | Self::Live(..) => Stage::Counts,
            Self::Counters(_) => Stage::Sums,
        }
    }
}

/// A problem and what mends it, if something safe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub problem: Problem,
    /// What mends it.
    pub repair: Option<Repair>,
}

/// What a check of all records found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The first ones, at most [`FINDINGS_MAX`] with a repair and as many without.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more: u64,
    /// How many of all have a repair.
    pub repairable: u64,
    /// Records looked at.
    pub records: u64,
    /// Content may be shown by what is damaged or missing: no pack is freed, whatever is counted.
    pub is_doubtful: bool,
    /// What the counters ought to say, but for the numbers that only the volume itself knows.
    pub counted: Counters,
}

impl Report {
    /// Whether everything is as it must be.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.more == 0
    }

    /// How many problems there are.
    pub fn count(&self) -> u64 {
        (self.findings.len() as u64).saturating_add(self.more)
    }

    /// Inodes whose names help a reader.
    pub fn inodes(&self) -> BTreeSet<Inode> {
        self.findings.iter().filter_map(|finding| finding.problem.inode()).collect()
    }

    /// One line for each problem, with the path of what it concerns where `paths` has it.
    pub fn lines(&self, paths: &BTreeMap<Inode, String>) -> Vec<String> {
        let line = |finding: &Finding| {
            let path = finding.problem.inode().and_then(|inode| paths.get(&inode));
            match path {
                Some(path) => format!("{path}: {}", finding.problem),
                None => finding.problem.to_string(),
            }
        };
        self.findings.iter().map(line).collect()
    }

    pub(super) fn add(&mut self, problem: Problem, repair: impl Into<Option<Repair>>) {
        let repair = repair.into();
        let held = self.repairable.min(FINDINGS_MAX);
        let held_of_its_kind = match repair {
            Some(_) => held,
            None => (self.findings.len() as u64).saturating_sub(held),
        };
        self.repairable += u64::from(repair.is_some());
        if held_of_its_kind < FINDINGS_MAX {
            self.findings.push(Finding { problem, repair });
        } else {
            self.more += 1;
        }
    }
}
