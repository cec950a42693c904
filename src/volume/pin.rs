//! Freshness pins: what this machine last saw of each volume.
//!
//! Whoever controls a bucket can put an older state of it back, and every byte
//! of it is authentic. What was seen before is the only thing that tells. One
//! small file a volume in the state directory:
//!
//! ```text
//! <dir>/<first 16 bytes of SHA-256(location), in hexadecimal>.json    mode 0600
//! { "lidfs_pin": 1, "location": "s3://...", "volume_id": "...", "fingerprint": "...",
//!   "names_fingerprint": "...", "retired": [], "header_version": 3, "commit": 1041 }
//! ```
//!
//! A volume key may change (`rotate.rs`). The names key never does, and only who opened the
//! volume has it: a header with a new volume key is believed if its keyring holds the same names
//! key and its version is higher than what was seen. The key before it is then retired: whoever
//! kept it cannot bring it back to this machine with a still higher version. A pin from before
//! these fields were has neither, and believes no new key.
//!
//! It is found by location, not by volume id, because a whole other volume in
//! the place of the known one must be noticed too.
//!
//! Invariant: what a file says only grows, and is replaced atomically, except
//! by [`FreshnessPins::reset`], which is what `--accept-rollback` is.

use std::fmt::Display;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Fingerprint, NamesFingerprint};
use crate::base::sabotage::{Bug, seeded};
use crate::base::{CommitNumber, ErrorKind, KIB, VolumeId};
use crate::format::header::{hex, text};

/// Longest pin file in bytes; a location may have some thousand.
const PIN_BYTES_MAX: u64 = 64 * KIB;
const PIN_VERSION: u32 = 1;
/// Most retired volume keys that are remembered, the latest ones.
const RETIRED_MAX: usize = 64;
/// Held while a pin is replaced, so that two processes do not undo each other.
const LOCK_NAME: &str = "pins.lock";

/// What was seen of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Which volume it is.
    pub volume: VolumeId,
    /// Which key it has.
    pub fingerprint: Fingerprint,
    /// Which names key it has for its whole life. Not in a pin of before rotation.
    pub names: Option<NamesFingerprint>,
    /// Volume keys that it had before, as far as this machine saw them go.
    pub retired: Vec<Fingerprint>,
    /// Version of its header.
    pub header_version: u64,
    /// Its newest commit.
    pub commit: CommitNumber,
}

impl Pin {
    /// Whether what is `seen` now is the pinned volume, and no older than the pin.
    ///
    /// # Errors
    /// [`PinError`]: what differs.
    pub fn check(&self, seen: &Self) -> Result<(), PinError> {
        self.check_volume(seen.volume)?;
        self.check_header(seen)?;
        if seen.commit < self.commit && !seeded(Bug::SkipPinCheck) {
            return Err(PinError::RolledBack {
                what: "commit",
                seen: seen.commit.0,
                known: self.commit.0,
            });
        }
        Ok(())
    }

    pub(super) fn check_volume(&self, seen: VolumeId) -> Result<(), PinError> {
        if seen == self.volume {
            Ok(())
        } else {
            Err(PinError::OtherVolume { seen, known: self.volume })
        }
    }

    pub(super) fn check_header(&self, seen: &Self) -> Result<(), PinError> {
        self.check_key(seen)?;
        if seen.header_version < self.header_version {
            return Err(PinError::RolledBack {
                what: "header version",
                seen: seen.header_version,
                known: self.header_version,
            });
        }
        Ok(())
    }

    /// The same volume key, or a newer one of the same volume.
    fn check_key(&self, seen: &Self) -> Result<(), PinError> {
        if seen.fingerprint == self.fingerprint {
            return Ok(());
        }
        if self.retired.contains(&seen.fingerprint) {
            return Err(PinError::RetiredKey { seen: seen.fingerprint });
        }
        if self.is_continued_by(seen) && seen.header_version > self.header_version {
            return Ok(());
        }
        Err(PinError::OtherKey { seen: seen.fingerprint, known: self.fingerprint })
    }

    fn is_continued_by(&self, other: &Self) -> bool {
        self.names.is_some() && self.names == other.names
    }

    /// What is known after `seen`: versions and commits only grow.
    fn merged(self, seen: &Self) -> Result<Self, PinError> {
        self.check_volume(seen.volume)?;
        let commit = seen.commit.max(self.commit);
        let is_older = seen.header_version < self.header_version;
        if seen.fingerprint != self.fingerprint && is_older && self.is_continued_by(seen) {
            // A mount of before the rotation, which goes on under the same data keys.
            return Ok(Self { commit, ..self });
        }
        self.check_key(seen)?;
        let mut retired = self.retired;
        if seen.fingerprint != self.fingerprint {
            tracing::info!(from = %self.fingerprint, to = %seen.fingerprint, "the volume has a new volume key");
            retired.push(self.fingerprint);
            retired.drain(..retired.len().saturating_sub(RETIRED_MAX));
        }
        Ok(Self {
            volume: seen.volume,
            fingerprint: seen.fingerprint,
            names: seen.names.or(self.names),
            retired,
            header_version: seen.header_version.max(self.header_version),
            commit,
        })
    }
}

/// The pins of all volumes that this machine knows.
#[derive(Debug, Clone)]
pub struct FreshnessPins {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinFile {
    lidfs_pin: u32,
    location: String,
    #[serde(with = "text")]
    volume_id: VolumeId,
    #[serde(with = "text")]
    fingerprint: Fingerprint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    names_fingerprint: Option<Text<NamesFingerprint>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<Text<Fingerprint>>,
    header_version: u64,
    commit: u64,
}

/// What is written as `Display` and `FromStr` have it.
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "T: Display + FromStr")]
struct Text<T>(#[serde(with = "text")] T);

impl FreshnessPins {
    /// Pins in `dir`, which is made when the first pin is written.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The pin for the volume at `location`: its URL in the caller's one spelling of it, with the
    /// endpoint where there is one. `None`: this machine has not seen it yet.
    ///
    /// # Errors
    /// [`PinError::Corrupt`], [`PinError::Read`].
    pub fn load(&self, location: &str) -> Result<Option<Pin>, PinError> {
        let path = self.path(location);
        let failed = |source| PinError::Read { path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(PIN_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let corrupt = |detail: String| PinError::Corrupt { path: path.clone(), detail };
        let pin: PinFile =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if pin.lidfs_pin != PIN_VERSION {
            return Err(corrupt(format!("its version {} is unknown", pin.lidfs_pin)));
        }
        if pin.location != location {
            return Err(corrupt("it is of another location".to_owned()));
        }
        Ok(Some(Pin {
            volume: pin.volume_id,
            fingerprint: pin.fingerprint,
            names: pin.names_fingerprint.map(|Text(names)| names),
            retired: pin.retired.into_iter().map(|Text(key)| key).collect(),
            header_version: pin.header_version,
            commit: CommitNumber(pin.commit),
        }))
    }

    /// Remembers what was seen. Header version and commit only grow; nothing is written when neither does.
    ///
    /// # Errors
    /// [`PinError::OtherVolume`] or [`PinError::OtherKey`] when something else is pinned; those of
    /// [`load`](Self::load); [`PinError::Write`].
    pub fn record(&self, location: &str, seen: &Pin) -> Result<(), PinError> {
        let _lock = self.lock()?;
        let Some(known) = self.load(location)? else { return self.write(location, seen) };
        let next = known.clone().merged(seen)?;
        if known == next { Ok(()) } else { self.write(location, &next) }
    }

    /// Forgets what was seen before and pins `seen`, however old: the user accepted it.
    ///
    /// # Errors
    /// [`PinError::Write`].
    pub fn reset(&self, location: &str, seen: &Pin) -> Result<(), PinError> {
        let _lock = self.lock()?;
        self.write(location, seen)
    }

    pub(super) fn path(&self, location: &str) -> PathBuf {
        let hash = Sha256::digest(location.as_bytes());
        self.dir.join(format!("{}.json", hex(&hash[..16])))
    }

    /// Makes the directory and waits for its lock, which is given back when the file is dropped.
    pub(super) fn lock(&self) -> Result<File, PinError> {
        let path = self.dir.join(LOCK_NAME);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .and_then(|()| private(&path))
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|source| PinError::Write { path, source })
    }

    fn write(&self, location: &str, pin: &Pin) -> Result<(), PinError> {
        let file = PinFile {
            lidfs_pin: PIN_VERSION,
            location: location.to_owned(),
            volume_id: pin.volume,
            fingerprint: pin.fingerprint,
            names_fingerprint: pin.names.map(Text),
            retired: pin.retired.iter().copied().map(Text).collect(),
            header_version: pin.header_version,
            commit: pin.commit.0,
        };
        Self::store(&self.path(location), &file)
    }

    /// Writes a file of this directory, whose lock is held.
    pub(super) fn store(path: &Path, file: &impl Serialize) -> Result<(), PinError> {
        serde_json::to_vec_pretty(file)
            .map_err(io::Error::from)
            .and_then(|text| replace(path, &text))
            .map_err(|source| PinError::Write { path: path.to_owned(), source })
    }
}

/// Opens or makes a file that only its owner can read.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// After a crash at any point, the file is the old one or the new one.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.new");
    // A leftover may have another mode, and `mode` works on new files only.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private(&temporary)?;
    file.write_all(text)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Why a volume is not the known one, or a pin is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// Another volume stands where a known one stood.
    #[error(
        "this is volume {seen}, but volume {known} was here before; if you replaced it yourself, use --accept-rollback"
    )]
    OtherVolume {
        /// Which is there now.
        seen: VolumeId,
        /// Which was there.
        known: VolumeId,
    },
    /// The volume has another key than before.
    #[error(
        "the volume key has fingerprint {seen}, but had {known} before; if it was rotated on another machine, use --accept-rollback"
    )]
    OtherKey {
        /// Which it has now.
        seen: Fingerprint,
        /// Which it had.
        known: Fingerprint,
    },
    /// A volume key of before a rotation.
    #[error(
        "the volume key has fingerprint {seen}, which was rotated away before; somebody with the old key wrote this header: find out who, or use --accept-rollback if it was you"
    )]
    RetiredKey {
        /// Which it has now.
        seen: Fingerprint,
    },
    /// An older state than was seen before.
    #[error(
        "the volume was rolled back: its {what} is {seen}, but was {known} before; find out who put an old state back, or use --accept-rollback if it was you"
    )]
    RolledBack {
        /// What went back.
        what: &'static str,
        /// What it is now.
        seen: u64,
        /// What it was.
        known: u64,
    },
    /// The pin file is not one.
    #[error("freshness pin {}: damaged ({detail}); delete it to mount once without protection against rollback", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The pin file cannot be read.
    #[error("freshness pin {}: cannot be read: {source}; check [state] dir and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The pin file cannot be written.
    #[error("freshness pin {}: cannot be written: {source}; check [state] dir, its permissions and its space", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PinError {
    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::OtherVolume { .. }
            | Self::OtherKey { .. }
            | Self::RetiredKey { .. }
            | Self::RolledBack { .. }
            | Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Read { .. } | Self::Write { .. } => ErrorKind::Denied,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HERE: &str = "s3://bucket/prefix";

    fn pin(header_version: u64, commit: u64) -> Pin {
        Pin {
            volume: VolumeId([1; 16]),
            fingerprint: Fingerprint([2; 8]),
            names: Some(NamesFingerprint([4; 16])),
            retired: Vec::new(),
            header_version,
            commit: CommitNumber(commit),
        }
    }

    fn pins() -> (tempfile::TempDir, FreshnessPins) {
        let dir = tempfile::tempdir().unwrap();
        let pins = FreshnessPins::new(dir.path().join("deep/state"));
        (dir, pins)
    }

    #[test]
    fn an_unknown_volume_is_unpinned_and_a_recorded_one_reads_back() {
        let (_dir, pins) = pins();
        assert_eq!(pins.load(HERE).unwrap(), None);
        pins.record(HERE, &pin(1, 7)).unwrap();
        assert_eq!(pins.load(HERE).unwrap(), Some(pin(1, 7)));
        assert_eq!(pins.load("s3://bucket/other").unwrap(), None);
    }

    #[test]
    fn pins_only_grow_unless_they_are_reset() {
        let (_dir, pins) = pins();
        pins.record(HERE, &pin(3, 7)).unwrap();
        pins.record(HERE, &pin(2, 9)).unwrap();
        assert_eq!(pins.load(HERE).unwrap(), Some(pin(3, 9)));
        pins.record(HERE, &pin(4, 1)).unwrap();
        assert_eq!(pins.load(HERE).unwrap(), Some(pin(4, 9)));
        pins.reset(HERE, &pin(1, 1)).unwrap();
        assert_eq!(pins.load(HERE).unwrap(), Some(pin(1, 1)));
    }

    #[test]
    fn recording_another_volume_or_key_over_a_pin_is_refused() {
        let (_dir, pins) = pins();
        pins.record(HERE, &pin(1, 1)).unwrap();
        let other = Pin { volume: VolumeId([9; 16]), ..pin(9, 9) };
        assert!(matches!(pins.record(HERE, &other), Err(PinError::OtherVolume { .. })));
        let names = Some(NamesFingerprint([9; 16]));
        let other = Pin { fingerprint: Fingerprint([9; 8]), names, ..pin(9, 9) };
        assert!(matches!(pins.record(HERE, &other), Err(PinError::OtherKey { .. })));
        assert_eq!(pins.load(HERE).unwrap(), Some(pin(1, 1)));
    }

    #[test]
    fn anything_behind_the_pin_is_a_rollback_and_anything_ahead_is_not() {
        let known = pin(3, 7);
        for seen in [pin(3, 7), pin(4, 7), pin(3, 8)] {
            known.check(&seen).unwrap();
        }
        for seen in [pin(2, 7), pin(3, 6), pin(2, 9), pin(9, 0)] {
            let error = known.check(&seen).unwrap_err();
            assert!(matches!(error, PinError::RolledBack { .. }), "{error}");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let other = Pin { volume: VolumeId([9; 16]), ..known.clone() };
        assert!(matches!(known.check(&other), Err(PinError::OtherVolume { .. })));
        let other = Pin { fingerprint: Fingerprint([9; 8]), ..known.clone() };
        assert!(matches!(known.check(&other), Err(PinError::OtherKey { .. })));
    }

    fn rotated(key: u8, header_version: u64) -> Pin {
        Pin { fingerprint: Fingerprint([key; 8]), ..pin(header_version, 7) }
    }

    #[test]
    fn a_new_volume_key_is_believed_with_the_same_names_key_and_a_higher_version() {
        let (_dir, pins) = pins();
        pins.record(HERE, &pin(3, 7)).unwrap();
        let stranger = Pin { names: Some(NamesFingerprint([9; 16])), ..rotated(9, 4) };
        let unnamed = Pin { names: None, ..rotated(9, 4) };
        for other in [stranger, unnamed, rotated(9, 3)] {
            assert!(matches!(pin(3, 7).check(&other), Err(PinError::OtherKey { .. })));
            assert!(matches!(pins.record(HERE, &other), Err(PinError::OtherKey { .. })));
        }
        pin(3, 7).check(&rotated(9, 4)).unwrap();
        pins.record(HERE, &rotated(9, 4)).unwrap();
        let known = pins.load(HERE).unwrap().unwrap();
        assert_eq!((known.fingerprint, known.header_version), (Fingerprint([9; 8]), 4));
        assert_eq!(known.retired, [Fingerprint([2; 8])]);
    }

    #[test]
    fn a_retired_volume_key_does_not_come_back_whatever_version_it_claims() {
        let (_dir, pins) = pins();
        pins.record(HERE, &pin(3, 7)).unwrap();
        pins.record(HERE, &rotated(9, 4)).unwrap();
        pins.record(HERE, &rotated(10, 5)).unwrap();
        let known = pins.load(HERE).unwrap().unwrap();
        for old in [pin(100, 100), rotated(9, 100)] {
            let error = known.check(&old).unwrap_err();
            assert!(matches!(error, PinError::RetiredKey { .. }), "{error}");
            assert!(error.to_string().contains("rotated away before"));
            assert!(matches!(pins.record(HERE, &old), Err(PinError::RetiredKey { .. })));
        }
        assert_eq!(pins.load(HERE).unwrap().unwrap(), known);
    }

    #[test]
    fn a_mount_of_before_the_rotation_still_records_its_commits() {
        let (_dir, pins) = pins();
        pins.record(HERE, &rotated(9, 4)).unwrap();
        pins.record(HERE, &pin(3, 12)).unwrap();
        let known = pins.load(HERE).unwrap().unwrap();
        assert_eq!((known.fingerprint, known.header_version), (Fingerprint([9; 8]), 4));
        assert_eq!(known.commit, CommitNumber(12));
    }

    #[test]
    fn a_pin_of_before_rotation_loads_learns_the_names_key_and_believes_no_new_key() {
        let (_dir, pins) = pins();
        let old = Pin { names: None, ..pin(3, 7) };
        pins.record(HERE, &old).unwrap();
        let text = fs::read_to_string(pins.path(HERE)).unwrap();
        assert!(!text.contains("names_fingerprint") && !text.contains("retired"));
        assert_eq!(pins.load(HERE).unwrap(), Some(old.clone()));
        assert!(matches!(old.check(&rotated(9, 4)), Err(PinError::OtherKey { .. })));
        pins.record(HERE, &pin(3, 7)).unwrap();
        assert_eq!(pins.load(HERE).unwrap(), Some(pin(3, 7)));
    }

    #[test]
    fn a_damaged_or_moved_pin_is_no_pin_and_says_what_to_do() {
        let (_dir, pins) = pins();
        pins.record(HERE, &pin(3, 7)).unwrap();
        let path = pins.path(HERE);
        let good = fs::read_to_string(&path).unwrap();
        let bad = [
            String::new(),
            good[..good.len() / 2].to_owned(),
            good.replace("\"lidfs_pin\": 1", "\"lidfs_pin\": 2"),
            good.replace("prefix", "elsewhere"),
            good.replace("\"commit\": 7", "\"commit\": -7"),
            good.replace("\"commit\"", "\"comet\""),
            good.replace("0202", "02"),
        ];
        for text in bad {
            fs::write(&path, &text).unwrap();
            let error = pins.load(HERE).unwrap_err();
            assert!(matches!(error, PinError::Corrupt { .. }), "{text}: {error}");
            assert!(error.to_string().contains("delete it"));
            assert!(pins.record(HERE, &pin(1, 1)).is_err(), "{text}");
        }
        pins.reset(HERE, &pin(1, 1)).unwrap();
        assert_eq!(pins.load(HERE).unwrap(), Some(pin(1, 1)));
    }

    #[test]
    fn files_are_private_and_nothing_temporary_stays() {
        let (_dir, pins) = pins();
        pins.record(HERE, &pin(1, 1)).unwrap();
        fs::write(pins.path(HERE).with_extension("json.new"), "leftover of a crash").unwrap();
        pins.record(HERE, &pin(2, 2)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&pins.path(HERE)), 0o600);
        assert_eq!(mode(&pins.dir), 0o700);
        assert_eq!(fs::read_dir(&pins.dir).unwrap().count(), 2);
    }

    #[test]
    fn writers_at_the_same_time_never_take_a_pin_back() {
        let (_dir, pins) = pins();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let pins = &pins;
                scope.spawn(move || {
                    for step in 0..10 {
                        pins.record(HERE, &pin(1 + writer, 4 * step + writer)).unwrap();
                    }
                });
            }
        });
        assert_eq!(pins.load(HERE).unwrap(), Some(pin(4, 39)));
    }
}
