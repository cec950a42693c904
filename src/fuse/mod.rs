//! The kernel's side: a thin adapter between FUSE and [`fs`](crate::fs).
//!
//! ```text
//! kernel -> /dev/fuse -> fuser: threads -> operations: convert -> fs::FileSystem
//!                                             adapter: answer here, or on the runtime
//!   mount(2), umount2(2) <- mount     session: from mount to end     invalidate -> kernel
//! ```
//!
//! It only converts, calls, replies. What the kernel may cache is decided here: on
//! the writing mount, the only one that changes the volume, names, attributes,
//! content and unwritten changes for long; on a follower hardly anything.
//!
//! The only user of `fuser` (0.18), whose known defects are kept away from:
//! its unmounting may hit a stranger's mount (`mount`), times before 1970
//! (`convert::requested_time`), a panic that would kill a thread unseen
//! (`adapter`).

mod adapter;
mod convert;
mod errno;
mod error;
mod invalidate;
mod mount;
mod mountinfo;
mod operations;
mod options;
mod session;
#[cfg(test)]
mod tests;
mod users;

pub use error::FuseError;
pub use invalidate::Invalidator;
pub use mount::Unmount;
pub use mountinfo::mount_type_at;
pub use options::{Caching, FOLLOWER_TTL, FuseOptions, WRITER_TTL};
pub use session::{FuseMount, Presence, mount};
