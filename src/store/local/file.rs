//! One file on its way to become an object: staged, labelled, synced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path as FsPath, PathBuf};

use bytes::Bytes;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use serde::{Deserialize, Serialize};

use super::tree::Tree;
use crate::store::object_store::path::Path;
use crate::store::object_store::{Attribute, Attributes};
use crate::store::{StoreError, StoreFault};

/// Where `ETag` and attributes are kept: an xattr, so that the file is the object, byte for byte,
/// and both appear in the same rename.
const XATTR: &str = "user.lidfs";
/// Longest label; ext4 keeps at most 4 KiB.
const XATTR_LEN_MAX: usize = 4096;

/// What is kept with an object besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Label {
    pub e_tag: String,
    pub attributes: Attributes,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    e_tag: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<(String, String)>,
}

impl Label {
    /// A label with a fresh random `ETag`: inode, time and size could all come again within one
    /// tick of the clock.
    pub fn new(attributes: Attributes) -> Self {
        let random = getrandom::u64().unwrap_or_default();
        let other = getrandom::u64().unwrap_or_default();
        Self { e_tag: format!("\"{random:016x}{other:016x}\""), attributes }
    }

    /// Files without a label, such as those copied here by hand, get an `ETag` from the inode.
    pub fn read(file: &File) -> io::Result<Self> {
        let mut buffer = vec![0_u8; XATTR_LEN_MAX];
        match fgetxattr(file, XATTR, &mut buffer[..]) {
            Ok(len) => {
                let stored: Stored = serde_json::from_slice(&buffer[..len])?;
                let attributes = stored.metadata.into_iter();
                let attributes =
                    attributes.map(|(name, value)| (Attribute::Metadata(name.into()), value));
                Ok(Self { e_tag: stored.e_tag, attributes: attributes.collect() })
            }
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => {
                let stat = file.metadata()?;
                let (inode, size) = (stat.ino(), stat.size());
                let e_tag =
                    format!("\"{inode:x}-{}-{}-{size:x}\"", stat.mtime(), stat.mtime_nsec());
                Ok(Self { e_tag, attributes: Attributes::default() })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A file in `.lidfs-tmp`, removed on drop. After a rename nothing is there to be removed.
pub(super) struct Staged {
    file: File,
    path: PathBuf,
    location: Path,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Usually gone already; what stays is removed by a later open.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Staged {
    pub fn new(tree: &Tree, location: &Path) -> Result<Self, StoreError> {
        Tree::check(location)?;
        let fail = |error| super::tree::error_at(location, "stage", error);
        let name = getrandom::u64().map_err(|error| fail(io::Error::other(error)))?;
        let path = tree.staging().join(format!("{name:016x}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path).map_err(fail)?;
        Ok(Self { file, path, location: location.clone() })
    }

    pub fn path(&self) -> &FsPath {
        &self.path
    }

    fn error(&self, error: io::Error) -> StoreError {
        super::tree::error_at(&self.location, "write", error)
    }

    pub fn write<'a>(&mut self, parts: impl Iterator<Item = &'a Bytes>) -> Result<(), StoreError> {
        self.write_at(0, parts)
    }

    pub fn write_at<'a>(
        &self,
        mut offset: u64,
        parts: impl Iterator<Item = &'a Bytes>,
    ) -> Result<(), StoreError> {
        for part in parts {
            self.file.write_all_at(part, offset).map_err(|error| self.error(error))?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    pub fn copy_from(&mut self, source: &mut File) -> Result<(), StoreError> {
        io::copy(source, &mut self.file).map(drop).map_err(|error| self.error(error))
    }

    /// Labels and syncs the file; returns its `ETag`.
    pub fn seal(&self, label: &Label) -> Result<String, StoreError> {
        let mut metadata = Vec::with_capacity(label.attributes.len());
        for (name, value) in &label.attributes {
            let Attribute::Metadata(name) = name else {
                let text = format!("{}: attribute {name:?} is not kept here", self.location);
                return Err(StoreError::new(StoreFault::Unsupported, text));
            };
            metadata.push((name.to_string(), value.to_string()));
        }
        let needs_label = !metadata.is_empty();
        let stored = Stored { e_tag: label.e_tag.clone(), metadata };
        let bytes = serde_json::to_vec(&stored).map_err(|error| self.error(error.into()))?;
        if bytes.len() > XATTR_LEN_MAX {
            let text = format!("{}: attributes of over {XATTR_LEN_MAX} bytes", self.location);
            return Err(StoreError::new(StoreFault::Unsupported, text));
        }
        let e_tag = match fsetxattr(&self.file, XATTR, &bytes, XattrFlags::empty()) {
            Ok(()) => label.e_tag.clone(),
            Err(rustix::io::Errno::NOTSUP) if !needs_label => {
                Label::read(&self.file).map_err(|error| self.error(error))?.e_tag
            }
            Err(rustix::io::Errno::NOTSUP) => {
                let text = format!(
                    "{}: this file system has no user extended attributes, which hold an object's \
                     metadata; choose a directory on ext4, xfs, btrfs or zfs",
                    self.path.display()
                );
                return Err(StoreError::new(StoreFault::Unsupported, text));
            }
            Err(error) => return Err(self.error(error.into())),
        };
        self.file.sync_all().map_err(|error| self.error(error))?;
        Ok(e_tag)
    }
}
