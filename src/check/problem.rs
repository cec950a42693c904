//! What can be wrong with the records of a volume.

use bytes::Bytes;

use crate::base::{Inode, PackNumber};
use crate::format::FormatError;

/// One thing that is not as it must be: what, where, and what follows from it.
///
/// The texts hold no names of files: they may go to a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A key of no known form.
    #[error(
        "a record with an unknown key ({} bytes, first byte {:#04x}): written by a newer lidfs?",
        .key.len(), .key.first().copied().unwrap_or(0)
    )]
    UnknownRecord {
        /// The key.
        key: Bytes,
    },
    /// A record of an inode that does not decode.
    #[error("inode {inode}: its attributes do not decode ({error}): it cannot be used")]
    DamagedInode {
        /// The inode.
        inode: Inode,
        /// Why.
        error: FormatError,
    },
    /// Fields that contradict the inode's kind.
    #[error("inode {inode}: {what}")]
    WrongFields {
        /// The inode.
        inode: Inode,
        /// Which.
        what: &'static str,
    },
    /// Content of a file whose inode is missing.
    #[error("file {inode}: its attributes are missing: {bytes} bytes of content cannot be reached")]
    MissingFile {
        /// The file.
        inode: Inode,
        /// Bytes of content.
        bytes: u64,
    },
    /// Records of a directory whose inode is missing.
    #[error(
        "directory {inode}: its attributes are missing: {entries} names in it cannot be reached"
    )]
    MissingDirectory {
        /// The directory.
        inode: Inode,
        /// Names in it.
        entries: u64,
    },
    /// An inode that no path leads to.
    #[error("inode {inode}: no name leads to it: it takes space and cannot be opened")]
    Unreachable {
        /// The inode.
        inode: Inode,
    },
    /// Directories that hold each other.
    #[error("directory {inode}: it lies inside itself: nothing in it can be reached")]
    Ring {
        /// One of them.
        inode: Inode,
        /// The directory that holds it.
        holder: Inode,
    },
    /// A directory with two names.
    #[error("directory {inode}: it has a second name in directory {holder}")]
    SecondName {
        /// The directory.
        inode: Inode,
        /// Where the name stands that is one too many.
        holder: Inode,
    },
    /// The number of links is wrong.
    #[error("inode {inode}: it has {found} links and not {recorded} as recorded")]
    WrongLinks {
        /// The inode.
        inode: Inode,
        /// What its record says.
        recorded: u32,
        /// What the names say.
        found: u32,
    },
    /// The number of names in a directory is wrong.
    #[error(
        "directory {inode}: it has {found} names and not {recorded} as recorded: removing it goes wrong"
    )]
    WrongEntries {
        /// The directory.
        inode: Inode,
        /// What its record says.
        recorded: u64,
        /// Those there are.
        found: u64,
    },
    /// A directory names another parent than the one that holds it.
    #[error("directory {inode}: its parent is {found} and not {recorded} as recorded")]
    WrongParent {
        /// The directory.
        inode: Inode,
        /// What its record says.
        recorded: Inode,
        /// The directory that holds it.
        found: Inode,
    },
    /// An inode without links that is not marked for removal.
    #[error("inode {inode}: without links, and no orphan record: its space never comes back")]
    UnmarkedOrphan {
        /// The inode.
        inode: Inode,
    },
    /// An orphan record of an inode that has links, or does not exist.
    #[error("inode {inode}: an orphan record, but it has links or does not exist")]
    StrayOrphanMark {
        /// The inode.
        inode: Inode,
    },
    /// A directory entry that does not decode.
    #[error(
        "directory {holder}: the entry at {place:016x} does not decode ({error}): the directory cannot be listed"
    )]
    DamagedEntry {
        /// The directory.
        holder: Inode,
        /// Place of the entry.
        place: u64,
        /// Why.
        error: FormatError,
    },
    /// Names under an inode that is no directory.
    #[error("inode {holder}: a name at {place:016x} stands under it, but it is no directory")]
    EntryOfNoDirectory {
        /// The inode.
        holder: Inode,
        /// Place of the entry.
        place: u64,
    },
    /// A name of an inode that does not exist.
    #[error(
        "directory {holder}: the name at {place:016x} leads to inode {inode}, which does not exist"
    )]
    DanglingEntry {
        /// The directory.
        holder: Inode,
        /// Place of the entry.
        place: u64,
        /// What it names.
        inode: Inode,
    },
    /// An entry says another kind than the inode.
    #[error("directory {holder}: the name at {place:016x} gives inode {inode} a wrong type")]
    WrongType {
        /// The directory.
        holder: Inode,
        /// Place of the entry.
        place: u64,
        /// What it names.
        inode: Inode,
    },
    /// A name that no file may have.
    #[error("directory {holder}: the name at {place:016x} is one that no file may have")]
    ImpossibleName {
        /// The directory.
        holder: Inode,
        /// Place of the entry.
        place: u64,
    },
    /// A name that its hash does not lead to.
    #[error("directory {holder}: the name at {place:016x} is listed but not found when looked up")]
    MisplacedEntry {
        /// The directory.
        holder: Inode,
        /// Place of the entry.
        place: u64,
    },
    /// The same name twice.
    #[error(
        "directory {holder}: the name at {place:016x} stands there twice: this one is never found"
    )]
    DoubleEntry {
        /// The directory.
        holder: Inode,
        /// Place of the second one.
        place: u64,
    },
    /// A tombstone that nothing follows.
    #[error("directory {holder}: a tombstone at {place:016x} that is part of no chain")]
    LooseTombstone {
        /// The directory.
        holder: Inode,
        /// Its place.
        place: u64,
    },
    /// A page of a block map that does not decode.
    #[error(
        "inode {inode}: bytes {from} to {to} cannot be read: the block map does not decode ({error})"
    )]
    DamagedPage {
        /// The file.
        inode: Inode,
        /// First byte.
        from: u64,
        /// One past the last byte.
        to: u64,
        /// Why.
        error: FormatError,
    },
    /// A block map of an inode that does not exist or has no content.
    #[error(
        "inode {inode}: a block map (page {page}), but no such file: its space never comes back"
    )]
    StrayPage {
        /// The inode.
        inode: Inode,
        /// The page.
        page: u64,
    },
    /// A page without blocks.
    #[error("inode {inode}: page {page} of the block map is empty")]
    EmptyPage {
        /// The inode.
        inode: Inode,
        /// The page.
        page: u64,
    },
    /// A fragment that leaves its block.
    #[error("inode {inode}: bytes {from} to {to} cannot be read: the block map leaves the block")]
    FragmentOutside {
        /// The file.
        inode: Inode,
        /// First byte of the block.
        from: u64,
        /// One past its last byte.
        to: u64,
    },
    /// Content behind a file's end.
    #[error(
        "inode {inode}: content behind its end ({size} bytes): it would show when the file grows"
    )]
    BeyondEnd {
        /// The file.
        inode: Inode,
        /// Its size.
        size: u64,
        /// One past the last byte of its content.
        end: u64,
    },
    /// Content that block maps do not have any more.
    #[error(
        "inode {inode}: {bytes} bytes of its content are missing in its block map and read as zeros: restore it from a copy"
    )]
    MissingContent {
        /// The file.
        inode: Inode,
        /// How much.
        bytes: u64,
    },
    /// The bytes of a file are counted wrong.
    #[error("inode {inode}: it has {found} bytes of content and not {recorded} as recorded")]
    WrongAllocated {
        /// The file.
        inode: Inode,
        /// What its record says.
        recorded: u64,
        /// The sum of its fragments.
        found: u64,
    },
    /// Content in packs that metadata does not know.
    #[error(
        "inode {inode}: {bytes} bytes between {from} and {to} cannot be read: no record of their packs, pack {pack} first"
    )]
    UnknownPack {
        /// The file.
        inode: Inode,
        /// First byte.
        from: u64,
        /// One past the last byte.
        to: u64,
        /// How many between them.
        bytes: u64,
        /// The pack of the first byte.
        pack: PackNumber,
    },
    /// Content where a pack has none.
    #[error(
        "inode {inode}: bytes {from} to {to} cannot be read: they would lie outside of pack {pack}"
    )]
    OutsidePack {
        /// The file.
        inode: Inode,
        /// First byte.
        from: u64,
        /// One past the last byte.
        to: u64,
        /// The pack.
        pack: PackNumber,
    },
    /// Files show content of a pack that has no usable record.
    #[error("pack {pack}: {why}, but files show {live} bytes of it: they cannot be read")]
    LostPack {
        /// The pack.
        pack: PackNumber,
        /// What is wrong with the record.
        why: &'static str,
        /// Bytes that files show.
        live: u64,
    },
    /// The store does not give a pack whose record has to be read out of it.
    #[error("pack {pack}: it cannot be read, so its record cannot be made anew: {why}")]
    UnreadPack {
        /// The pack.
        pack: PackNumber,
        /// What the store said.
        why: String,
    },
    /// A record of a pack that nothing needs and that does not decode.
    #[error("pack {pack}: its record does not decode ({error}); no file needs it")]
    DamagedPack {
        /// The pack.
        pack: PackNumber,
        /// Why.
        error: FormatError,
    },
    /// A pack in use that is to be deleted.
    #[error(
        "pack {pack}: it counts as freed, but files show {live} bytes of it: gc would delete them"
    )]
    FreedInUse {
        /// The pack.
        pack: PackNumber,
        /// Bytes that files show.
        live: u64,
    },
    /// A pack that is both in use and freed, though nothing needs it.
    #[error("pack {pack}: it counts as in use and as freed")]
    FreedTwice {
        /// The pack.
        pack: PackNumber,
    },
    /// A record of a freed pack that does not decode.
    #[error("pack {pack}: the record of its freeing does not decode ({error}): gc stops there")]
    DamagedFreed {
        /// The pack.
        pack: PackNumber,
        /// Why.
        error: FormatError,
    },
    /// The bytes that files show of a pack are counted wrong.
    #[error(
        "pack {pack}: files show {found} bytes of it and not {recorded} as recorded: gc would go wrong"
    )]
    WrongLive {
        /// The pack.
        pack: PackNumber,
        /// What its record says.
        recorded: u64,
        /// The sum of the fragments in it.
        found: u64,
    },
    /// A pack that nothing needs and that does not count as freed.
    #[error(
        "pack {pack}: no file shows anything of it, but it is not freed: its space never comes back"
    )]
    Unfreed {
        /// The pack.
        pack: PackNumber,
    },
    /// A pack without content.
    #[error("pack {pack}: its record says that it has no content")]
    NoContent {
        /// The pack.
        pack: PackNumber,
    },
    /// Inline bytes without their mark.
    #[error(
        "inode {inode}: page {page} holds inline bytes without a mark: they are never moved to a pack"
    )]
    UnmarkedInline {
        /// The file.
        inode: Inode,
        /// The page.
        page: u64,
    },
    /// A mark without inline bytes.
    #[error("inode {inode}: page {page} is marked for inline bytes and has none")]
    StrayInlineMark {
        /// The file.
        inode: Inode,
        /// The page.
        page: u64,
    },
    /// Extended attributes of an inode that does not exist.
    #[error("inode {inode}: an extended attribute, but no such inode")]
    StrayXattr {
        /// The inode.
        inode: Inode,
    },
    /// Flags that do not say what attributes there are.
    #[error(
        "inode {inode}: extended attributes or ACLs are not as its flags say: they would be ignored"
    )]
    WrongFlags {
        /// The inode.
        inode: Inode,
    },
    /// A back-reference to a pack that does not exist.
    #[error("pack {pack}: a back-reference, but no such pack")]
    StrayReference {
        /// The pack.
        pack: PackNumber,
    },
    /// A note of unswept packs that makes no sense.
    #[error("the note of packs to be swept from {from} on makes no sense: orphans would stay")]
    WrongUnswept {
        /// Where they begin.
        from: PackNumber,
    },
    /// There are no usable counters.
    #[error("the volume's counters are missing or do not decode: it cannot be mounted")]
    NoCounters,
    /// A counter is wrong.
    #[error("the volume's counters: {what} is {recorded} and must be {found}")]
    WrongCounter {
        /// Which.
        what: &'static str,
        /// What the record says.
        recorded: u64,
        /// What it has to be.
        found: u64,
    },
}

impl Problem {
    /// The inode that it concerns, whose name helps a reader.
    pub fn inode(&self) -> Option<Inode> {
        match *self {
            Self::DamagedInode { inode, .. }
            | Self::WrongFields { inode, .. }
            | Self::WrongLinks { inode, .. }
            | Self::WrongEntries { inode, .. }
            | Self::WrongParent { inode, .. }
            | Self::MissingFile { inode, .. }
            | Self::StrayOrphanMark { inode }
            | Self::SecondName { inode, .. }
            | Self::DamagedPage { inode, .. }
            | Self::EmptyPage { inode, .. }
            | Self::FragmentOutside { inode, .. }
            | Self::BeyondEnd { inode, .. }
            | Self::MissingContent { inode, .. }
            | Self::WrongAllocated { inode, .. }
            | Self::UnknownPack { inode, .. }
            | Self::OutsidePack { inode, .. }
            | Self::UnmarkedInline { inode, .. }
            | Self::WrongFlags { inode } => Some(inode),
            Self::DamagedEntry { holder, .. }
            | Self::DanglingEntry { holder, .. }
            | Self::WrongType { holder, .. }
            | Self::ImpossibleName { holder, .. }
            | Self::MisplacedEntry { holder, .. }
            | Self::DoubleEntry { holder, .. }
            | Self::LooseTombstone { holder, .. } => Some(holder),
            _ => None,
        }
    }
}
