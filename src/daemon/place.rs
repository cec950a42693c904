//! Where a mount stands, as the kernel lists it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Type of our mounts in the kernel's list.
pub const FILE_SYSTEM_TYPE: &str = "fuse.lidfs";

/// The absolute path of a mount point as the kernel lists it, found without
/// asking the file system that is mounted there: a hung one would never answer.
///
/// The parent is resolved; the last name only where it is a symbolic link.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    const LINKS_MAX: usize = 40;
    let mut path = absolute(path)?;
    for _ in 0..LINKS_MAX {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(path);
        };
        let parent = parent.canonicalize()?;
        let here = parent.join(name);
        // On the root of a mount readlink fails in the kernel itself.
        match fs::read_link(&here) {
            Ok(target) => path = absolute(&parent.join(target))?,
            Err(_) => return Ok(here),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Without `.` and `..`, from the current directory; symbolic links stay.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    if path.as_os_str().as_bytes().is_empty() {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let mut whole = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        match component {
            Component::ParentDir => {
                // What `..` means after a link is known only when that is resolved.
                whole = if whole.is_symlink() { whole.canonicalize()? } else { whole };
                whole.pop();
            }
            other => whole.push(other),
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_dots_lead_to_the_place_the_kernel_lists() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("real/mount")).unwrap();
        std::os::unix::fs::symlink("real", root.join("short")).unwrap();
        std::os::unix::fs::symlink("real/mount", root.join("link")).unwrap();
        let real = root.join("real/mount");
        for path in ["real/mount", "short/mount", "link", "real/../real/./mount/"] {
            assert_eq!(canonical(&root.join(path)).unwrap(), real, "{path}");
        }
        assert!(canonical(Path::new("")).is_err());
    }
}
