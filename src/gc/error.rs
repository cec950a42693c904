//! Why garbage could not be collected.

use crate::base::ErrorKind;
use crate::fs::FsError;
use crate::meta::MetaError;
use crate::store::object_store;
use crate::volume::{LeaseError, VolumeError};

/// Why garbage could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// The mount is read-only, or stores nothing any more.
    #[error(
        "this mount writes nothing, so it collects nothing; collect where the volume is mounted read-write"
    )]
    Ended,
    /// The file system could not do its part.
    #[error("{0}")]
    Fs(FsError),
    /// The checkpoints could not be listed.
    #[error("the volume's checkpoints could not be read: {0}")]
    Meta(#[from] MetaError),
    /// Old keys cannot go, because something still needs them.
    #[error(
        "{packs} packs are damaged or without a record and cannot be sealed anew: run lidfs scrub and \
         lidfs fsck --repair, then lidfs key rekey again; the old key is kept until then"
    )]
    NotRekeyed {
        /// How many.
        packs: u64,
    },
    /// The header could not be changed.
    #[error("the volume's epochs could not be changed: {0}")]
    Volume(#[from] VolumeError),
    /// It is not known whether this mount still holds the volume.
    #[error("the lease could not be written: {0}")]
    Lease(#[from] LeaseError),
    /// The store did not say whether an object is there, or did not delete it.
    #[error("a pack could not be looked at or deleted, try again: {0}")]
    Store(#[from] object_store::Error),
}

impl From<FsError> for GcError {
    fn from(error: FsError) -> Self {
        match error {
            FsError::ReadOnly | FsError::Io { kind: ErrorKind::Conflict, .. } => Self::Ended,
            other => Self::Fs(other),
        }
    }
}
