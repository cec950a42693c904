//! Who runs this process. On its own because asking the kernel is a foreign call.
#![allow(unsafe_code)]

/// Effective user id.
pub fn effective_uid() -> u32 {
    // SAFETY: no arguments, always succeeds, touches no memory.
    unsafe { libc::geteuid() }
}

/// Effective group id.
pub fn effective_gid() -> u32 {
    // SAFETY: no arguments, always succeeds, touches no memory.
    unsafe { libc::getegid() }
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    effective_uid() == 0
}
