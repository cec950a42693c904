//! The kernel's list of mounts, read without touching any of them.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Type of our mounts in the kernel's list.
pub const FILE_SYSTEM_TYPE: &str = "fuse.lidfs";

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is.
    pub path: PathBuf,
    /// Its file system type, `fuse.lidfs` for ours.
    pub fs_type: String,
}

/// The mount at `path` that is on top, if any.
pub fn mount_at(path: &Path) -> io::Result<Option<MountEntry>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(parse(&text).into_iter().rfind(|entry| entry.path == path))
}

fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - fuse.lidfs source options`, from proc(5).
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = unescape(fields.nth(4)?);
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountEntry { path, fs_type: String::from_utf8_lossy(fs_type).into_owned() })
}

/// Space, tab, newline and backslash stand as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| first == b'\\');
        let octal = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(octal.unwrap_or(first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(path))
}

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
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let line =
            b"36 35 98:0 / /mnt/a\\040b\\134c rw,noatime shared:1 master:2 - fuse.lidfs s3://b rw";
        let entry = parse_line(line).unwrap();
        assert_eq!(entry.path, Path::new("/mnt/a b\\c"));
        assert_eq!(entry.fs_type, "fuse.lidfs");
        assert_eq!(parse_line(b"36 35"), None);
    }

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

    #[test]
    fn the_kernel_lists_the_root() {
        assert!(mount_at(Path::new("/")).unwrap().is_some());
    }
}
