//! Which mounts there are: `/proc/self/mountinfo`, read without asking any file
//! system (a `stat` of a mount whose daemon hangs would hang too).

use std::fs;
use std::io;
use std::path::Path;

const PATH: &str = "/proc/self/mountinfo";

/// What tells one mount from another at the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MountId {
    /// The kernel's number of the mount.
    id: u64,
    /// Device: major and minor number.
    pub(super) device: (u32, u32),
}

/// The topmost mount at `path` (absolute, without links) and its type.
pub(super) fn top_mount(path: &Path) -> io::Result<Option<(MountId, String)>> {
    use std::os::unix::ffi::OsStrExt;
    let table = fs::read(PATH)?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .rfind(|line| line.mount_point == path.as_os_str().as_bytes())
        .map(|line| (line.id, line.kind)))
}

/// The type of the topmost mount at `path` (absolute, without links), such as `ext4` or `fuse.lidfs`.
///
/// # Errors
/// The kernel's list of mounts cannot be read.
pub fn mount_type_at(path: &Path) -> io::Result<Option<String>> {
    Ok(top_mount(path)?.map(|(_, kind)| kind))
}

struct Line {
    id: MountId,
    mount_point: Vec<u8>,
    kind: String,
}

/// One line as proc(5) describes it:
/// `36 35 98:0 /root /mount/point options [tags] - type source options`.
fn parse(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let (major, minor) = text(fields.nth(1)?)?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let mount_point = unescape(fields.nth(1)?);
    let kind = text(fields.skip_while(|field| *field != b"-").nth(1)?)?.to_owned();
    Some(Line { id: MountId { id, device }, mount_point, kind })
}

fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field).ok()
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] = rest {
            out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_point_with_spaces_and_tags_is_found() {
        let line = parse(
            b"97 28 0:51 / /mnt/my\\040drive rw,nosuid shared:1 master:2 - fuse.lidfs s3://b/p rw,user_id=0",
        )
        .unwrap();
        assert_eq!(line.mount_point, b"/mnt/my drive");
        assert_eq!(line.id, MountId { id: 97, device: (0, 51) });
        assert_eq!(line.kind, "fuse.lidfs");
        assert_eq!(unescape(b"a\\134c\\9"), b"a\\c\\9");
    }

    #[test]
    fn broken_lines_are_skipped() {
        for line in [&b""[..], b"1 2", b"x 2 0:1 / /m rw - t s o", b"1 2 01 / /m rw - t s o"] {
            assert!(parse(line).is_none());
        }
    }

    #[test]
    fn root_is_always_mounted() {
        assert!(top_mount(Path::new("/")).unwrap().is_some());
        assert!(top_mount(Path::new("/no/such/mount")).unwrap().is_none());
    }
}
