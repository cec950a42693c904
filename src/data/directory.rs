//! Reads a pack's directory from the bucket: what `gc` and `check` go by.

use std::sync::Arc;

use super::DataError;
use super::chunk::ChunkRef;
use super::pack::{PackContext, TRAILER_LEN, directory_len, open_directory};
use crate::base::{KIB, PackNumber};
use crate::crypto::HEADER_LEN;
use crate::format::{PackDirectory, PackEntry, PackRecord};
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
    let path = context.path(pack);
    let opener = context.opener(pack, record.epoch, &record.salt)?;
    let size = record.size;
    let tail = async |len: u64| {
        let start = size.saturating_sub(len);
        let tail = store.get_range(&path, start..size).await;
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
    open_directory(pack, &opener, &bytes, size)
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
