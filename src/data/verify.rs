//! Packs tried whole: every chunk, the directory, the header.

use super::DataError;
use super::chunk::ChunkRef;
use super::directory::chunks_of;
use super::pack::{PackContext, TRAILER_LEN, directory_len, open_chunk, open_directory};
use crate::base::PackNumber;
use crate::crypto::{HEADER_LEN, Opener};
use crate::format::{PackDirectory, PackRecord};

/// What a pack is worth, tried byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The header is the one that was written. Chunks are read without it.
    pub header: bool,
    /// The directory, if it authenticates and agrees with the object's length.
    pub directory: Option<PackDirectory>,
    /// Chunks of the directory that do not authenticate or expand.
    pub damaged: Vec<u32>,
}

/// Tries chunks of one pack whose bytes are all here.
pub struct PackTrial<'a> {
    opener: Opener,
    pack: PackNumber,
    object: &'a [u8],
}

impl PackContext {
    /// Tries a pack that `record` tells of. Takes processor time: off the async threads.
    ///
    /// # Errors
    /// [`DataError::Open`] if the keyring has no key of the record's epoch.
    pub fn try_pack<'a>(
        &self,
        pack: PackNumber,
        record: &PackRecord,
        object: &'a [u8],
    ) -> Result<PackTrial<'a>, DataError> {
        let opener = self.opener(pack, record.epoch, &record.salt)?;
        Ok(PackTrial { opener, pack, object })
    }
}

impl PackTrial<'_> {
    /// Length of a chunk's content; `None` if it is damaged.
    pub fn content_len(&self, chunk: &ChunkRef) -> Option<u64> {
        chunk.check().ok()?;
        let range = chunk.range();
        let sealed = self.object.get(range.start as usize..range.end as usize)?;
        Some(open_chunk(chunk, &self.opener, &mut sealed.to_vec()).ok()?.len() as u64)
    }

    /// Tries all that the directory tells of.
    pub fn verdict(&self) -> Verdict {
        let size = self.object.len() as u64;
        let directory = open_directory(self.pack, &self.opener, self.object, size).ok();
        let directory = directory.filter(|directory| self.is_filled_by(directory));
        let damaged = directory.as_ref().map_or_else(Vec::new, |directory| {
            chunks_of(self.pack, directory)
                .iter()
                .zip(&directory.entries)
                .filter(|(chunk, entry)| self.content_len(chunk) != Some(u64::from(entry.len)))
                .map(|(chunk, _)| chunk.chunk)
                .collect()
        });
        let header = self.object.starts_with(self.opener.header());
        Verdict { header, directory, damaged }
    }

    /// Whether header, chunks, directory and trailer are all there is.
    fn is_filled_by(&self, directory: &PackDirectory) -> bool {
        let chunks: u64 = directory.entries.iter().map(|entry| u64::from(entry.sealed_len)).sum();
        let tail = u64::from(directory_len(self.object).unwrap_or(0)) + TRAILER_LEN as u64;
        HEADER_LEN as u64 + chunks + tail == self.object.len() as u64
    }
}
