//! Why the records of a volume could not be read or written.

use std::sync::Arc;

use crate::base::ErrorKind;
use crate::meta::CheckpointId;

/// Failure of a metadata engine.
///
/// Cloneable, because one failed flush answers everybody who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum MetaError {
    /// Final: nothing of this engine will be stored any more.
    #[error(
        "metadata: a newer writer has taken this volume over, nothing more is stored by this mount: unmount it"
    )]
    Fenced,
    /// The store does not answer as it should; the same call may succeed later.
    #[error("metadata: {doing}: the store is unavailable: try again when it is back")]
    Unavailable {
        /// What was tried.
        doing: &'static str,
        /// What the engine said.
        source: Source,
    },
    /// Stored bytes are missing or make no sense.
    #[error("metadata: {doing}: stored data is damaged or missing: run lidfs scrub")]
    Corrupt {
        /// What was tried.
        doing: &'static str,
        /// What the engine said.
        source: Source,
    },
    /// The engine was closed before.
    #[error("metadata: {doing}: the volume is closed: mount it again")]
    Closed {
        /// What was tried.
        doing: &'static str,
    },
    /// The engine gave up by itself; what was not flushed is lost.
    #[error("metadata: {doing}: the engine has stopped: mount the volume again")]
    Stopped {
        /// What was tried.
        doing: &'static str,
        /// What stopped it.
        source: Source,
    },
    /// The request cannot be served, whatever the state.
    #[error("metadata: {0}")]
    Invalid(String),
    /// No such checkpoint, or it has expired.
    #[error("metadata: checkpoint {0} does not exist any more: list the snapshots")]
    NoCheckpoint(CheckpointId),
}

/// The engine's own error, shared by all who get it.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

impl MetaError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Fenced => ErrorKind::Conflict,
            Self::Unavailable { .. } => ErrorKind::Retry,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Closed { .. } | Self::Invalid(_) => ErrorKind::Invalid,
            Self::Stopped { .. } => ErrorKind::Bug,
            Self::NoCheckpoint(_) => ErrorKind::NotFound,
        }
    }

    /// Whether no later call on the same engine can succeed.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Fenced | Self::Closed { .. } | Self::Stopped { .. })
    }
}
