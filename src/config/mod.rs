//! The config file: composes each part's own `Config`, checks it, names the line that is wrong.
//!
//! ```text
//! -c FILE | LIDFS_CONFIG | XDG places | /etc/lidfs  -->  toml text --> Config
//! LIDFS_<SECTION>_<KEY> variables  --------------------^  then  -o section.key=value  --------^
//! ```
//!
//! What comes later wins. Invariant: no secret is a value here, so nothing that
//! must stay hidden ever stands in the environment or in an argument.

mod error;
mod identity;
mod load;
mod memory;
mod place;
mod sections;

pub use error::ConfigError;
pub use identity::{effective_gid, effective_uid, is_root};
pub use load::{Loaded, Override, Request, load};
pub use memory::Shares;
pub use place::{cache_home, config_home, data_home, runtime_dirs, state_home};
pub use sections::{
    Cache, Config, Gc, Log, LogFormat, Mount, Percent, Size, State, VolumeSection, Write,
};
