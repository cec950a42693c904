//! What the daemon asks of the kernel for itself: fork, hardening, unmounting.
//!
//! On its own because these are foreign calls; nothing here knows of a volume.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes the out-of-memory killer prefer nearly everybody else: processes that
/// use the mount hang in the kernel while their daemon is gone.
const OOM_SCORE_ADJ: &str = "-900";

/// `prctl` operation that the libc crate does not name on every target (`linux/prctl.h`).
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Which side of a fork this is.
pub(super) enum Forked {
    /// The process that called; the child's id.
    Parent(libc::pid_t),
    /// The new process.
    Child,
}

/// Forks. Only for a process of one thread: the child has none of the others.
pub(super) fn fork() -> io::Result<Forked> {
    // SAFETY: the caller has one thread, so no lock can be held by a thread
    // that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// Waits for a child; says how it ended.
pub(super) fn wait_for(pid: libc::pid_t) -> String {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for one integer.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return "unknown end".to_owned();
        }
    }
    if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit code {}", libc::WEXITSTATUS(status))
    }
}

/// Closes every descriptor above standard error except `keep`.
pub(super) fn close_inherited(keep: &[RawFd]) {
    let mut keep: Vec<libc::c_uint> = keep
        .iter()
        .filter_map(|fd| libc::c_uint::try_from(*fd).ok())
        .filter(|fd| *fd > 2)
        .collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().map(Some).chain([None]) {
        let last = fd.map_or(libc::c_uint::MAX, |fd| fd - 1);
        if first <= last {
            // SAFETY: only numbers are passed. Nothing of this process is closed:
            // it has just been started and opened nothing that is not in `keep`.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        first = fd.map_or(first, |fd| fd + 1);
    }
}

/// Gives the calling thread a descriptor table of its own, with nothing but the standard streams.
pub(super) fn leave_descriptors() -> io::Result<()> {
    let (first, last, flags) = (3, libc::c_uint::MAX, libc::CLOSE_RANGE_UNSHARE);
    // SAFETY: only numbers are passed. What this process owns stays open in the table of the
    // other threads, and this one has nothing yet that it could use afterwards.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Leaves the terminal and the caller's directory behind; standard streams go to `/dev/null`.
pub(super) fn leave_terminal() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // SAFETY: no memory is passed; failing (already a leader) changes nothing.
    unsafe { libc::setsid() };
    std::env::set_current_dir("/")?;
    for stream in 0..3 {
        // SAFETY: both descriptors are open; the standard streams are owned by nobody else.
        if unsafe { libc::dup2(null.as_raw_fd(), stream) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Keeps the memory of this process out of core files and other users' debuggers.
pub fn disable_core_dumps() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` lives through the call; prctl takes only numbers here.
    let done = unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none) == 0
            && libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the soft limit of locked memory to the hard one, and of open files too.
pub(super) fn raise_limits() {
    for resource in [libc::RLIMIT_MEMLOCK, libc::RLIMIT_NOFILE] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid place for one rlimit and lives through both calls.
        unsafe {
            if libc::getrlimit(resource, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(resource, &raw const limit);
            }
        }
    }
}

/// How much memory may be locked, in bytes (`RLIMIT_MEMLOCK`); `None` is no limit.
pub fn memory_lock_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for one rlimit.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    (known && limit.rlim_max != libc::RLIM_INFINITY).then_some(limit.rlim_max)
}

/// Tells the kernel that memory it wants back may depend on this process.
///
/// Needs rights that an ordinary user lacks; `false` when it was refused.
pub(super) fn declare_io_flusher() -> bool {
    // SAFETY: prctl takes only numbers here.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0 }
}

/// Asks the out-of-memory killer to look elsewhere; `false` when it was refused.
pub(super) fn protect_from_oom() -> bool {
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).is_ok()
}

/// Takes a mount off the tree: at once where it is idle, or lazily.
///
/// An ordinary user needs `fusermount3`. Never touches the mounted file system.
pub fn unmount(path: &Path, lazy: bool) -> io::Result<()> {
    let direct = unmount_directly(path, lazy);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => unmount_by_helper(path, lazy),
        other => other,
    }
}

fn unmount_directly(path: &Path, lazy: bool) -> io::Result<()> {
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a C string that lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn unmount_by_helper(path: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(path).stdin(Stdio::null());
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind =
        if said.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, said))
}

/// Makes the kernel hand over every written page of the mount at `path` (syncfs(2)).
///
/// Blocks until the file system has taken them: only for [`Pages`](super::pages::Pages). Where the directory may not be
/// opened by this user, all file systems are asked (sync(2)), which says less.
pub(super) fn write_back(path: &Path) -> io::Result<()> {
    match open_aside(path).or_else(|_| File::open(path)) {
        Ok(dir) => {
            // SAFETY: the descriptor is open through the call.
            if unsafe { libc::syncfs(dir.as_raw_fd()) } == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // SAFETY: takes nothing and always succeeds.
            unsafe { libc::sync() };
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Whether this kernel's syncfs(2) returns only when a FUSE file system has taken every page.
///
/// Linux 6.16 to 6.18 does (measured on 6.18). Before, writeback counted as done when a request was
/// made of it; later, sync does not wait for FUSE at all, so that a machine can suspend.
pub(super) fn syncfs_waits() -> bool {
    let release = rustix::system::uname();
    release_of(&release.release().to_string_lossy())
        .is_some_and(|release| ((6, 16)..=(6, 18)).contains(&release))
}

/// The first two numbers of a kernel's release.
fn release_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Opens the top of a mount through a copy of it that stands nowhere in the tree: while
/// the copy is in use the mount itself is not busy and may be unmounted. Needs privilege.
fn open_aside(path: &Path) -> io::Result<File> {
    use rustix::fs::{CWD, Mode, OFlags};
    use rustix::mount::OpenTreeFlags;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, clone)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(&tree, ".", flags, Mode::empty())?))
}

/// Whether process `pid` is there; one that ended and was not yet waited for does not count.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // After the name, which may itself hold a parenthesis.
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Opens `/dev/fuse`, to see whether it can be.
pub fn open_fuse_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/fuse")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_release_is_its_first_two_numbers() {
        assert_eq!(release_of("6.18.44-cloud-amd64"), Some((6, 18)));
        assert_eq!(release_of("7.0.0-rc6+"), Some((7, 0)));
        assert_eq!(release_of("odd"), None);
    }

    #[test]
    fn a_living_process_is_told_from_one_that_ended() {
        assert!(is_alive(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }
}
