//! Why a volume could not be mounted, or did not end well.

use std::io;
use std::path::PathBuf;

use crate::base::ErrorKind;
use crate::check::CheckError;
use crate::config::ConfigError;
use crate::data::DataError;
use crate::fs::FsError;
use crate::fuse::FuseError;
use crate::keys::KeyError;
use crate::meta::MetaError;
use crate::store::{OpenError, ProbeError, RewriteError, StoreUrl};
use crate::volume::{LeaseError, PinError, VolumeError};

/// Why a volume could not be mounted, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The configuration does not suffice.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store does not do what a volume needs.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The volume cannot be opened or made.
    #[error("{url}: {source}")]
    Volume {
        /// Which.
        url: StoreUrl,
        /// Why.
        source: Box<VolumeError>,
    },
    /// There is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The volume is older than this machine knows, or another one.
    #[error("{url}: {source}")]
    Pin {
        /// Which.
        url: StoreUrl,
        /// Why.
        source: PinError,
    },
    /// Another writer has it.
    #[error("{url}: {source}")]
    Lease {
        /// Which.
        url: StoreUrl,
        /// Why.
        source: Box<LeaseError>,
    },
    /// Its metadata cannot be opened.
    #[error("{url}: {source}")]
    Meta {
        /// Which.
        url: StoreUrl,
        /// Why.
        source: MetaError,
    },
    /// Its content cannot be read or written.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Not every object could be written anew.
    #[error("{url}: {source}")]
    Rewrite {
        /// Which volume.
        url: StoreUrl,
        /// Why.
        source: RewriteError,
    },
    /// A check did not come to its end.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The file system did not open or close.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The mount point or the machine does not allow it.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// A daemon serves the mount point already.
    #[error("mount point {}: lidfs is mounted there already (process {pid}); `lidfs umount {}` ends that", path.display(), path.display())]
    AlreadyMounted {
        /// Where.
        path: PathBuf,
        /// The daemon.
        pid: u32,
    },
    /// The system refused something that every mount needs.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A signal came before the mount answered.
    #[error("interrupted before the mount answered; nothing was changed")]
    Interrupted,
    /// A defect. What was acknowledged is safe in the bucket.
    #[error(
        "an internal error stopped the mount; every fsync that returned is safe: mount again, and report the log"
    )]
    Panicked,
    /// The mount ended and something written is not in the bucket.
    #[error(
        "the mount ended, and what was written since the last fsync may not be in the bucket: {reason}"
    )]
    NotStored {
        /// Why.
        reason: String,
    },
}

impl DaemonError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Open(error) => error.kind(),
            Self::Probe(error) => error.kind(),
            Self::Volume { source, .. } => source.kind(),
            Self::Key(error) => error.kind(),
            Self::Pin { source, .. } => source.kind(),
            Self::Lease { source, .. } => source.kind(),
            Self::Meta { source, .. } => source.kind(),
            Self::Data(error) => error.kind(),
            Self::Rewrite { source, .. } => source.kind(),
            Self::Check(error) => error.kind(),
            Self::Fs(error) => error.kind(),
            Self::Fuse(error) => error.kind(),
            Self::AlreadyMounted { .. } => ErrorKind::Conflict,
            Self::System { .. } => ErrorKind::Denied,
            Self::Interrupted | Self::NotStored { .. } => ErrorKind::Retry,
            Self::Panicked => ErrorKind::Bug,
        }
    }
}
