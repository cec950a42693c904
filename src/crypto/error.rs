//! Why an object could not be sealed or opened.

use super::ObjectKind;
use crate::base::{Epoch, ErrorKind, VolumeId};

/// Why a chunk could not be sealed. Each is a mistake of the caller, not of the data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The final chunk was sealed before.
    #[error("object {path}: already sealed to its end; start a new sealer for new bytes")]
    Finished {
        /// The object's path.
        path: String,
    },
    /// One chunk more than the counter may count.
    #[error("object {path}: more than 2^32 chunks; split it into several objects")]
    TooManyChunks {
        /// The object's path.
        path: String,
    },
    /// In an object of fixed chunks, all but the last are full and the last is no longer.
    #[error(
        "object {path}: a chunk of {len} bytes does not fit the chunk size {chunk_size}; cut at that size"
    )]
    ChunkLength {
        /// The object's path.
        path: String,
        /// Length of the plaintext given.
        len: usize,
        /// What the header says.
        chunk_size: u32,
    },
}

impl SealError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Finished { .. } | Self::ChunkLength { .. } => ErrorKind::Bug,
            Self::TooManyChunks { .. } => ErrorKind::Invalid,
        }
    }
}

/// Why an object could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Shorter than a header, or without the magic bytes.
    #[error(
        "object {path}: not a sealed object; something else was stored under this name, restore it from a copy"
    )]
    NotSealed {
        /// The object's path.
        path: String,
    },
    /// Written by a later format.
    #[error("object {path}: format version {version} is unknown; update lidfs")]
    UnknownVersion {
        /// The object's path.
        path: String,
        /// What the header says.
        version: u8,
    },
    /// Sealed with other algorithms.
    #[error("object {path}: cipher suite {suite} is unknown; update lidfs")]
    UnknownSuite {
        /// The object's path.
        path: String,
        /// What the header says.
        suite: u8,
    },
    /// An object of another kind stands under this name.
    #[error(
        "object {path}: holds kind {found} where a {expected} belongs; it was swapped, restore it from a copy"
    )]
    WrongKind {
        /// The object's path.
        path: String,
        /// What the caller reads.
        expected: ObjectKind,
        /// What the header says.
        found: u8,
    },
    /// An object of another volume stands under this name.
    #[error(
        "object {path}: belongs to volume {found}, not to {expected}; check the volume URL, or restore it from a copy"
    )]
    OtherVolume {
        /// The object's path.
        path: String,
        /// The volume that is open.
        expected: VolumeId,
        /// What the header says.
        found: VolumeId,
    },
    /// The keyring has no key for this epoch.
    #[error(
        "object {path}: sealed in epoch {epoch}, for which the keyring has no key; mount again to load the newest keyring"
    )]
    UnknownEpoch {
        /// The object's path.
        path: String,
        /// What the header says.
        epoch: Epoch,
    },
    /// The header does not commit to the key that path, salt and data key give.
    #[error(
        "object {path}: header does not match its key; wrong key, or the object was renamed or forged, restore it from a copy"
    )]
    WrongKey {
        /// The object's path.
        path: String,
    },
    /// The chunk's tag does not fit: changed, cut, moved, or taken from elsewhere.
    #[error(
        "object {path}: chunk {index} fails authentication; it was damaged or forged, restore it from a copy"
    )]
    ForgedChunk {
        /// The object's path.
        path: String,
        /// Position of the chunk in the object.
        index: u64,
    },
    /// The object's size or chunk size is none that sealing can give.
    #[error(
        "object {path}: {len} bytes is no size of a sealed object; it was cut or extended, restore it from a copy"
    )]
    WrongLength {
        /// The object's path.
        path: String,
        /// Bytes found.
        len: u64,
    },
    /// The object ends before something that is known to be in it.
    #[error(
        "object {path}: it ends after {len} bytes, and what was wanted begins at byte {wanted}; it was cut, restore it from a copy"
    )]
    TooShort {
        /// The object's path.
        path: String,
        /// Bytes found.
        len: u64,
        /// First byte wanted.
        wanted: u64,
    },
}

impl OpenError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownVersion { .. } | Self::UnknownSuite { .. } => ErrorKind::Invalid,
            Self::UnknownEpoch { .. } => ErrorKind::Denied,
            Self::NotSealed { .. }
            | Self::WrongKind { .. }
            | Self::OtherVolume { .. }
            | Self::WrongKey { .. }
            | Self::ForgedChunk { .. }
            | Self::WrongLength { .. }
            | Self::TooShort { .. } => ErrorKind::Corrupt,
        }
    }
}
