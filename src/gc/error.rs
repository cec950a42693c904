//! Why garbage could not be collected.

use crate::base::ErrorKind;
use crate::fs::FsError;
use crate::meta::MetaError;
use crate::store::object_store;

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
