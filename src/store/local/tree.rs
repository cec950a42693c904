//! The directory tree: names, locks, renames, and the syncs that make them last.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind as Io};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path as FsPath, PathBuf};
use std::time::{Duration, SystemTime};

use super::file::{Label, Staged};
use crate::store::object_store::path::Path;
use crate::store::object_store::{Extensions, ListResult, ObjectMeta};
use crate::store::{StoreError, StoreFault};

const LOCK: &str = ".lidfs-lock";
const STAGING: &str = ".lidfs-tmp";
/// A staged file this old belongs to no running upload.
const STAGED_AGE_MAX: Duration = Duration::from_hours(24);
/// How often a directory is made, again if a concurrent delete removed it.
const MKDIR_TRIES_MAX: u32 = 16;

pub(super) struct Tree {
    root: PathBuf,
}

pub(super) fn error_at(location: &Path, doing: &str, error: io::Error) -> StoreError {
    let fault = match error.kind() {
        Io::NotFound => StoreFault::NotFound,
        Io::AlreadyExists => StoreFault::AlreadyExists,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => StoreFault::Denied,
        Io::StorageFull | Io::QuotaExceeded => StoreFault::Full,
        Io::NotADirectory | Io::IsADirectory | Io::InvalidFilename => StoreFault::Invalid,
        Io::InvalidData => StoreFault::Malformed,
        _ => StoreFault::Unavailable,
    };
    StoreError::caused(fault, format!("{location}: {doing} failed: {error}"), error)
}

impl Tree {
    pub fn open(root: &FsPath) -> Result<Self, StoreError> {
        let fail = |error: io::Error| {
            let fault = match error.kind() {
                Io::PermissionDenied | Io::ReadOnlyFilesystem => StoreFault::Denied,
                _ => StoreFault::NoBucket,
            };
            let text = format!("file://{}: {error}; name a writable directory", root.display());
            StoreError::caused(fault, text, error)
        };
        make_dirs(root).map_err(fail)?;
        // Links in the root would escape the comparison of paths below.
        let root = root.canonicalize().map_err(fail)?;
        make_dirs(&root.join(STAGING)).map_err(fail)?;
        let tree = Self { root };
        drop(tree.lock_file().map_err(fail)?);
        tree.remove_stale();
        Ok(tree)
    }

    pub fn root(&self) -> &FsPath {
        &self.root
    }

    pub fn staging(&self) -> PathBuf {
        self.root.join(STAGING)
    }

    fn lock_file(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        options.open(self.root.join(LOCK))
    }

    fn remove_stale(&self) {
        let Ok(entries) = fs::read_dir(self.staging()) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|stat| stat.modified());
            let age = age.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > STAGED_AGE_MAX) {
                // Somebody else may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Refuses names that are this store's own, or that are none.
    pub fn check(location: &Path) -> Result<(), StoreError> {
        let first = location.parts().next();
        let first = first.as_ref().map(AsRef::as_ref);
        if matches!(first, None | Some(LOCK | STAGING)) {
            let text = format!("{location:?} cannot be the name of an object here");
            return Err(StoreError::new(StoreFault::Invalid, text));
        }
        Ok(())
    }

    /// Object paths have no `..` and no empty names, by the type's own rules.
    fn path(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    pub fn open_object(&self, location: &Path) -> Result<File, StoreError> {
        Self::check(location)?;
        let fail = |error: io::Error| match error.kind() {
            // A directory, or a path below a file: no such object, as S3 would say.
            Io::NotADirectory => error_at(location, "read", Io::NotFound.into()),
            _ => error_at(location, "read", error),
        };
        let file = File::open(self.path(location)).map_err(fail)?;
        if file.metadata().map_err(fail)?.is_dir() {
            return Err(error_at(location, "read", Io::NotFound.into()));
        }
        Ok(file)
    }

    /// Runs `place`, which gives the object its name, and syncs the directory of that name.
    ///
    /// Directories are made and synced under the exclusive lock: whoever finds one under the
    /// shared lock can rely on its being durable.
    fn place(
        &self,
        location: &Path,
        place: impl Fn(&FsPath) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let path = self.path(location);
        let parent = path.parent().unwrap_or(&self.root);
        let fail = |error| error_at(location, "write", error);
        for _ in 0..MKDIR_TRIES_MAX {
            let lock = self.lock(location, File::lock_shared)?;
            match place(&path) {
                Ok(()) => return sync_dir(parent).map_err(fail),
                Err(error) if error.kind() != Io::NotFound => return Err(fail(error)),
                Err(_) => drop(lock),
            }
            let _lock = self.lock(location, File::lock)?;
            make_dirs(parent).map_err(fail)?;
        }
        let text = format!("{location}: its directory vanishes as often as it is made");
        Err(StoreError::new(StoreFault::Unavailable, text))
    }

    pub fn replace(&self, staged: &Staged, location: &Path) -> Result<(), StoreError> {
        self.place(location, |path| fs::rename(staged.path(), path))
    }

    pub fn create(&self, staged: &Staged, location: &Path) -> Result<(), StoreError> {
        self.place(location, |path| fs::hard_link(staged.path(), path))
    }

    pub fn update(
        &self,
        staged: &Staged,
        location: &Path,
        expected: &str,
    ) -> Result<(), StoreError> {
        let _lock = self.lock(location, File::lock)?;
        let fail = |error| error_at(location, "update", error);
        let found = match self.open_object(location) {
            Ok(file) => Some(Label::read(&file).map_err(fail)?.e_tag),
            Err(error) if error.fault == StoreFault::NotFound => None,
            Err(error) => return Err(error),
        };
        if found.as_deref() != Some(expected) {
            let found = found.unwrap_or_else(|| "no object".to_owned());
            let text = format!("{location}: is {found}, not {expected}");
            return Err(StoreError::new(StoreFault::Precondition, text));
        }
        let path = self.path(location);
        fs::rename(staged.path(), &path).map_err(fail)?;
        sync_dir(path.parent().unwrap_or(&self.root)).map_err(fail)
    }

    fn lock(
        &self,
        location: &Path,
        take: impl Fn(&File) -> io::Result<()>,
    ) -> Result<File, StoreError> {
        let taken = self.lock_file().and_then(|file| take(&file).map(|()| file));
        taken.map_err(|error| error_at(location, "lock", error))
    }

    /// A missing object counts as deleted. Directories that become empty go too, so that a
    /// listing shows only what leads to objects.
    pub fn delete(&self, location: &Path) -> Result<(), StoreError> {
        Self::check(location)?;
        let fail = |error| error_at(location, "delete", error);
        let path = self.path(location);
        let _lock = self.lock(location, File::lock_shared)?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), Io::NotFound | Io::NotADirectory) => return Ok(()),
            Err(_) if path.is_dir() => return Ok(()),
            Err(error) => return Err(fail(error)),
        }
        let parents = path.ancestors().skip(1).take_while(|dir| *dir != self.root);
        for dir in parents {
            match sync_dir(dir) {
                Ok(()) => {}
                // Removed by a delete beside this one, which syncs the level above.
                Err(error) if error.kind() == Io::NotFound => continue,
                Err(error) => return Err(fail(error)),
            }
            if fs::remove_dir(dir).is_err() {
                return Ok(());
            }
        }
        sync_dir(&self.root).map_err(fail)
    }

    /// Everything below `prefix`.
    pub fn list(&self, prefix: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut found = Vec::new();
        let mut dirs = vec![prefix.clone()];
        while let Some(dir) = dirs.pop() {
            let level = self.list_one(&dir)?;
            found.extend(level.objects);
            dirs.extend(level.common_prefixes);
        }
        Ok(found)
    }

    /// One level: objects, and directories that lead to objects.
    pub fn list_one(&self, prefix: &Path) -> Result<ListResult, StoreError> {
        let dir = self.path(prefix);
        let fail = |error| error_at(prefix, "list", error);
        let (mut names, mut objects) = (BTreeSet::new(), Vec::new());
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => Some(entries),
            Err(error) if matches!(error.kind(), Io::NotFound | Io::NotADirectory) => None,
            Err(error) => return Err(fail(error)),
        };
        for entry in entries.into_iter().flatten() {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| Path::parse(name).ok());
            let Some(name) = name.filter(|name| !name.is_root()) else { continue };
            let location: Path = prefix.parts().chain(name.parts()).collect();
            if Self::check(&location).is_err() {
                continue;
            }
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                if leads_to_object(&entry.path()) {
                    names.insert(location);
                }
            } else if kind.is_file() {
                objects.extend(self.stat(&location)?);
            }
        }
        let common_prefixes = names.into_iter().collect();
        Ok(ListResult { common_prefixes, objects, extensions: Extensions::default() })
    }

    /// `None` if it was deleted since the directory was read.
    fn stat(&self, location: &Path) -> Result<Option<ObjectMeta>, StoreError> {
        match super::Opened::new(self, location) {
            Ok(opened) => Ok(Some(opened.meta)),
            Err(error) if error.fault == StoreFault::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether there is a file anywhere below: S3 has no empty directories.
fn leads_to_object(dir: &FsPath) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => leads_to_object(&entry.path()),
        Ok(kind) => kind.is_file(),
        Err(_) => false,
    })
}

fn sync_dir(dir: &FsPath) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates `dir` and what is missing above it, and syncs each new name into its parent.
fn make_dirs(dir: &FsPath) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => sync_dir(dir.parent().unwrap_or(dir)),
        Err(error) if error.kind() == Io::AlreadyExists => {
            if dir.is_dir() {
                return Ok(());
            }
            Err(Io::NotADirectory.into())
        }
        Err(error) if error.kind() == Io::NotFound => {
            make_dirs(dir.parent().ok_or(error)?)?;
            match fs::DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != Io::AlreadyExists => Err(error),
                _ => sync_dir(dir.parent().unwrap_or(dir)),
            }
        }
        Err(error) => Err(error),
    }
}
