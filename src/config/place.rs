//! Where files stand on this machine (XDG Base Directory Specification 0.8).

use std::env;
use std::path::PathBuf;

use super::ConfigError;
use super::identity::is_root;

/// Directory name under each base directory.
const NAME: &str = "lidfs";

/// `$XDG_CONFIG_HOME/lidfs`.
pub fn config_home() -> Result<PathBuf, ConfigError> {
    base("XDG_CONFIG_HOME", ".config", "-c FILE")
}

/// `$XDG_DATA_HOME/lidfs`: where `lidfs demo` keeps its bucket.
pub fn data_home() -> Result<PathBuf, ConfigError> {
    base("XDG_DATA_HOME", ".local/share", "--bucket DIR")
}

/// `$XDG_STATE_HOME/lidfs`: freshness pins and logs. For root without a home, `/var/lib/lidfs`.
pub fn state_home() -> Result<PathBuf, ConfigError> {
    base("XDG_STATE_HOME", ".local/state", "state.dir").or_else(|error| root_or(error, "/var/lib"))
}

/// `$XDG_CACHE_HOME/lidfs`. For root without a home, `/var/cache/lidfs`.
pub fn cache_home() -> Result<PathBuf, ConfigError> {
    base("XDG_CACHE_HOME", ".cache", "cache.disk").or_else(|error| root_or(error, "/var/cache"))
}

/// Where control sockets may be, best place first.
///
/// The place must not depend on more than who runs the command: `status` looks
/// there without a config. Root has `/run/lidfs` also where a login session
/// gave it a directory of its own, so that a boot-time mount is found.
pub fn runtime_dirs() -> Vec<PathBuf> {
    let given = env::var_os("LIDFS_RUNTIME_DIR").map(PathBuf::from);
    let run = is_root().then(|| PathBuf::from("/run").join(NAME));
    let session = absolute("XDG_RUNTIME_DIR").map(|dir| dir.join(NAME));
    let state = state_home().ok().map(|dir| dir.join("run"));
    match given {
        Some(dir) => vec![dir],
        None => [run, session, state].into_iter().flatten().collect(),
    }
}

fn base(
    variable: &'static str,
    below_home: &str,
    key: &'static str,
) -> Result<PathBuf, ConfigError> {
    absolute(variable)
        .or_else(|| absolute("HOME").map(|home| home.join(below_home)))
        .map(|dir| dir.join(NAME))
        .ok_or(ConfigError::NoHome { variable, key })
}

fn root_or(error: ConfigError, dir: &str) -> Result<PathBuf, ConfigError> {
    if is_root() { Ok(PathBuf::from(dir).join(NAME)) } else { Err(error) }
}

/// The specification has relative paths ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
