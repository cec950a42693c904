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
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::runtime_dirs;

/// Most entries looked at when all mounts are listed.
const ENTRIES_MAX: usize = 1024;

/// A mount that is, or was, served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute path of the mount point, as the kernel lists it.
    pub mountpoint: PathBuf,
    /// The daemon.
    pub pid: u32,
    /// Its control socket.
    pub socket: PathBuf,
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
        let dir = make_one_of(&runtime_dirs())?;
        let name = name_of(mountpoint);
        let place = Self {
            socket: dir.join(format!("{name}.sock")),
            file: dir.join(format!("{name}.json")),
        };
        place.remove();
        Ok(place)
    }

    /// Makes the mount known; its socket must listen already.
    pub fn publish(&self, mountpoint: &Path) -> io::Result<()> {
        let entry = Entry {
            mountpoint: mountpoint.to_owned(),
            pid: std::process::id(),
            socket: self.socket.clone(),
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
        self.remove();
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

/// Makes the first directory that can be made, for its owner alone.
fn make_one_of(dirs: &[PathBuf]) -> io::Result<PathBuf> {
    let mut error =
        io::Error::new(io::ErrorKind::NotFound, "neither HOME nor XDG_RUNTIME_DIR is set");
    for dir in dirs {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)));
        match made {
            Ok(()) => return Ok(dir.clone()),
            Err(failed) => error = failed,
        }
    }
    Err(error)
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
    fn an_entry_whose_daemon_is_gone_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("x.sock");
        let entry = Entry { mountpoint: "/m".into(), pid: 1, socket: socket.clone() };
        assert!(!entry.is_served());
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(entry.is_served());
        drop(listener);
        assert!(!entry.is_served());
    }
}
