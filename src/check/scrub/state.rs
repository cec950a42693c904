//! How far a scrub came: a small file, replaced whole.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::FaultyPack;
use crate::check::CheckError;

const VERSION: u32 = 1;

/// What is remembered of a scrub. Numbers of packs only: no names of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    lidfs_scrub: u32,
    /// Where the volume is.
    location: String,
    /// The first pack that was not tried.
    pub(super) next_pack: u64,
    pub(super) packs: u64,
    pub(super) bytes: u64,
    pub(super) faulty: Vec<FaultyPack>,
}

impl State {
    /// A new beginning.
    pub(super) fn new(location: &str) -> Self {
        let (location, faulty) = (location.to_owned(), Vec::new());
        Self { lidfs_scrub: VERSION, location, next_pack: 0, packs: 0, bytes: 0, faulty }
    }

    /// What is remembered, or a new beginning.
    pub(super) fn load(path: &Path, location: &str) -> Result<Self, CheckError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::new(location));
            }
            Err(error) => return Err(failed(path, error)),
        };
        // A state of another version or place, or half a file, is no state.
        let is_ours = |state: &Self| state.lidfs_scrub == VERSION && state.location == location;
        let state = serde_json::from_slice(&bytes).ok().filter(is_ours);
        Ok(state.unwrap_or_else(|| Self::new(location)))
    }

    /// Remembers it.
    pub(super) fn store(&self, path: Option<&Path>) -> Result<(), CheckError> {
        let Some(path) = path else { return Ok(()) };
        let text = serde_json::to_vec(self).map_err(io::Error::from);
        text.and_then(|text| replace(path, &text)).map_err(|error| failed(path, error))
    }
}

/// The scrub is done.
pub(super) fn forget(path: Option<&Path>) -> Result<(), CheckError> {
    let Some(path) = path else { return Ok(()) };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text)?;
    fs::rename(&temporary, path)
}

fn failed(path: &Path, source: io::Error) -> CheckError {
    CheckError::State { path: path.to_owned(), source }
}
