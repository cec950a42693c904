//! Assembles a mount and runs it: the one place that wires parts.
//!
//! ```text
//! background: fork --> run: harden -> assemble ----------------------------> serve -> end
//!                             store+measured -> volume -> probe -> lease
//!                             -> sealed -> meta -> pin check -> data -> fs -> fuse
//!
//! serve:  session end | signal | panic | control socket (control) | heartbeat, pin (keepers)
//! end:    fs closed (everything in the bucket) -> lease released -> pin written
//! ```
//!
//! Invariant: whatever ends a mount, what was acknowledged is in the bucket, and
//! what could not be stored is said aloud and in the exit code.

mod assemble;
mod background;
mod check;
mod control;
mod customer_key;
mod error;
mod finish;
mod keepers;
mod log;
mod notify;
mod open;
mod pages;
mod place;
mod registry;
mod rewrite;
mod serve;
mod shared;
mod signals;
mod status;
mod system;

pub use background::{Answer, Side, Starting, detach};
pub use check::{Checked, check, mend, scrub};
pub use control::{Request, Response, ask};
pub use error::DaemonError;
pub use open::{Storage, create, harden, open_storage, open_volume};
pub use place::{FILE_SYSTEM_TYPE, canonical};
pub use registry::{Entry, all, find};
pub use rewrite::rewrite;
pub use serve::{Plan, run};
pub use status::{
    ByteCounts, CacheStatus, HealthState, HealthStatus, RequestCounts, SCHEMA, SpaceStatus, Status,
    StoreStatus, VolumeStatus, WriteStatus,
};
pub use system::{disable_core_dumps, is_alive, memory_lock_limit, open_fuse_device, unmount};
