//! mount(2) and umount2(2) for the mount point, without fuser's own code for it.
//!
//! fuser 0.18 asks the wrong way round whether its mount is still there and may
//! so unmount a stranger's file system at the same path; it also hides the errno
//! and splits source names at commas.
//!
//! Here a mount is remembered by the kernel's ids for it, and never unmounted
//! unless they still match. The kernel gives ids of gone mounts to new ones; but
//! while a connection lives its file system does, and nothing else gets its
//! device number. Once it is dead, only a mount that is dead too is taken for ours.
//!
//! ```text
//! privileged: open /dev/fuse -> mount(2) -> descriptor
//! user:       fusermount3 (set-uid) mounts, passes the descriptor over a socket
//! ```

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::FuseError;
use super::mountinfo::{MountId, top_mount};
use super::options::{FuseOptions, READ_AHEAD_KIB};

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// Through this variable the helper learns which descriptor is the socket.
const HELPER_SOCKET: &str = "_FUSE_COMMFD";

/// How to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Refuse while anything is open there ([`FuseError::Busy`]).
    IfIdle,
    /// Take it out of the tree at once; the session lives on until the last
    /// open file is closed.
    Detach,
}

/// Our mount in the kernel's table.
#[derive(Debug)]
pub(super) struct Mounted {
    /// Absolute, without links.
    pub(super) path: PathBuf,
    id: MountId,
    /// A second descriptor of the connection, until the session is over.
    connection: Mutex<Option<OwnedFd>>,
}

impl Mounted {
    /// Mounts; the descriptor is the connection to the kernel.
    pub(super) fn new(options: &FuseOptions) -> Result<(Self, OwnedFd), FuseError> {
        let path = check_mount_point(options)?;
        let device = match mount_directly(&path, options)? {
            Some(device) => device,
            None => mount_with_helper(&path, options)?,
        };
        let found = top_mount(&path).and_then(|top| {
            let (id, _) = top.ok_or_else(|| io::Error::other("the mount vanished at once"))?;
            Ok((id, device.try_clone()?))
        });
        match found {
            Ok((id, copy)) => Ok((Self { path, id, connection: Mutex::new(Some(copy)) }, device)),
            Err(source) => Err(FuseError::Mount { path, source }),
        }
    }

    /// Whether this very mount is still what one sees at its path.
    pub(super) fn is_there(&self) -> bool {
        top_mount(&self.path).is_ok_and(|top| top.is_some_and(|(id, _)| id == self.id))
            && (self.is_connected() || self.answers_as_dead())
    }

    /// Lets go of the connection, which would otherwise outlive the threads that
    /// answer and leave requests waiting for ever.
    pub(super) fn session_ended(&self) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_connected(&self) -> bool {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(device) = connection.as_ref() else { return false };
        let mut asked = [PollFd::new(device, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // The device reports an error once unmounted or aborted.
        rustix::event::poll(&mut asked, Some(&now)).is_ok()
            && !asked[0].revents().contains(PollFlags::ERR)
    }

    fn answers_as_dead(&self) -> bool {
        matches!(rustix::fs::statfs(&self.path), Err(Errno::NOTCONN | Errno::CONNABORTED))
    }

    /// Unmounts this mount and no other; success if it is gone already.
    pub(super) fn unmount(&self, how: Unmount) -> Result<(), FuseError> {
        let mut flags = UnmountFlags::NOFOLLOW;
        flags.set(UnmountFlags::DETACH, how == Unmount::Detach);
        self.unmount_with(flags)
    }

    fn unmount_with(&self, flags: UnmountFlags) -> Result<(), FuseError> {
        if !self.is_there() {
            return Ok(());
        }
        match rustix::mount::unmount(&self.path, flags) {
            // Somebody else was faster.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
            Err(Errno::BUSY) => Err(self.busy()),
            Err(Errno::PERM) => self.unmount_with_helper(flags.contains(UnmountFlags::DETACH)),
            Err(errno) => Err(FuseError::Unmount { path: self.path.clone(), source: errno.into() }),
        }
    }

    fn busy(&self) -> FuseError {
        FuseError::Busy { path: self.path.clone(), users: String::new() }
    }

    fn unmount_with_helper(&self, detach: bool) -> Result<(), FuseError> {
        let mut command = Command::new(HELPER);
        command.arg("-u");
        if detach {
            command.arg("-z");
        }
        let failed = |source| FuseError::Unmount { path: self.path.clone(), source };
        let output =
            command.arg("--").arg(&self.path).stdin(Stdio::null()).output().map_err(failed)?;
        if output.status.success() || !self.is_there() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stderr);
        if message.contains("busy") {
            return Err(self.busy());
        }
        Err(failed(io::Error::other(message.trim().to_owned())))
    }

    /// Ends every request under way and the session: for when it must not go on.
    pub(super) fn abort(&self) {
        // For users, who may write to their connections (by their minor number).
        // For root the forced unmount aborts, whether or not that is mounted.
        let path = format!("/sys/fs/fuse/connections/{}/abort", self.id.device.1);
        let aborted = fs::write(&path, "1");
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = self.unmount_with(flags) {
            tracing::warn!(%error, ?aborted, "the broken mount stays in the mount table");
        }
    }

    /// Lets the kernel read ahead a whole request; needs privilege, and without
    /// it sequential reads take more requests, nothing else.
    pub(super) fn raise_read_ahead(&self) {
        let (major, minor) = self.id.device;
        let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        if let Err(error) = fs::write(&path, READ_AHEAD_KIB.to_string()) {
            tracing::debug!(%error, "kernel read-ahead stays at its default");
        }
    }
}

/// The mount point without links, if it can be mounted at.
fn check_mount_point(options: &FuseOptions) -> Result<PathBuf, FuseError> {
    let path = options.mount_point.clone();
    let examine = |source: io::Error| {
        let path = path.clone();
        match source.raw_os_error() {
            Some(libc::ENOENT) => FuseError::MountPointMissing { path },
            Some(libc::ENOTDIR) => FuseError::MountPointNotDirectory { path },
            // The remains of a FUSE mount whose process died.
            Some(libc::ENOTCONN | libc::ECONNABORTED) => FuseError::MountPointBusy { path },
            _ => FuseError::MountPoint { path, source },
        }
    };
    let real = fs::canonicalize(&path).map_err(examine)?;
    let top = top_mount(&real).map_err(examine)?;
    if top.is_some_and(|(_, kind)| kind.starts_with("fuse")) {
        return Err(FuseError::MountPointBusy { path });
    }
    // Also refuses what is no directory.
    let mut entries = fs::read_dir(&real).map_err(examine)?;
    if !options.non_empty && entries.next().is_some() {
        return Err(FuseError::MountPointNotEmpty { path });
    }
    Ok(real)
}

/// Mounts with the process's own privilege; `None` if it has none.
fn mount_directly(path: &Path, options: &FuseOptions) -> Result<Option<OwnedFd>, FuseError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let device = File::options().read(true).write(true).open(DEVICE);
    let device: OwnedFd = device.map_err(|source| FuseError::Device { source })?.into();
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    for option in kernel_options(options) {
        data.push(',');
        data.push_str(&option);
    }
    let refused = |source| FuseError::Mount { path: path.to_owned(), source };
    let data = CString::new(data).map_err(|error| refused(error.into()))?;
    let mut flags = options.flags;
    flags.set(MountFlags::RDONLY, options.read_only);
    let kind = format!("fuse.{}", options.subtype);
    match rustix::mount::mount(&options.source, path, kind, flags, data.as_c_str()) {
        Ok(()) => Ok(Some(device)),
        // Root in a container without the right to mount; the helper may have it.
        Err(Errno::PERM) => Ok(None),
        Err(Errno::BUSY) => Err(FuseError::MountPointBusy { path: path.to_owned() }),
        Err(errno) => Err(refused(errno.into())),
    }
}

/// Options that FUSE itself reads. Permissions are always the kernel's to check:
/// a request does not tell the caller's supplementary groups.
fn kernel_options(options: &FuseOptions) -> Vec<String> {
    let mut list = vec!["default_permissions".to_owned()];
    if options.allow_other {
        list.push("allow_other".into());
    }
    list.extend(options.kernel_options.iter().cloned());
    list
}

/// The options as the helper takes them: all in one, commas escaped.
fn helper_options(options: &FuseOptions) -> OsString {
    let mut list = kernel_options(options);
    let escape = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,");
    list.push(format!("fsname={}", escape(&options.source)));
    list.push(format!("subtype={}", escape(&options.subtype)));
    list.push(if options.read_only { "ro" } else { "rw" }.into());
    // The helper adds nosuid and nodev for users by itself and refuses their opposites.
    let words = [
        (MountFlags::NOEXEC, "noexec"),
        (MountFlags::NOATIME, "noatime"),
        (MountFlags::SYNCHRONOUS, "sync"),
        (MountFlags::DIRSYNC, "dirsync"),
    ];
    list.extend(words.iter().filter(|(flag, _)| options.flags.contains(*flag)).map(|w| w.1.into()));
    if !options.flags.contains(MountFlags::NOSUID) {
        list.push("suid".into());
    }
    if !options.flags.contains(MountFlags::NODEV) {
        list.push("dev".into());
    }
    list.join(",").into()
}

fn mount_with_helper(path: &Path, options: &FuseOptions) -> Result<OwnedFd, FuseError> {
    let refused = |message: String| FuseError::Helper { path: path.to_owned(), message };
    let (ours, theirs) = UnixStream::pair().map_err(|error| refused(error.to_string()))?;
    // The socket is the helper's standard input: no descriptor is inherited by
    // other children that start at the same time.
    let child = Command::new(HELPER)
        .arg("-o")
        .arg(helper_options(options))
        .arg("--")
        .arg(path)
        .env(HELPER_SOCKET, "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| refused(format!("{error}; install the package fuse3")))?;
    let device = receive_descriptor(&ours);
    let output = child.wait_with_output().map_err(|error| refused(error.to_string()))?;
    match device {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(error) => Err(refused(error.to_string())),
        Ok(_) => {
            let message = String::from_utf8_lossy(&output.stderr);
            let message = message.trim().trim_start_matches("fusermount3: ");
            Err(refused(match message {
                "" => format!("it ended with {}", output.status),
                text => text.replace('\n', "; "),
            }))
        }
    }
}

/// Waits for the descriptor; `None` when the other side closed without one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Whether each thread can have a descriptor of its own, which saves wake-ups;
/// a user whose mount the helper made may not be allowed to open the device.
pub(super) fn device_opens() -> bool {
    File::options().read(true).write(true).open(DEVICE).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(path: &Path) -> FuseOptions {
        FuseOptions::writer(path, "s3://bucket/a,b")
    }

    #[test]
    fn mount_point_missing_full_or_no_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check_mount_point(&options(&dir.path().join("no"))).unwrap_err();
        assert!(matches!(missing, FuseError::MountPointMissing { .. }), "{missing}");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let no_directory = check_mount_point(&options(&file)).unwrap_err();
        assert!(matches!(no_directory, FuseError::MountPointNotDirectory { .. }));
        let full = check_mount_point(&options(dir.path())).unwrap_err();
        assert!(matches!(full, FuseError::MountPointNotEmpty { .. }));
        let mut anyway = options(dir.path());
        anyway.add("nonempty").unwrap();
        assert!(check_mount_point(&anyway).is_ok());
    }

    #[test]
    fn helper_gets_commas_of_the_source_escaped() {
        let text = helper_options(&options(Path::new("/m"))).into_string().unwrap();
        assert!(text.contains("fsname=s3://bucket/a\\,b,subtype=lidfs"), "{text}");
        assert!(text.starts_with("default_permissions,"));
    }
}
