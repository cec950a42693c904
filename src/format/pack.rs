//! Packs: the record in metadata, the directory inside the object, the object's name.
//!
//! ```text
//! | header | chunk 0 | ... | chunk n-1 | sealed directory | chunk count u32 | directory length u32 |
//! ```
//!
//! Chunks have variable length; the directory is chunk `n`, the last. The count of
//! the chunks before it, its index, and its length (sealed, in bytes) end the object, so that a reader who has
//! lost all metadata can find and open it.

use super::{FormatError, Reader, Writer};
use crate::base::{BlockIndex, CommitNumber, Epoch, Inode};

/// What metadata knows of a pack: enough to read any block of it with one ranged request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    /// Data key epoch that sealed it.
    pub epoch: Epoch,
    /// Salt of its header.
    pub salt: [u8; 32],
    /// Length of the object in bytes.
    pub size: u64,
    /// Bytes of content in it, before compression.
    pub content: u64,
    /// Bytes of content that files show of it; bytes that two files share count twice.
    pub live: u64,
    /// The commit that made it.
    pub birth: CommitNumber,
}

impl PackRecord {
    const WHAT: &'static str = "pack record";
    const VERSION: u8 = 1;

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(64);
        out.u8(Self::VERSION).u32(self.epoch.0).bytes(&self.salt);
        out.varint(self.size).varint(self.content).varint(self.live).varint(self.birth.0);
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(Self::WHAT, bytes);
        if reader.u8()? != Self::VERSION {
            return Err(reader.invalid());
        }
        let record = Self {
            epoch: Epoch(reader.u32()?),
            salt: reader.array()?,
            size: reader.varint()?,
            content: reader.varint()?,
            live: reader.varint()?,
            birth: CommitNumber(reader.varint()?),
        };
        reader.finish()?;
        Ok(record)
    }
}

/// A pack that no file needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreedRecord {
    /// Data key epoch that sealed it.
    pub epoch: Epoch,
    /// Length of the object in bytes.
    pub size: u64,
    /// When it was freed, in seconds since 1970 by the writer's clock.
    pub freed: u64,
}

impl FreedRecord {
    const WHAT: &'static str = "record of a freed pack";
    const VERSION: u8 = 1;

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(24);
        out.u8(Self::VERSION).u32(self.epoch.0).varint(self.size).varint(self.freed);
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(Self::WHAT, bytes);
        if reader.u8()? != Self::VERSION {
            return Err(reader.invalid());
        }
        let record =
            Self { epoch: Epoch(reader.u32()?), size: reader.varint()?, freed: reader.varint()? };
        reader.finish()?;
        Ok(record)
    }
}

/// One chunk of a pack, as its directory tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackEntry {
    /// The file it was written for.
    pub inode: Inode,
    /// The block of that file.
    pub block: BlockIndex,
    /// First byte inside the block.
    pub at: u32,
    /// Length of the content in bytes, before compression.
    pub len: u32,
    /// Length of the sealed chunk in bytes, tag included.
    pub sealed_len: u32,
    /// The content was compressed with zstd before sealing.
    pub compressed: bool,
}

/// The directory of a pack: its chunks in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackDirectory {
    /// Chunk `i` of the pack is `entries[i]`.
    pub entries: Vec<PackEntry>,
}

impl PackDirectory {
    const WHAT: &'static str = "pack directory";
    const VERSION: u8 = 1;

    /// The directory's bytes, before sealing.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(8 + 16 * self.entries.len());
        out.u8(Self::VERSION).varint(self.entries.len() as u64);
        for entry in &self.entries {
            out.varint(entry.inode.0).varint(entry.block.0).varint(u64::from(entry.at));
            out.varint(u64::from(entry.len)).varint(u64::from(entry.sealed_len));
            out.u8(u8::from(entry.compressed));
        }
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(Self::WHAT, bytes);
        if reader.u8()? != Self::VERSION {
            return Err(reader.invalid());
        }
        let count = reader.varint()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(PackEntry {
                inode: Inode(reader.varint()?),
                block: BlockIndex(reader.varint()?),
                at: reader.varint32()?,
                len: reader.varint32()?,
                sealed_len: reader.varint32()?,
                compressed: reader.u8()? != 0,
            });
        }
        reader.finish()?;
        Ok(Self { entries })
    }
}

/// The path of the pack called `name`: 16 bytes of HMAC-SHA256 under the volume's names key.
pub fn pack_path(name: &[u8; 16]) -> String {
    use std::fmt::Write as _;
    let mut path = format!("packs/{:02x}/", name[0]);
    for byte in name {
        // Writing to a String cannot fail.
        let _ = write!(path, "{byte:02x}");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_record_reads_back() {
        let record = PackRecord {
            epoch: Epoch(3),
            salt: [7; 32],
            size: 16 << 20,
            content: 17 << 20,
            live: 1,
            birth: CommitNumber(5),
        };
        assert_eq!(PackRecord::decode(&record.encode()), Ok(record.clone()));
        assert!(PackRecord::decode(&record.encode()[..20]).is_err());
        let freed = FreedRecord { epoch: Epoch(3), size: 16 << 20, freed: 1_700_000_000 };
        assert_eq!(FreedRecord::decode(&freed.encode()), Ok(freed));
        assert!(FreedRecord::decode(&freed.encode()[..9]).is_err());
    }

    #[test]
    fn directory_reads_back_and_a_hostile_count_allocates_nothing() {
        let entry = PackEntry {
            inode: Inode(9),
            block: BlockIndex(1 << 40),
            at: 0,
            len: 65_536,
            sealed_len: 300,
            compressed: true,
        };
        let directory = PackDirectory { entries: vec![entry; 3] };
        assert_eq!(PackDirectory::decode(&directory.encode()), Ok(directory));
        let hostile = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(PackDirectory::decode(&hostile).is_err());
    }

    #[test]
    fn pack_path_starts_with_two_digits_of_its_name() {
        let name = [0xab; 16];
        assert_eq!(pack_path(&name), format!("packs/ab/{}", "ab".repeat(16)));
    }
}
