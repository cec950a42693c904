//! Reads a pack's directory from the bucket: what `gc` and `check` go by.

use std::sync::Arc;

use bytes::Bytes;

use super::DataError;
use super::chunk::ChunkRef;
use super::pack::{PackContext, TRAILER_LEN, directory_len, open_directory};
use crate::base::{CommitNumber, KIB, PackNumber};
use crate::crypto::{HEADER_LEN, Opener};
use crate::format::{PackDirectory, PackEntry, PackRecord};
use crate::store::object_store::path::Path;
use crate::store::object_store::{ObjectStore, ObjectStoreExt as _};

/// Bytes from the end of a pack that usually hold all of its directory.
const TAIL_LEN: u64 = 16 * KIB;

/// The directory of a pack that metadata knows: one request, two if it is long.
///
/// # Errors
/// As of [`BlockReader::read`](super::BlockReader::read), and [`DataError::Directory`].
pub async fn read_directory(
    store: &Arc<dyn ObjectStore>,
    context: &PackContext,
    pack: PackNumber,
    record: &PackRecord,
) -> Result<PackDirectory, DataError> {
    let opener = context.opener(pack, record.epoch, &record.salt)?;
    read_tail(store, &context.path(pack), pack, &opener, record.size).await
}

/// The directory of a pack of `size` bytes.
async fn read_tail(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    pack: PackNumber,
    opener: &Opener,
    size: u64,
) -> Result<PackDirectory, DataError> {
    let tail = async |len: u64| {
        let start = size.saturating_sub(len);
        let tail = store.get_range(path, start..size).await;
        let tail = tail.map_err(|error| DataError::reading(pack, start, error))?;
        let whole = tail.len() as u64 == size - start;
        if whole { Ok(tail) } else { Err(DataError::Truncated { pack, offset: start }) }
    };
    let mut bytes = tail(TAIL_LEN).await?;
    let truncated = DataError::Truncated { pack, offset: size };
    let needed = u64::from(directory_len(&bytes).ok_or(truncated)?) + TRAILER_LEN as u64;
    if needed > bytes.len() as u64 && needed <= size {
        bytes = tail(needed).await?;
    }
    open_directory(pack, opener, &bytes, size)
}

/// The record of a pack from the pack itself, as if no file showed anything of it: header and
/// directory are read.
///
/// # Errors
/// As [`read_directory`].
pub async fn recover_record(
    store: &Arc<dyn ObjectStore>,
    context: &PackContext,
    pack: PackNumber,
) -> Result<PackRecord, DataError> {
    let path = context.path(pack);
    let failed = |error| DataError::reading(pack, 0, error);
    let size = store.head(&path).await.map_err(failed)?.size;
    if size < HEADER_LEN as u64 {
        return Err(DataError::Truncated { pack, offset: size });
    }
    let header = store.get_range(&path, 0..HEADER_LEN as u64).await.map_err(failed)?;
    let opener = context.opener_of(pack, &header)?;
    let directory = read_tail(store, &path, pack, &opener, size).await?;
    let (epoch, salt) = opener.seal();
    let content = directory.entries.iter().map(|entry| u64::from(entry.len)).sum();
    Ok(PackRecord { epoch, salt, size, content, live: 0, birth: CommitNumber(0) })
}

/// The bytes of a pack as they are in the bucket, at most `size` of them; and how many there are.
///
/// # Errors
/// [`DataError::Missing`], [`DataError::Read`].
pub async fn read_whole(
    store: &Arc<dyn ObjectStore>,
    context: &PackContext,
    pack: PackNumber,
    size: u64,
) -> Result<(Bytes, u64), DataError> {
    let path = context.path(pack);
    let failed = |error| DataError::reading(pack, 0, error);
    let object = store.get(&path).await.map_err(failed)?;
    let found = object.meta.size;
    if found <= size {
        return Ok((object.bytes().await.map_err(failed)?, found));
    }
    // It is not the pack that was written: no more of it than that is taken into memory.
    drop(object);
    Ok((store.get_range(&path, 0..size).await.map_err(failed)?, found))
}

/// The chunks that a pack's directory tells of, in order.
pub fn chunks_of(pack: PackNumber, directory: &PackDirectory) -> Vec<ChunkRef> {
    let mut offset = HEADER_LEN as u32;
    let mut chunks = Vec::with_capacity(directory.entries.len());
    for (entry, index) in directory.entries.iter().zip(0..) {
        let PackEntry { sealed_len, compressed, .. } = *entry;
        chunks.push(ChunkRef { pack, chunk: index, offset, sealed_len, compressed });
        // Hostile lengths cannot be: the directory is authentic.
        offset = offset.saturating_add(sealed_len);
    }
    chunks
}
