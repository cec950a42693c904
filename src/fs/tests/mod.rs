//! Tests of the file system without a kernel: an engine in memory, a store in memory.

mod check;
mod check_repair;
mod content;
mod floods;
mod follower;
mod lost;
mod names;
mod outage;
mod quota;
mod robust;
mod scrub;
mod seek;
mod small_files;
pub(crate) mod support;
