//! Which processes keep a mount busy, as far as this one may look at others. Only links of `/proc`
//! are read: a `stat` would ask the mount itself.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Named in a message at most; the first ones do.
const NAMED_MAX: usize = 5;

/// Such as ` by bash (4711), rsync (815)`, or nothing if none is found.
pub(super) fn of(mount: &Path) -> String {
    let Ok(processes) = fs::read_dir("/proc") else { return String::new() };
    let users: Vec<_> = processes
        .flatten()
        .filter(|process| process.file_name().as_bytes().iter().all(u8::is_ascii_digit))
        .filter(|process| uses(&process.path(), mount))
        .map(|process| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{} ({})", name.trim_end(), process.file_name().display())
        })
        .take(NAMED_MAX)
        .collect();
    if users.is_empty() { String::new() } else { format!(" by {}", users.join(", ")) }
}

fn uses(process: &Path, mount: &Path) -> bool {
    let is_below = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(mount));
    ["cwd", "root", "exe"].iter().any(|name| is_below(&process.join(name)))
        || ["fd", "map_files"].iter().any(|folder| {
            fs::read_dir(process.join(folder))
                .is_ok_and(|entries| entries.flatten().any(|entry| is_below(&entry.path())))
        })
}
