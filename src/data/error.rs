//! Why content could not be packed, stored or read back.

use std::sync::Arc;

use crate::base::{ErrorKind, PackNumber};
use crate::crypto::{OpenError, SealError};
use crate::format::FormatError;
use crate::store::object_store;

/// Why content could not be packed, stored or read back. Cheap to clone: all who wait for one
/// request get the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The store did not answer a read as asked.
    #[error("pack {pack} at byte {offset}: the store failed, try again: {source}")]
    Read {
        /// The pack.
        pack: PackNumber,
        /// First byte asked for.
        offset: u64,
        /// What the store said.
        source: Arc<object_store::Error>,
    },
    /// The store did not take a pack.
    #[error("pack {pack}: upload failed, it is sent again with the next flush: {source}")]
    Upload {
        /// The pack.
        pack: PackNumber,
        /// What the store said.
        source: Arc<object_store::Error>,
    },
    /// Metadata refers to a pack that is not in the bucket.
    #[error(
        "pack {pack} at byte {offset}: object {path} is not in the bucket; restore it from a copy"
    )]
    Missing {
        /// The pack.
        pack: PackNumber,
        /// First byte asked for.
        offset: u64,
        /// The pack's name in the bucket.
        path: String,
    },
    /// The object ends before a chunk that metadata places in it.
    #[error("pack {pack} at byte {offset}: the object ends early; restore it from a copy")]
    Truncated {
        /// The pack.
        pack: PackNumber,
        /// First byte asked for.
        offset: u64,
    },
    /// The bytes do not authenticate, or their key is missing.
    #[error("pack {pack} at byte {offset}: {source}")]
    Open {
        /// The pack.
        pack: PackNumber,
        /// First byte of the chunk, or 0 for the pack as a whole.
        offset: u64,
        /// What failed.
        source: OpenError,
    },
    /// Authentic bytes that do not decompress to a chunk.
    #[error("pack {pack} at byte {offset}: content does not decompress; run lidfs scrub")]
    Decompress {
        /// The pack.
        pack: PackNumber,
        /// First byte of the chunk.
        offset: u64,
    },
    /// A length that no chunk can have.
    #[error("pack {pack} at byte {offset}: no chunk has {len} sealed bytes; run lidfs fsck")]
    BadReference {
        /// The pack.
        pack: PackNumber,
        /// First byte of the chunk.
        offset: u64,
        /// What metadata says.
        len: u32,
    },
    /// Authentic bytes that are no pack directory.
    #[error("pack {pack}: its directory does not decode; run lidfs scrub: {source}")]
    Directory {
        /// The pack.
        pack: PackNumber,
        /// What failed.
        source: FormatError,
    },
    /// A chunk to be packed is empty or longer than the largest block.
    #[error("pack {pack}: a chunk of {len} bytes cannot be packed; cut content into blocks")]
    ChunkLength {
        /// The pack.
        pack: PackNumber,
        /// Bytes given.
        len: usize,
    },
    /// More content than one pack holds.
    #[error("pack {pack}: {len} bytes do not fit one pack; spread them over several")]
    PackLength {
        /// The pack.
        pack: PackNumber,
        /// Bytes given.
        len: u64,
    },
    /// Sealing failed.
    #[error("pack {pack}: {source}")]
    Seal {
        /// The pack.
        pack: PackNumber,
        /// What failed.
        source: SealError,
    },
    /// A compressor could not be made.
    #[error("pack {pack}: zstd could not start, check the compression level: {reason}")]
    Compressor {
        /// The pack.
        pack: PackNumber,
        /// What zstd said.
        reason: String,
    },
    /// The work was dropped, since the program is stopping.
    #[error("pack {pack} at byte {offset}: the read was abandoned during shutdown; try again")]
    Abandoned {
        /// The pack.
        pack: PackNumber,
        /// First byte asked for.
        offset: u64,
    },
}

impl DataError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { source, .. } | Self::Upload { source, .. } => store_kind(source),
            Self::Missing { .. }
            | Self::Truncated { .. }
            | Self::Decompress { .. }
            | Self::BadReference { .. }
            | Self::Directory { .. } => ErrorKind::Corrupt,
            Self::Open { source, .. } => source.kind(),
            Self::ChunkLength { .. } | Self::PackLength { .. } => ErrorKind::Bug,
            Self::Seal { source, .. } => source.kind(),
            Self::Compressor { .. } => ErrorKind::Invalid,
            Self::Abandoned { .. } => ErrorKind::Retry,
        }
    }

    /// What a failed read of `pack` at `offset` means.
    pub(super) fn reading(pack: PackNumber, offset: u64, source: object_store::Error) -> Self {
        match source {
            object_store::Error::NotFound { path, .. } => Self::Missing { pack, offset, path },
            source => Self::Read { pack, offset, source: Arc::new(source) },
        }
    }
}

fn store_kind(source: &object_store::Error) -> ErrorKind {
    use object_store::Error;
    match source {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorKind::Denied,
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => ErrorKind::Invalid,
        Error::AlreadyExists { .. } | Error::Precondition { .. } => ErrorKind::Conflict,
        _ => ErrorKind::Retry,
    }
}
