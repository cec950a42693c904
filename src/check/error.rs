//! Why a check could not be carried through.

use std::path::PathBuf;

use crate::base::ErrorKind;
use crate::data::DataError;
use crate::meta::MetaError;
use crate::store::{self, object_store};

/// Why a check or a repair did not come to its end. What it found until then is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Records cannot be read or written.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Beside a writer, no state stood still for long enough.
    #[error("the volume changes faster than it can be checked; try again, or unmount it")]
    Moving,
    /// The store does not give a pack, for a reason that passes.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The store does not give an object of the metadata.
    #[error("{name}: the store failed: {}; scrub again", store::explain(.source))]
    Store {
        /// The object's name below the volume's prefix.
        name: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// How far a scrub came cannot be remembered.
    #[error("{}: the state of the scrub cannot be kept: {source}; check [state] dir, or scrub with --restart", path.display())]
    State {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl CheckError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Meta(error) => error.kind(),
            Self::Data(error) => error.kind(),
            Self::Moving => ErrorKind::Retry,
            Self::Store { source, .. } => store::classify(source).kind(),
            Self::State { .. } => ErrorKind::Denied,
        }
    }
}
