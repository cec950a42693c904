//! Small records: directory entries, counters, orphans.

use serde::Serialize;

use super::{FileKind, FormatError, Reader, Writer};
use crate::base::{CommitNumber, Inode, NAME_LEN_MAX, PackNumber, WriterEpoch};
use crate::crypto::SecretKey;

const CHAINED: u8 = 1;
const TOMBSTONE: u8 = 2;

/// Hashes of names below are the offsets of `.`, `..` and the start of a listing.
pub const HASH_MIN: u64 = 16;

/// The hash of a name: 62 bits, not below [`HASH_MIN`], unknown to who lacks the names key.
pub fn name_hash(names: &SecretKey, name: &[u8]) -> u64 {
    let mac = names.mac(&[b"lidfs/name", name]);
    let mut head = [0; 8];
    head.copy_from_slice(&mac[..8]);
    (u64::from_le_bytes(head) >> 2).max(HASH_MIN)
}

/// A directory entry.
///
/// Entries are keyed by the hash of their name. Where two names of a
/// directory share a hash, the later one takes the next free place (hash + 1
/// and so on) and the places before it are marked `chained`, so that a look-up
/// goes on there; an entry deleted from a chain leaves a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// What the name stands for; `None` in a tombstone.
    pub target: Option<(Inode, FileKind)>,
    /// Another entry with the same hash may follow at the next place.
    pub chained: bool,
    /// 1 to 255 bytes without NUL and slash; empty in a tombstone.
    pub name: Box<[u8]>,
}

impl DirEntry {
    const WHAT: &'static str = "directory entry";

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(12 + self.name.len());
        let chained = if self.chained { CHAINED } else { 0 };
        match self.target {
            Some((inode, kind)) => out.u8(chained).u8(kind as u8).varint(inode.0),
            None => out.u8(chained | TOMBSTONE),
        };
        out.bytes(&self.name);
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(Self::WHAT, bytes);
        let flags = reader.u8()?;
        let target = if flags & TOMBSTONE != 0 {
            None
        } else {
            let kind = FileKind::from_type(reader.u8()?).ok_or_else(|| reader.invalid())?;
            Some((Inode(reader.varint()?), kind))
        };
        let name: Box<[u8]> = reader.rest().into();
        let fits = if target.is_some() {
            (1..=NAME_LEN_MAX).contains(&name.len())
        } else {
            name.is_empty()
        };
        if flags & !(CHAINED | TOMBSTONE) != 0 || !fits {
            return Err(reader.invalid());
        }
        Ok(Self { target, chained: flags & CHAINED != 0, name })
    }
}

/// No volume comes to have had more inodes or commits: higher numbers are damage, and counting on
/// from these never overflows.
pub const NUMBER_MAX: u64 = u64::MAX / 2;

/// The volume's counters, rewritten with every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// The commit that wrote this record.
    pub commit: CommitNumber,
    /// The next inode number to give out.
    pub next_inode: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Bytes of committed content, holes not counted.
    pub bytes: u64,
    /// The lowest pack number of this writer that may be in use without a record: orphans of a
    /// crash lie from here on, and among the numbers of later writers.
    pub next_pack: PackNumber,
    /// What packs take up.
    pub space: Space,
}

/// What packs take up: sums over their records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Space {
    /// Packs in use.
    pub packs: u64,
    /// Their objects' bytes.
    pub pack_bytes: u64,
    /// Bytes of content in them, before compression.
    pub content_bytes: u64,
    /// Those that files show; bytes that two files share count twice.
    pub live_bytes: u64,
    /// Packs that nothing needs any more and that are not deleted yet.
    pub freed_packs: u64,
    /// Their objects' bytes.
    pub freed_bytes: u64,
}

impl Space {
    /// Bytes of packs in use that no file shows any more, as far as they compress alike.
    pub fn dead_bytes(&self) -> u64 {
        let live = self.live_bytes.min(self.content_bytes);
        if self.content_bytes == 0 {
            return 0;
        }
        let dead = u128::from(self.pack_bytes) * u128::from(self.content_bytes - live)
            / u128::from(self.content_bytes);
        u64::try_from(dead).unwrap_or(u64::MAX)
    }
}

impl Counters {
    const WHAT: &'static str = "volume counters";
    const VERSION: u8 = 1;

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(89);
        out.u8(Self::VERSION).u64(self.commit.0).u64(self.next_inode);
        out.u64(self.inodes).u64(self.bytes).u64(self.next_pack.0);
        let Space { packs, pack_bytes, content_bytes, live_bytes, freed_packs, freed_bytes } =
            self.space;
        out.u64(packs).u64(pack_bytes).u64(content_bytes).u64(live_bytes);
        out.u64(freed_packs).u64(freed_bytes);
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(Self::WHAT, bytes);
        if reader.u8()? != Self::VERSION {
            return Err(reader.invalid());
        }
        let counters = Self {
            commit: CommitNumber(reader.u64()?),
            next_inode: reader.u64()?,
            inodes: reader.u64()?,
            bytes: reader.u64()?,
            next_pack: PackNumber(reader.u64()?),
            space: Space {
                packs: reader.u64()?,
                pack_bytes: reader.u64()?,
                content_bytes: reader.u64()?,
                live_bytes: reader.u64()?,
                freed_packs: reader.u64()?,
                freed_bytes: reader.u64()?,
            },
        };
        reader.finish()?;
        Ok(counters)
    }
}

/// An inode without a name that was still open, to be reclaimed at the next mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrphanRecord;

impl OrphanRecord {
    /// The record's bytes (its key says everything).
    pub fn encode(self) -> Vec<u8> {
        vec![1]
    }
}

/// Where orphans of a crash may lie: among the numbers of a writer from the key's on, and
/// those of later writers before `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsweptRecord {
    /// The writer that noted it: its own packs are not meant.
    pub to: WriterEpoch,
}

impl UnsweptRecord {
    const WHAT: &'static str = "record of unswept packs";

    /// The record's bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Writer::default();
        out.varint(u64::from(self.to.0));
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(Self::WHAT, bytes);
        let record = Self { to: WriterEpoch(reader.varint32()?) };
        reader.finish()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_tombstones_read_back() {
        let entry = DirEntry {
            target: Some((Inode(300), FileKind::Regular)),
            chained: true,
            name: b"a\xff\n"[..].into(),
        };
        assert_eq!(DirEntry::decode(&entry.encode()), Ok(entry));
        let tombstone = DirEntry { target: None, chained: false, name: Box::default() };
        assert_eq!(DirEntry::decode(&tombstone.encode()), Ok(tombstone));
    }

    #[test]
    fn bad_entries_are_errors() {
        for bytes in [&[][..], &[0], &[0, 8], &[0, 8, 1], &[0, 3, 1, b'a'], &[8, 8, 1, b'a']] {
            assert!(DirEntry::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn counters_read_back() {
        let counters = Counters {
            commit: CommitNumber(9),
            next_inode: 2,
            inodes: 1,
            bytes: u64::MAX,
            next_pack: PackNumber(4),
            space: Space { packs: 1, freed_bytes: u64::MAX, ..Space::default() },
        };
        assert_eq!(Counters::decode(&counters.encode()), Ok(counters));
        assert!(Counters::decode(&counters.encode()[1..]).is_err());
    }
}
