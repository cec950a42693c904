//! Who runs this process.

use rustix::process::{getegid, geteuid};

/// Effective user id.
pub fn effective_uid() -> u32 {
    geteuid().as_raw()
}

/// Effective group id.
pub fn effective_gid() -> u32 {
    getegid().as_raw()
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}
