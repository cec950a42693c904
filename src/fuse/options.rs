//! What a mount is told: where, how it shows, what the kernel may cache.

use std::path::PathBuf;
use std::time::Duration;

use rustix::mount::MountFlags;

use super::FuseError;
use crate::base::MIB;

/// How long the kernel keeps names and attributes on the writing mount: nobody
/// else changes the volume, so the kernel's copy stays right.
pub const WRITER_TTL: Duration = Duration::from_hours(24);

/// How long the kernel keeps names and attributes on a follower, whose volume
/// changes behind the kernel; invalidations make up for the rest.
pub const FOLLOWER_TTL: Duration = Duration::from_secs(1);

/// Most threads that read `/dev/fuse`. Operations answered from memory take
/// microseconds, so more threads only add wake-ups.
const THREADS_MAX: usize = 16;

/// Largest WRITE or READ: what `fs.fuse.max_pages_limit` allows by default.
pub(super) const REQUEST_BYTES_MAX: u32 = MIB as u32;

/// Background requests (read-ahead, write-back, asynchronous direct I/O) that the kernel may have under way,
/// unless chosen otherwise; with [`REQUEST_BYTES_MAX`] that is 32 MiB, enough to fill a fast link to the store over
/// its latency.
const BACKGROUND_DEFAULT: u16 = 32;

/// Kernel read-ahead in KiB: one full request, instead of the default 128 KiB.
/// The deep, parallel read-ahead is below, in `data`.
pub(super) const READ_AHEAD_KIB: u32 = 1024;

/// What the kernel caches of content and listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// It keeps them between opens and collects writes. Only where this mount is
    /// the only one that changes the volume: after a change from elsewhere the
    /// kernel would keep its own idea of a file's size.
    WriteBack,
    /// It keeps them between opens, and hands on each write at once. Only where
    /// nobody else changes the volume.
    WriteThrough,
    /// It drops them when a file is opened: the volume changes behind it.
    Follow,
}

/// How to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FuseOptions {
    /// The directory to mount at.
    pub mount_point: PathBuf,
    /// What `mount` and `df` show as the source.
    pub source: String,
    /// The type is shown as `fuse.` and this.
    pub subtype: String,
    /// Users other than the one who mounts may use it.
    pub allow_other: bool,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Shown as the owner of everything.
    pub uid: Option<u32>,
    /// Shown as the group of everything.
    pub gid: Option<u32>,
    /// Mount even where the directory has entries.
    pub non_empty: bool,
    /// Threads that read `/dev/fuse`.
    pub threads: usize,
    /// Requests in the background (read-ahead, write-back, asynchronous direct I/O) that the kernel may have under way.
    pub background: u16,
    /// What the kernel caches of content and listings.
    pub caching: Caching,
    /// How long the kernel keeps names (those that do not exist too) and attributes.
    pub ttl: Duration,
    /// Further flags of mount(2): `nosuid` and `nodev` unless taken away.
    pub(super) flags: MountFlags,
    /// Further options for the kernel's FUSE (security contexts).
    pub(super) kernel_options: Vec<String>,
}

impl FuseOptions {
    /// For the mount that changes the volume.
    pub fn writer(mount_point: impl Into<PathBuf>, source: impl Into<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            mount_point: mount_point.into(),
            source: source.into(),
            subtype: "lidfs".into(),
            allow_other: false,
            read_only: false,
            uid: None,
            gid: None,
            non_empty: false,
            // At least two: a lone reader that sleeps costs a wake-up on an
            // idle core for each request (2.4 times slower in measurements).
            threads: cores.clamp(2, THREADS_MAX),
            background: BACKGROUND_DEFAULT,
            caching: Caching::WriteBack,
            ttl: WRITER_TTL,
            flags: MountFlags::NOSUID | MountFlags::NODEV,
            kernel_options: Vec::new(),
        }
    }

    /// For a mount that shows what another one writes.
    pub fn follower(mount_point: impl Into<PathBuf>, source: impl Into<String>) -> Self {
        Self {
            read_only: true,
            caching: Caching::Follow,
            ttl: FOLLOWER_TTL,
            ..Self::writer(mount_point, source)
        }
    }

    /// For a state that never changes (a snapshot): read-only and cached for long.
    pub fn frozen(mount_point: impl Into<PathBuf>, source: impl Into<String>) -> Self {
        let caching = Caching::WriteThrough;
        Self { read_only: true, caching, ..Self::writer(mount_point, source) }
    }

    /// Takes one option as given to `-o` or in fstab.
    ///
    /// # Errors
    /// [`FuseError::UnknownOption`]: neither the kernel nor mount(8) has it.
    pub fn add(&mut self, option: &str) -> Result<(), FuseError> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "ro" => self.read_only = true,
            "allow_other" => self.allow_other = true,
            "nonempty" => self.non_empty = true,
            "suid" => self.flags.remove(MountFlags::NOSUID),
            "nosuid" => self.flags.insert(MountFlags::NOSUID),
            "dev" => self.flags.remove(MountFlags::NODEV),
            "nodev" => self.flags.insert(MountFlags::NODEV),
            "exec" => self.flags.remove(MountFlags::NOEXEC),
            "noexec" => self.flags.insert(MountFlags::NOEXEC),
            "atime" => self.flags.remove(MountFlags::NOATIME),
            "noatime" => self.flags.insert(MountFlags::NOATIME),
            "nodiratime" => self.flags.insert(MountFlags::NODIRATIME),
            "async" => self.flags.remove(MountFlags::SYNCHRONOUS),
            "sync" => self.flags.insert(MountFlags::SYNCHRONOUS),
            "dirsync" => self.flags.insert(MountFlags::DIRSYNC),
            "uid" => self.uid = Some(number(option, value)?),
            "gid" => self.gid = Some(number(option, value)?),
            "fsname" => self.source = value.into(),
            "subtype" => self.subtype = value.into(),
            "context" | "fscontext" | "defcontext" | "rootcontext" => {
                self.kernel_options.push(option.into());
            }
            // Always on, the default ("rw": a follower stays read-only), or what
            // mount(8) and systemd keep for themselves.
            ""
            | "rw"
            | "default_permissions"
            | "defaults"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "_netdev"
            | "nofail"
            | "relatime"
            | "norelatime"
            | "strictatime"
            | "comment" => {}
            _ if name.starts_with("x-") || name.starts_with("X-") => {}
            // Its value may be a secret that was thought to belong here.
            _ => return Err(FuseError::UnknownOption { option: name.into() }),
        }
        Ok(())
    }
}

fn number(option: &str, value: &str) -> Result<u32, FuseError> {
    value.parse().map_err(|_| FuseError::UnknownOption { option: option.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suid_and_device_nodes_work_only_when_asked_for() {
        let mut options = FuseOptions::writer("/m", "s");
        assert!(options.flags.contains(MountFlags::NOSUID | MountFlags::NODEV));
        options.add("suid").unwrap();
        options.add("dev").unwrap();
        assert!(!options.flags.intersects(MountFlags::NOSUID | MountFlags::NODEV));
    }

    #[test]
    fn fstab_words_pass_and_unknown_ones_are_named() {
        let mut options = FuseOptions::writer("/m", "s");
        for word in
            ["defaults", "_netdev", "x-systemd.automount", "X-mount.mkdir", "noexec", "uid=7", "ro"]
        {
            options.add(word).unwrap();
        }
        assert_eq!((options.uid, options.read_only), (Some(7), true));
        let error = options.add("allow_root").unwrap_err();
        assert!(error.to_string().contains("allow_root"), "{error}");
        let error = options.add("passphrase=swordfish").unwrap_err().to_string();
        assert!(error.contains("\"passphrase\"") && !error.contains("swordfish"), "{error}");
        assert!(options.add("uid=me").is_err());
    }

    #[test]
    fn follower_never_lets_the_kernel_write_back_or_keep_content() {
        let mut options = FuseOptions::follower("/m", "s");
        options.add("rw").unwrap();
        assert!(options.read_only);
        assert_eq!((options.caching, options.ttl), (Caching::Follow, FOLLOWER_TTL));
    }
}
