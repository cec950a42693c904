//! What a chunk is known by.

use std::ops::Range;

use super::DataError;
use crate::base::{BlockSize, Epoch, PackNumber};
use crate::crypto::TAG_LEN;
use crate::format::Place;

/// Longest content of a chunk in bytes: the largest block size.
pub const CHUNK_LEN_MAX: usize = BlockSize::BYTES_MAX as usize;

/// Which chunk of which pack; what a cached chunk is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// The pack.
    pub pack: PackNumber,
    /// Index of the chunk in the pack.
    pub chunk: u32,
    /// First byte of the sealed chunk in the object.
    pub offset: u32,
    /// Length of the sealed chunk in bytes, tag included.
    pub sealed_len: u32,
    /// The content was compressed with zstd before sealing.
    pub compressed: bool,
}

impl ChunkRef {
    /// The chunk that a fragment's bytes lie in and how many bytes of its content come before
    /// them; `None` if they lie in the page itself.
    pub fn from_place(place: &Place) -> Option<(Self, u32)> {
        match *place {
            Place::Pack { pack, chunk, offset, sealed_len, skip, compressed } => {
                Some((Self { pack, chunk, offset, sealed_len, compressed }, skip))
            }
            Place::Inline(_) => None,
        }
    }

    /// Its bytes in the object.
    pub(super) fn range(&self) -> Range<u64> {
        let start = u64::from(self.offset);
        start..start + u64::from(self.sealed_len)
    }

    /// Refuses lengths that no chunk has, before anything is allocated for them.
    pub(super) fn check(&self) -> Result<(), DataError> {
        // Sealed content is at most a block, and never empty.
        let fits = (TAG_LEN + 1..=CHUNK_LEN_MAX + TAG_LEN).contains(&(self.sealed_len as usize));
        let (pack, offset) = (self.pack, u64::from(self.offset));
        if fits {
            Ok(())
        } else {
            Err(DataError::BadReference { pack, offset, len: self.sealed_len })
        }
    }
}

/// What a pack's record tells about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackSeal {
    /// Data key epoch that sealed it.
    pub epoch: Epoch,
    /// Salt of its header.
    pub salt: [u8; 32],
}
