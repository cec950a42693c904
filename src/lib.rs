//! lidfs: mounts an S3 bucket as an encrypted POSIX drive.
//!
//! The modules in layer order; imports run downward only (`tests/architecture.rs`).

pub mod base;
pub mod format;
pub mod fs;
pub mod fuse;
