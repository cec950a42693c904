//! Why a mount could not be made, kept or ended.

use std::io;
use std::path::PathBuf;

use crate::base::ErrorKind;

/// Why a mount could not be made, kept or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FuseError {
    /// The mount point does not exist.
    #[error("mount point {path}: does not exist; create the directory first")]
    MountPointMissing {
        /// As given.
        path: PathBuf,
    },
    /// The mount point is a file or the like.
    #[error("mount point {path}: not a directory; choose an empty directory")]
    MountPointNotDirectory {
        /// As given.
        path: PathBuf,
    },
    /// Mounting would hide what is there.
    #[error("mount point {path}: not empty; choose an empty directory or add -o nonempty")]
    MountPointNotEmpty {
        /// As given.
        path: PathBuf,
    },
    /// Something is mounted there already, perhaps left behind by a dead process.
    #[error("mount point {path}: in use by another mount; unmount it first (umount {path})")]
    MountPointBusy {
        /// As given.
        path: PathBuf,
    },
    /// The mount point cannot be looked at.
    #[error("mount point {path}: cannot be examined; check its permissions")]
    MountPoint {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A mount option that neither the kernel nor mount(8) has.
    #[error(
        "mount option {option:?} is unknown; there are section.key=value (see config.example.toml), ro, allow_other, nonempty, uid=N, gid=N, suid, dev, noexec, sync, dirsync, context=..."
    )]
    UnknownOption {
        /// The option.
        option: String,
    },
    /// The machine offers no FUSE.
    #[error(
        "/dev/fuse: cannot be opened; load the kernel module (modprobe fuse) or allow the device in the container"
    )]
    Device {
        /// What the system said.
        source: io::Error,
    },
    /// mount(2) refused.
    #[error("mounting at {path} refused by the kernel; check mount options and dmesg")]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The set-uid helper that mounts for users refused.
    #[error("mounting at {path} refused by fusermount3: {message}")]
    Helper {
        /// Where.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The kernel and the FUSE library did not agree on a session.
    #[error("mounting at {path}: the FUSE session could not start; see the log")]
    Handshake {
        /// Where.
        path: PathBuf,
        /// What the library said.
        source: io::Error,
    },
    /// Files are open, or a process has its working directory there.
    #[error("{path} is in use{users}: close what is open there (lsof +f -- {path}) and try again")]
    Busy {
        /// Where.
        path: PathBuf,
        /// By whom, in words, as far as it is known.
        users: String,
    },
    /// umount2(2) refused.
    #[error("unmounting {path} failed; try umount {path}")]
    Unmount {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The session ended although nobody unmounted: aborted through
    /// `/sys/fs/fuse/connections`, or the request timeout of the kernel struck.
    #[error("mount at {path} was aborted by the kernel or an administrator; mount it again")]
    Aborted {
        /// Where.
        path: PathBuf,
    },
    /// The FUSE session broke.
    #[error("mount at {path} ended: {message}")]
    Session {
        /// Where.
        path: PathBuf,
        /// What the library said.
        message: String,
    },
    /// A defect: an operation panicked. The state in memory cannot be trusted
    /// and must not be committed; what the bucket holds is sound.
    #[error(
        "mount at {path} stopped: operation {operation} panicked; please report the log, then mount again"
    )]
    Panicked {
        /// Where.
        path: PathBuf,
        /// Which operation.
        operation: &'static str,
    },
}

impl FuseError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::MountPointMissing { .. } => ErrorKind::NotFound,
            Self::MountPointNotDirectory { .. }
            | Self::MountPointNotEmpty { .. }
            | Self::UnknownOption { .. } => ErrorKind::Invalid,
            Self::MountPointBusy { .. } | Self::Busy { .. } => ErrorKind::Conflict,
            Self::MountPoint { .. }
            | Self::Device { .. }
            | Self::Mount { .. }
            | Self::Helper { .. }
            | Self::Unmount { .. } => ErrorKind::Denied,
            Self::Handshake { .. } | Self::Aborted { .. } | Self::Session { .. } => {
                ErrorKind::Retry
            }
            Self::Panicked { .. } => ErrorKind::Bug,
        }
    }
}
