//! Why something could not be measured.

use std::io;
use std::path::PathBuf;

use crate::base::ErrorKind;
use crate::store::object_store;
use crate::store::{StoreFault, StoreUrl, classify, explain};

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The store failed.
    #[error("the store failed at {step}: {}{}", explain(.source), left(*.is_removed, .place))]
    Store {
        /// Which.
        place: Box<Place>,
        /// What was being measured.
        step: &'static str,
        /// How.
        source: Box<object_store::Error>,
        /// Whether what had been written was removed.
        is_removed: bool,
    },
    /// All was measured, and not all could be removed.
    #[error("what was measured cannot be removed: {}{}", explain(.source), left(false, .place))]
    NotRemoved {
        /// Where.
        place: Box<Place>,
        /// Why.
        source: Box<object_store::Error>,
    },
    /// The mount failed.
    #[error("{}: {step}: {source}; see `lidfs status` and the log of the mount", path.display())]
    Mount {
        /// Which file or directory.
        path: PathBuf,
        /// What was being measured.
        step: &'static str,
        /// How.
        source: io::Error,
    },
    /// A mount that takes no writes.
    #[error(
        "{}: mounted read-only, so nothing can be written there; measure its store alone with `lidfs bench CONFIG`",
        mountpoint.display()
    )]
    ReadOnly {
        /// Which.
        mountpoint: PathBuf,
    },
    /// A signal came.
    #[error("interrupted; what was written has been removed")]
    Interrupted,
}

/// Where objects are written.
#[derive(Debug)]
pub struct Place {
    /// The volume.
    pub url: StoreUrl,
    /// Below it: how the names of all of them begin.
    pub prefix: String,
}

fn left(is_removed: bool, Place { url, prefix }: &Place) -> String {
    if is_removed {
        return String::new();
    }
    format!("; objects whose names begin with {url}/{prefix} may be left: delete them")
}

impl BenchError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store { source, .. } | Self::NotRemoved { source, .. } => classify(source).kind(),
            Self::Mount { .. } | Self::Interrupted => ErrorKind::Retry,
            Self::ReadOnly { .. } => ErrorKind::Denied,
        }
    }

    /// What the store's own error was, if it was one.
    pub fn fault(&self) -> Option<StoreFault> {
        match self {
            Self::Store { source, .. } | Self::NotRemoved { source, .. } => Some(classify(source)),
            _ => None,
        }
    }
}
