//! How far a scrub came: a small file, replaced whole.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FaultyPack, ScrubOptions};
use crate::base::Timestamp;
use crate::check::CheckError;

const VERSION: u32 = 2;

/// What an interrupted scrub found counts for so long.
const AGE_MAX: Duration = Duration::from_hours(7 * 24);

/// What is remembered of a scrub. Numbers of packs only: no names of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    lidfs_scrub: u32,
    /// Where the volume is.
    location: String,
    /// When it began, in seconds since 1970.
    pub(super) began: i64,
    /// The first pack that was not tried.
    pub(super) next_pack: u64,
    pub(super) packs: u64,
    pub(super) bytes: u64,
    pub(super) faulty: Vec<FaultyPack>,
}

impl State {
    /// A new beginning.
    pub(super) fn new(options: &ScrubOptions) -> Self {
        Self {
            lidfs_scrub: VERSION,
            location: options.location.clone(),
            began: options.now.seconds,
            next_pack: 0,
            packs: 0,
            bytes: 0,
            faulty: Vec::new(),
        }
    }

    /// What is remembered, or a new beginning.
    pub(super) fn load(options: &ScrubOptions) -> Result<Self, CheckError> {
        let Some(path) = options.state.as_deref().filter(|_| !options.restart) else {
            return Ok(Self::new(options));
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::new(options));
            }
            Err(error) => return Err(failed(path, error)),
        };
        // A state of another version or place, one too old, or half a file, is no state.
        let is_ours = |state: &Self| {
            state.lidfs_scrub == VERSION
                && state.location == options.location
                && state.is_recent(options.now)
        };
        let state = serde_json::from_slice(&bytes).ok().filter(is_ours);
        Ok(state.unwrap_or_else(|| Self::new(options)))
    }

    fn is_recent(&self, now: Timestamp) -> bool {
        let age = now.seconds.checked_sub(self.began).and_then(|age| u64::try_from(age).ok());
        age.is_some_and(|age| age <= AGE_MAX.as_secs())
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
