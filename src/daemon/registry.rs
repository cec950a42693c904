//! Which mount is served where: one small file and one socket for each.
//!
//! ```text
//! <runtime dir>/<hash of the mount path>.json   who serves it
//! <runtime dir>/<hash of the mount path>.sock   where to ask (control.rs)
//! ```
//!
//! Found from the path alone, so that a mount that hangs cannot hang who asks.
//! Invariant: directory 0700, files 0600; an entry whose socket refuses is stale
//! and counts for nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{effective_uid, runtime_dirs};

/// Most entries looked at when all mounts are listed.
const ENTRIES_MAX: usize = 1024;

/// Longest path of a runtime directory: a socket's address has room for 108 bytes with a zero at the end,
/// of which the name takes 22.
const DIR_BYTES_MAX: usize = 108 - 1 - 22;

/// A mount that is, or was, served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute path of the mount point, as the kernel lists it.
    pub mountpoint: PathBuf,
    /// The daemon.
    pub pid: u32,
    /// Its control socket.
    pub socket: PathBuf,
    /// The config file that it was mounted with.
    #[serde(default)]
    pub config: Option<PathBuf>,
}

impl Entry {
    /// Whether its daemon takes connections.
    pub fn is_served(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }
}

/// A place in the runtime directory, held while a mount is served.
#[derive(Debug)]
pub struct Place {
    /// Where the control socket goes.
    pub socket: PathBuf,
    file: PathBuf,
}

impl Place {
    /// Claims the place of `mountpoint`; what an ended daemon left there is removed.
    ///
    /// # Errors
    /// No runtime directory could be made.
    pub fn claim(mountpoint: &Path) -> io::Result<Self> {
        Self::claim_in(&runtime_dirs(), mountpoint)
    }

    fn claim_in(dirs: &[PathBuf], mountpoint: &Path) -> io::Result<Self> {
        let dir = make_one_of(dirs)?;
        let name = name_of(mountpoint);
        let place = Self {
            socket: dir.join(format!("{name}.sock")),
            file: dir.join(format!("{name}.json")),
        };
        place.remove();
        Ok(place)
    }

    /// Makes the mount known; its socket must listen already.
    pub fn publish(&self, mountpoint: &Path, config: Option<&Path>) -> io::Result<()> {
        let entry = Entry {
            mountpoint: mountpoint.to_owned(),
            pid: std::process::id(),
            socket: self.socket.clone(),
            config: config.map(Path::to_owned),
        };
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.file)?;
        serde_json::to_writer(&mut file, &entry)?;
        Ok(())
    }

    fn remove(&self) {
        for path in [&self.file, &self.socket] {
            // Absent is what is wanted.
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Not what a daemon that mounted there meanwhile has put in its place.
        if read(&self.file).is_some_and(|entry| entry.pid == std::process::id()) {
            self.remove();
        }
    }
}

/// The served mount that holds `path`: its mount point or anything below it.
pub fn find(path: &Path) -> Option<Entry> {
    let mut entries: Vec<_> =
        all().into_iter().filter(|entry| path.starts_with(&entry.mountpoint)).collect();
    entries.sort_by_key(|entry| entry.mountpoint.as_os_str().len());
    entries.pop()
}

/// Every served mount of this user, by path.
pub fn all() -> Vec<Entry> {
    let mut entries: Vec<Entry> = runtime_dirs()
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flat_map(|listing| listing.take(ENTRIES_MAX))
        .filter_map(|item| read(&item.ok()?.path()))
        .filter(Entry::is_served)
        .collect();
    entries.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    entries
}

fn read(path: &Path) -> Option<Entry> {
    path.extension().filter(|extension| *extension == "json")?;
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Makes the first directory that will do, for its owner alone.
fn make_one_of(dirs: &[PathBuf]) -> io::Result<PathBuf> {
    let mut error = "neither HOME nor XDG_RUNTIME_DIR is set".to_owned();
    for dir in dirs {
        match make_private(dir) {
            Ok(()) => return Ok(dir.clone()),
            Err(failed) => error = format!("{}: {failed}", dir.display()),
        }
    }
    let advice = "set LIDFS_RUNTIME_DIR to a directory of this user with a short path";
    Err(io::Error::other(format!("{error}; {advice}")))
}

fn make_private(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().len() > DIR_BYTES_MAX {
        return Err(io::Error::other("too long a path for a socket"));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Also what a root could be led to: what another user owns that user can replace.
    if fs::metadata(dir)?.uid() != effective_uid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "belongs to another user"));
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// A short name for a path: a socket address has room for 108 bytes only.
///
/// FNV-1a of 64 bits. The entry holds the path itself, so a collision hides a
/// mount from `status` but never shows a wrong one.
pub(super) fn name_of(mountpoint: &Path) -> String {
    let hash = mountpoint
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_path_is_fixed_across_versions() {
        assert_eq!(name_of(Path::new("a")), "af63dc4c8601ec8c");
    }

    #[test]
    fn a_runtime_directory_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("a/lidfs");
        let blocked = dir.path().join("file");
        fs::write(&blocked, "").unwrap();
        let made = make_one_of(&[blocked.join("x"), wanted.clone()]).unwrap();
        assert_eq!(made, wanted);
        assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_runtime_directory_too_deep_for_a_socket_gives_way_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(DIR_BYTES_MAX));
        let fits = dir.path().join("run");
        let place = Place::claim_in(&[deep.clone(), fits.clone()], Path::new("/m")).unwrap();
        assert_eq!(place.socket.parent(), Some(&*fits));
        let error = Place::claim_in(&[deep], Path::new("/m")).unwrap_err().to_string();
        assert!(error.contains("too long") && error.contains("LIDFS_RUNTIME_DIR"), "{error}");
        let room = DIR_BYTES_MAX - dir.path().as_os_str().len() - 1;
        let longest = dir.path().join("y".repeat(room));
        let place = Place::claim_in(&[longest], Path::new("/m")).unwrap();
        std::os::unix::net::UnixListener::bind(&place.socket).unwrap();
    }

    #[test]
    fn a_runtime_directory_of_another_user_is_not_taken() {
        if effective_uid() != 0 {
            // Only root can be led there at all: others may not change its mode.
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
        assert!(make_one_of(&[dir.path().to_owned()]).is_err());
    }

    #[test]
    fn a_place_that_another_daemon_has_taken_over_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        let place = Place::claim_in(&dirs, Path::new("/m")).unwrap();
        place.publish(Path::new("/m"), None).unwrap();
        let file = place.file.clone();
        let socket = place.socket.clone();
        let other = Entry { mountpoint: "/m".into(), pid: 1, socket, config: None };
        fs::write(&file, serde_json::to_vec(&other).unwrap()).unwrap();
        drop(place);
        assert_eq!(read(&file), Some(other));
        let place = Place::claim_in(&dirs, Path::new("/m")).unwrap();
        place.publish(Path::new("/m"), None).unwrap();
        drop(place);
        assert!(!file.exists());
    }

    #[test]
    fn an_entry_whose_daemon_is_gone_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("x.sock");
        let entry = Entry { mountpoint: "/m".into(), pid: 1, socket: socket.clone(), config: None };
        assert!(!entry.is_served());
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(entry.is_served());
        drop(listener);
        assert!(!entry.is_served());
    }
}
