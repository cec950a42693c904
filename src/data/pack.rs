//! Packs: immutable objects that hold many sealed chunks. Building, naming, opening.
//!
//! ```text
//! | header 96 | chunk 0 | ... | chunk n-1 | directory = chunk n | chunk count u32 | directory length u32 |
//! ```
//!
//! A chunk is a run of one file's bytes inside one block, compressed or not,
//! then sealed. The two integers at the end are little-endian and count the
//! chunks before the directory (its index is needed to open it) and the sealed
//! directory's bytes.
//!
//! Invariant: a number is built once and its name written with those bytes
//! alone; a retry resends the same body, changed content takes a new number.

use bytes::Bytes;

use super::DataError;
use super::chunk::{CHUNK_LEN_MAX, ChunkRef, PackSeal};
use super::compress::{Compression, Squeezer, expand};
use crate::base::{BlockIndex, CommitNumber, Epoch, Inode, MIB, PackNumber, VolumeId};
use crate::crypto::{Binding, DataKeys, ObjectKind, Opener, Sealer, SecretKey, TAG_LEN};
use crate::format::{PackDirectory, PackEntry, PackRecord, Place, pack_path};
use crate::store::object_store::{PutPayload, path::Path};

/// Most content in bytes that packs may be asked to gather. Chunk offsets and a single PUT allow
/// far more.
pub const PACK_BYTES_MAX: u64 = 64 * MIB;
/// Most content of one pack in bytes: blocks are gathered whole until there is enough, so the last
/// one may lie beyond what was asked for.
pub const PACK_CONTENT_MAX: u64 = PACK_BYTES_MAX + CHUNK_LEN_MAX as u64;
/// Bytes after the sealed directory.
pub(super) const TRAILER_LEN: usize = 8;
/// What a chunk takes in a pack besides its content: tag and directory entry, at most.
const CHUNK_OVERHEAD_LEN: usize = TAG_LEN + 48;
/// Chunk size in a pack's header: chunks of variable length.
const CHUNK_SIZE: u32 = 0;

/// What packs of a volume are named and sealed with. Also opens them.
#[derive(Debug)]
pub struct PackContext {
    volume: VolumeId,
    keys: DataKeys,
    names: SecretKey,
    compression: Compression,
}

/// A run of content to be packed.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The file.
    pub inode: Inode,
    /// The block of that file.
    pub block: BlockIndex,
    /// First byte inside the block.
    pub at: u32,
    /// The bytes: 1 to [`CHUNK_LEN_MAX`].
    pub content: Bytes,
}

/// A pack ready for upload.
#[derive(Debug, Clone)]
pub struct BuiltPack {
    /// Its number.
    pub number: PackNumber,
    /// Its name in the bucket, below the volume's prefix.
    pub path: Path,
    /// What metadata keeps of it; nothing is in use yet.
    pub record: PackRecord,
    /// Where each chunk lies, in the order given, from its first byte.
    pub places: Vec<Place>,
    /// The object.
    pub body: PutPayload,
}

impl PackContext {
    /// `names` is the volume's names key, from which packs get theirs.
    pub fn new(
        volume: VolumeId,
        keys: DataKeys,
        names: SecretKey,
        compression: Compression,
    ) -> Self {
        Self { volume, keys, names, compression }
    }

    /// The volume whose packs these are.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The oldest epoch of which there is a key.
    pub fn epoch_first(&self) -> Epoch {
        self.keys.epochs().first().copied().unwrap_or(self.keys.current().epoch)
    }

    /// The pack's name in the bucket: tells nothing without the names key.
    pub fn path(&self, number: PackNumber) -> Path {
        // Made of lower-case digits and slashes, so it needs no escaping.
        Path::from(self.name(number))
    }

    fn name(&self, number: PackNumber) -> String {
        let mac = self.names.mac(&[&number.0.to_le_bytes()]);
        let mut name = [0; 16];
        name.copy_from_slice(&mac[..16]);
        pack_path(&name)
    }

    fn binding<'a>(&self, path: &'a str) -> Binding<'a> {
        Binding { volume: self.volume, kind: ObjectKind::Pack, path }
    }

    /// Compresses and seals `chunks` into one pack under the current data key.
    ///
    /// Takes processor time only, some 30 ms for 16 MiB: call it off the async threads.
    ///
    /// # Errors
    /// [`DataError::ChunkLength`] and [`DataError::PackLength`] for content that does not fit.
    pub fn build(
        &self,
        number: PackNumber,
        birth: CommitNumber,
        chunks: Vec<Chunk>,
    ) -> Result<BuiltPack, DataError> {
        check_lengths(number, &chunks)?;
        let path = self.name(number);
        let key = self.keys.current();
        let sealer = Sealer::new(&key, &self.binding(&path), CHUNK_SIZE);
        let salt = sealer.salt();
        let mut squeezer = Squeezer::new(self.compression)
            .map_err(|error| DataError::Compressor { pack: number, reason: error.to_string() })?;
        let content_len: usize = chunks.iter().map(|chunk| chunk.content.len()).sum();
        let content = content_len as u64;
        let mut body = Body::new(number, sealer, content_len, chunks.len());
        let mut directory = PackDirectory { entries: Vec::with_capacity(chunks.len()) };
        let mut places = Vec::with_capacity(chunks.len());
        // By value: each chunk's memory is free to go once it is sealed.
        for (index, chunk) in chunks.into_iter().enumerate() {
            let offset = body.len() as u32;
            let squeezed = squeezer.squeeze(chunk.inode, &chunk.content);
            let compressed = squeezed.is_some();
            let sealed_len = body.seal(squeezed.unwrap_or(&chunk.content), false)?;
            directory.entries.push(PackEntry {
                inode: chunk.inode,
                block: chunk.block,
                at: chunk.at,
                len: chunk.content.len() as u32,
                sealed_len,
                compressed,
            });
            places.push(Place::Pack {
                pack: number,
                chunk: index as u32,
                offset,
                sealed_len,
                skip: 0,
                compressed,
            });
        }
        let (body, size) = body.finish(&directory)?;
        let record = PackRecord { epoch: key.epoch, salt, size, content, live: 0, birth };
        Ok(BuiltPack { number, path: Path::from(path), record, places, body })
    }

    /// Opens chunks of a pack from what its record says.
    ///
    /// # Errors
    /// [`DataError::Open`] if the keyring has no key of this epoch.
    pub fn opener(
        &self,
        pack: PackNumber,
        epoch: Epoch,
        salt: &[u8; 32],
    ) -> Result<Opener, DataError> {
        let path = self.name(pack);
        Opener::from_parts(&self.keys, &self.binding(&path), epoch, CHUNK_SIZE, salt)
            .map_err(|source| DataError::Open { pack, offset: 0, source })
    }

    /// An opener and the directory from a whole pack, without any metadata.
    ///
    /// # Errors
    /// [`DataError::Open`], [`DataError::Truncated`] or [`DataError::Directory`].
    pub fn open_whole(
        &self,
        pack: PackNumber,
        object: &[u8],
    ) -> Result<(Opener, PackDirectory), DataError> {
        let opener = self.opener_of(pack, object)?;
        let directory = open_directory(pack, &opener, object, object.len() as u64)?;
        Ok((opener, directory))
    }

    /// Opens chunks of a pack from what its header says.
    ///
    /// # Errors
    /// [`DataError::Open`].
    pub fn opener_of(&self, pack: PackNumber, header: &[u8]) -> Result<Opener, DataError> {
        let path = self.name(pack);
        Opener::from_header(&self.keys, &self.binding(&path), header)
            .map_err(|source| DataError::Open { pack, offset: 0, source })
    }

    /// The seal of a pack, as its record tells.
    pub fn seal_of(record: &PackRecord) -> PackSeal {
        PackSeal { epoch: record.epoch, salt: record.salt }
    }
}

fn check_lengths(pack: PackNumber, chunks: &[Chunk]) -> Result<(), DataError> {
    let wrong = |chunk: &&Chunk| !(1..=CHUNK_LEN_MAX).contains(&chunk.content.len());
    if let Some(chunk) = chunks.iter().find(wrong) {
        return Err(DataError::ChunkLength { pack, len: chunk.content.len() });
    }
    let len: u64 = chunks.iter().map(|chunk| chunk.content.len() as u64).sum();
    if len > PACK_CONTENT_MAX { Err(DataError::PackLength { pack, len }) } else { Ok(()) }
}

/// Bytes of sealed directory that the last [`TRAILER_LEN`] bytes of a pack announce.
pub(super) fn directory_len(tail: &[u8]) -> Option<u32> {
    tail.last_chunk().map(|len| u32::from_le_bytes(*len))
}

/// The directory from the end of a pack of `size` bytes; `tail` holds at least all of it.
pub(super) fn open_directory(
    pack: PackNumber,
    opener: &Opener,
    tail: &[u8],
    size: u64,
) -> Result<PackDirectory, DataError> {
    let truncated = || DataError::Truncated { pack, offset: size };
    let (rest, trailer) = tail.split_last_chunk::<TRAILER_LEN>().ok_or_else(truncated)?;
    let (count, len) = trailer.split_at(4);
    let (Some(count), Some(len)) = (directory_len(count), directory_len(len)) else {
        return Err(truncated());
    };
    let start = rest.len().checked_sub(len as usize).ok_or_else(truncated)?;
    let mut plain = Vec::new();
    let offset = size.saturating_sub((tail.len() - start) as u64);
    opener
        .open(u64::from(count), true, &rest[start..], &mut plain)
        .map_err(|source| DataError::Open { pack, offset, source })?;
    PackDirectory::decode(&plain).map_err(|source| DataError::Directory { pack, source })
}

/// The whole plaintext of one chunk from its sealed bytes. An uncompressed one stands where they stood; else `sealed` is left
/// to the caller as memory to use again.
pub(super) fn open_chunk(
    chunk: &ChunkRef,
    opener: &Opener,
    sealed: &mut Vec<u8>,
) -> Result<Bytes, DataError> {
    let (pack, offset) = (chunk.pack, u64::from(chunk.offset));
    opener
        .open_in_place(u64::from(chunk.chunk), false, sealed)
        .map_err(|source| DataError::Open { pack, offset, source })?;
    let plain = if chunk.compressed {
        expand(sealed).ok_or(DataError::Decompress { pack, offset })?
    } else {
        std::mem::take(sealed)
    };
    Ok(plain.into())
}

/// An object under construction.
struct Body {
    pack: PackNumber,
    sealer: Sealer,
    /// In one piece: what is sent must be, and a pack is large.
    bytes: Vec<u8>,
    chunks: u32,
}

impl Body {
    /// An object for `content_len` bytes in `chunks` chunks.
    fn new(pack: PackNumber, sealer: Sealer, content_len: usize, chunks: usize) -> Self {
        let overhead = sealer.header().len() + TRAILER_LEN + (chunks + 1) * CHUNK_OVERHEAD_LEN;
        let mut bytes = Vec::with_capacity(content_len + overhead);
        bytes.extend_from_slice(sealer.header());
        Self { pack, sealer, bytes, chunks: 0 }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Appends one sealed chunk; its length.
    fn seal(&mut self, plain: &[u8], is_last: bool) -> Result<u32, DataError> {
        let before = self.bytes.len();
        self.sealer
            .seal(plain, is_last, &mut self.bytes)
            .map_err(|source| DataError::Seal { pack: self.pack, source })?;
        self.chunks += 1;
        Ok((self.bytes.len() - before) as u32)
    }

    /// Appends directory and trailer; the object and its length.
    fn finish(mut self, directory: &PackDirectory) -> Result<(PutPayload, u64), DataError> {
        let count = self.chunks;
        let sealed_len = self.seal(&directory.encode(), true)?;
        self.bytes.extend_from_slice(&count.to_le_bytes());
        self.bytes.extend_from_slice(&sealed_len.to_le_bytes());
        let len = self.len();
        self.bytes.shrink_to_fit();
        Ok((PutPayload::from(self.bytes), len))
    }
}
