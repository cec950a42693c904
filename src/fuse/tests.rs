//! A real mount by a real kernel: what `std::fs` sees.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::base::{BLOCK_SIZE_DEFAULT, Epoch, Inode, SystemClock, VolumeId};
use crate::crypto::{DataKey, DataKeys, SecretKey};
use crate::data::{BlockReader, Compression, PackContext, ReaderConfig, Uploader};
use crate::fs::{FileSystem, FsConfig, FsParts, format_volume};
use crate::meta::MemoryVolume;
use crate::store::object_store::ObjectStore;
use crate::store::object_store::memory::InMemory;

/// A mount that is gone at the end of the test, however that ends.
struct Drive {
    mount: Option<FuseMount>,
    fs: FileSystem,
    runtime: Runtime,
    // Last: removed after the mount is gone.
    dir: TempDir,
}

impl Drive {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut FuseOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = FuseOptions::writer(dir.path(), "test, with a comma");
        change(&mut options);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let fs = file_system(&runtime);
        let mount = mount(fs.clone(), &options, runtime.handle()).unwrap();
        Self { mount: Some(mount), fs, runtime, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(&self) -> &FuseMount {
        self.mount.as_ref().unwrap()
    }

    fn unmount(&self, how: Unmount) -> Result<(), FuseError> {
        self.runtime.block_on(self.mount().unmount(how))
    }

    fn wait(&self) -> Result<(), FuseError> {
        self.runtime.block_on(self.mount().wait())
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        let unmounted = self.unmount(Unmount::Detach);
        let mount = self.mount.take();
        if unmounted.is_ok()
            && let Some(mount) = mount
        {
            // Whatever the end was: the test has looked at it where it matters.
            let _ = self.runtime.block_on(mount.wait());
        }
    }
}

/// The file system on stores in memory.
fn file_system(runtime: &Runtime) -> FileSystem {
    let names = SecretKey::generate();
    let key = DataKey { epoch: Epoch(1), key: SecretKey::generate() };
    let keys = DataKeys::new(key, Vec::new());
    let packs = PackContext::new(VolumeId([7; 16]), keys, names.clone(), Compression::default());
    let packs = Arc::new(packs);
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let handle = runtime.handle().clone();
    let meta = MemoryVolume::new();
    runtime.block_on(async {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        format_volume(&meta.open(), &SystemClock, uid, gid).await.unwrap();
        let reader = ReaderConfig::default();
        let reader = BlockReader::new(store.clone(), packs.clone(), reader, handle.clone());
        let meta = meta.open();
        FileSystem::mount(FsParts {
            writer: meta.writer_epoch(),
            records: crate::fs::Records::Writer(Arc::new(meta)),
            reader: Arc::new(reader),
            packs,
            uploader: Arc::new(Uploader::new(store, 4)),
            names,
            block_size: BLOCK_SIZE_DEFAULT,
            config: FsConfig::default(),
            clock: Arc::new(SystemClock),
            runtime: handle,
        })
        .await
        .unwrap()
    })
}

#[test]
fn files_and_directories_work_through_the_kernel() {
    let drive = Drive::new();
    fs::create_dir(drive.path("dir")).unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(drive.path("dir/file"), &content).unwrap();
    assert!(fs::read(drive.path("dir/file")).unwrap() == content);
    fs::rename(drive.path("dir/file"), drive.path("moved")).unwrap();
    assert_eq!(fs::metadata(drive.path("dir/file")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(fs::read(drive.path("moved")).unwrap() == content);

    fs::hard_link(drive.path("moved"), drive.path("again")).unwrap();
    symlink("moved", drive.path("link")).unwrap();
    assert_eq!(fs::read_link(drive.path("link")).unwrap(), Path::new("moved"));
    assert_eq!(fs::metadata(drive.path("link")).unwrap().nlink(), 2);
    fs::set_permissions(drive.path("moved"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(drive.path("again")).unwrap().mode(), 0o100_640);

    let mut names: Vec<_> =
        fs::read_dir(drive.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["again", "dir", "link", "moved"]);
    assert_eq!(fs::remove_dir(drive.path("moved")).unwrap_err().kind(), ErrorKind::NotADirectory);
    for name in ["again", "link", "moved"] {
        fs::remove_file(drive.path(name)).unwrap();
    }
    fs::remove_dir(drive.path("dir")).unwrap();
    assert_eq!(fs::read_dir(drive.dir.path()).unwrap().count(), 0);
}

#[test]
fn large_directory_is_listed_once_and_whole() {
    let drive = Drive::new();
    let names: Vec<String> = (0..2000).map(|i| format!("{i:0>200}")).collect();
    for name in &names {
        File::create(drive.path(name)).unwrap();
    }
    let mut listed: Vec<_> = fs::read_dir(drive.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    listed.sort();
    assert!(listed == names);
}

#[test]
fn names_of_any_bytes_up_to_255_come_back() {
    let drive = Drive::new();
    for name in [&b"new\nline"[..], b"\xff\xfe", "\u{1f512}".as_bytes(), &[b'x'; 255]] {
        let path = drive.dir.path().join(std::ffi::OsStr::from_bytes(name));
        fs::write(&path, name).unwrap();
        assert_eq!(fs::read(&path).unwrap(), name);
    }
    let long = fs::write(drive.path(&"x".repeat(256)), "").unwrap_err();
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
    assert_eq!(fs::read_dir(drive.dir.path()).unwrap().count(), 4);
}

#[test]
fn times_before_1970_and_after_2106_are_kept_to_the_nanosecond() {
    let drive = Drive::new();
    let file = File::create(drive.path("file")).unwrap();
    let before = UNIX_EPOCH - Duration::new(86_400, 999_999_999);
    let after = UNIX_EPOCH + Duration::new(5_000_000_000, 1);
    file.set_times(fs::FileTimes::new().set_modified(before).set_accessed(after)).unwrap();
    let shown = fs::metadata(drive.path("file")).unwrap();
    assert_eq!((shown.modified().unwrap(), shown.accessed().unwrap()), (before, after));
    // What the file system was told, not what the kernel remembers.
    let inode = Inode(shown.ino());
    let stored = drive.runtime.block_on(drive.fs.getattr(inode).wait()).unwrap();
    assert_eq!(SystemTime::from(stored.record.mtime), before);
    assert_eq!(SystemTime::from(stored.record.atime), after);
}

#[test]
fn append_truncate_and_positional_writes_land_where_they_should() {
    let drive = Drive::new();
    let path = drive.path("log");
    fs::write(&path, "first ").unwrap();
    let mut log = OpenOptions::new().append(true).open(&path).unwrap();
    log.write_all(b"second").unwrap();
    drop(log);
    assert_eq!(fs::read(&path).unwrap(), b"first second");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.set_len(5).unwrap();
    file.write_all_at(b"!", 9).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first\0\0\0\0!");
    File::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "O_TRUNC");
    File::open(drive.dir.path()).unwrap().sync_all().unwrap();
}

#[test]
fn file_unlinked_while_open_keeps_its_content() {
    let drive = Drive::new();
    fs::write(drive.path("file"), "old").unwrap();
    let mut open = File::open(drive.path("file")).unwrap();
    fs::remove_file(drive.path("file")).unwrap();
    let mut content = String::new();
    open.read_to_string(&mut content).unwrap();
    assert_eq!(content, "old");
}

/// A program that copies only data would otherwise lose what it has not closed.
#[test]
fn data_not_yet_written_back_is_no_hole() {
    let drive = Drive::new();
    let file = File::create_new(drive.path("file")).unwrap();
    file.write_all_at(&[7; 4096], 1 << 20).unwrap();
    let reader = File::open(drive.path("file")).unwrap();
    let seek = |file: &File, from| {
        use rustix::fs::SeekFrom;
        (
            rustix::fs::seek(file, SeekFrom::Data(from)).ok(),
            rustix::fs::seek(file, SeekFrom::Hole(from)).ok(),
        )
    };
    assert_eq!(seek(&reader, 0), (Some(1 << 20), Some(0)));
    file.write_all_at(&[7; 4096], 2 << 20).unwrap();
    assert_eq!(seek(&reader, (1 << 20) + 4096).0, Some(2 << 20));
    drop(file);
    assert_eq!(seek(&reader, 1 << 20), (Some(1 << 20), Some((1 << 20) + 4096)));
}

/// The mapping is another process's: unmapping waits for the daemon under a lock
/// on its own memory, which a daemon in the same process may need to answer.
#[test]
fn what_the_kernel_holds_of_open_files_is_handed_over_on_request() {
    let drive = Drive::new();
    let file = File::create(drive.path("file")).unwrap();
    let content = vec![7; 100_000];
    file.write_all_at(&content, 0).unwrap();
    drive.runtime.block_on(async {
        drive.mount().write_back_open().await;
        let inode = drive.fs.lookup(Inode::ROOT, b"file").wait().await.unwrap().inode;
        let handed = drive.fs.read(inode, crate::fs::Handle(0), 0, 100_000).wait().await.unwrap();
        assert!(handed[..] == content);
        drive.fs.forget(inode, 1);
    });
    assert_eq!(fs::read(drive.path("file")).unwrap().len(), 100_000);
}

#[test]
fn shared_mapping_reads_and_writes_the_file() {
    const MAPPED: &str = "LIDFS_TEST_MAPPED_FILE";
    if let Some(path) = std::env::var_os(MAPPED) {
        return map_and_store(&File::options().read(true).write(true).open(path).unwrap());
    }
    let drive = Drive::new();
    let path = drive.path("file");
    let file = File::create_new(&path).unwrap();
    file.set_len(8192).unwrap();
    file.write_all_at(b"written", 0).unwrap();
    let this = "fuse::tests::shared_mapping_reads_and_writes_the_file";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", this]).env(MAPPED, &path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    file.sync_all().unwrap();
    let content = fs::read(&path).unwrap();
    assert_eq!((&content[..7], &content[4096..4102]), (&b"written"[..], &b"mapped"[..]));
}

/// Checks that the mapping shows "written" and stores "mapped" at byte 4096.
// The standard library has no mapping; the test owns this one alone.
#[allow(unsafe_code)]
fn map_and_store(file: &File) {
    const LEN: usize = 8192;
    // SAFETY: a new mapping of the length of the file, at a place the kernel
    // chooses; nobody truncates the file, and nothing else refers to the memory.
    unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let at =
            libc::mmap(std::ptr::null_mut(), LEN, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED);
        let memory = std::slice::from_raw_parts_mut(at.cast::<u8>(), LEN);
        assert_eq!(&memory[..7], b"written");
        memory[4096..4102].copy_from_slice(b"mapped");
        assert_eq!(libc::munmap(at, LEN), 0);
    }
}

#[test]
fn extended_attributes_and_their_errors_come_through() {
    use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, removexattr, setxattr};
    let drive = Drive::new();
    let path = drive.path("file");
    File::create(&path).unwrap();
    setxattr(&path, "user.colour", b"blue", XattrFlags::empty()).unwrap();
    let mut value = [0; 16];
    assert_eq!(getxattr(&path, "user.colour", &mut value).unwrap(), 4);
    assert_eq!(&value[..4], b"blue");
    assert_eq!(getxattr_query(&path, "user.colour").unwrap(), 4);
    assert_eq!(
        getxattr(&path, "user.colour", &mut [0_u8; 3]).unwrap_err(),
        rustix::io::Errno::RANGE
    );
    let mut list = [0; 64];
    let len = listxattr(&path, &mut list).unwrap();
    assert_eq!(&list[..len], b"user.colour\0");
    removexattr(&path, "user.colour").unwrap();
    assert_eq!(getxattr(&path, "user.colour", &mut value).unwrap_err(), rustix::io::Errno::NODATA);
}

#[test]
fn volume_shows_room_and_its_source() {
    let drive = Drive::new();
    let shown = rustix::fs::statvfs(drive.dir.path()).unwrap();
    assert!(shown.f_bavail > 0 && shown.f_frsize > 0 && shown.f_ffree > 0);
    assert_eq!(shown.f_namemax, 255);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(drive.dir.path().to_str().unwrap()));
    let line = line.unwrap();
    assert!(line.starts_with("test,\\040with\\040a\\040comma ") && line.contains("fuse.lidfs"));
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
}

#[test]
fn read_only_mount_refuses_changes() {
    let drive = Drive::with(|options| options.add("ro").unwrap());
    let refused = File::create(drive.path("file")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_mount_that_is_looked_at_in_passing_is_unmounted_all_the_same() {
    let drive = Drive::new();
    let open = File::open(drive.dir.path()).unwrap();
    let looking = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(open);
    });
    drive.unmount(Unmount::IfIdle).unwrap();
    looking.join().unwrap();
    drive.wait().unwrap();
}

#[test]
fn busy_mount_stays_until_detached() {
    let drive = Drive::new();
    let open = File::create(drive.path("file")).unwrap();
    let refused = drive.unmount(Unmount::IfIdle).unwrap_err();
    assert!(matches!(refused, FuseError::Busy { .. }));
    let us = format!("({}): close what is open there", std::process::id());
    assert!(refused.to_string().contains(&us), "{refused}");
    assert_eq!(drive.mount().presence(), Presence::Mounted);
    drive.unmount(Unmount::Detach).unwrap();
    assert_eq!(drive.mount().presence(), Presence::Detached);
    assert!(fs::metadata(drive.path("file")).is_err());
    (&open).write_all(b"the session lives on").unwrap();
    open.sync_all().unwrap();
    drop(open);
    drive.wait().unwrap();
    assert_eq!(drive.mount().presence(), Presence::Over);
}

#[test]
fn unmounted_by_somebody_else_ends_the_session_and_spares_the_next_mount() {
    let mut first = Drive::new();
    fs::write(first.path("file"), "x").unwrap();
    if rustix::mount::unmount(first.dir.path(), rustix::mount::UnmountFlags::empty()).is_err() {
        let mut user = std::process::Command::new("fusermount3");
        assert!(user.arg("-u").arg(first.dir.path()).status().unwrap().success());
    }
    first.wait().unwrap();
    // Another mount at the same place must survive the end of the first one.
    let options = FuseOptions::writer(first.dir.path(), "second");
    let second = mount(first.fs.clone(), &options, first.runtime.handle()).unwrap();
    drop(first.mount.replace(second));
    assert_eq!(fs::read(first.path("file")).unwrap(), b"x");
}

#[test]
fn after_a_panic_nothing_is_served_and_the_daemon_hears_not_to_commit() {
    let drive = Drive::new();
    fs::write(drive.path("file"), "x").unwrap();
    let open = File::open(drive.path("file")).unwrap();
    let root = File::open(drive.dir.path()).unwrap();
    drive.mount().state.panicked("write", &"half done");
    assert!(matches!(drive.wait(), Err(FuseError::Panicked { operation: "write", .. })));
    assert!(open.sync_all().is_err());
    assert!(rustix::fs::mkdirat(&root, "another", rustix::fs::Mode::RWXU).is_err());
    let seen = drive.fs.lookup(Inode::ROOT, b"another");
    assert!(drive.runtime.block_on(seen.wait()).is_err(), "the file system was called");
}

#[test]
fn second_mount_at_the_same_place_is_refused_and_unmounting_twice_is_not() {
    let drive = Drive::new();
    let options = FuseOptions::writer(drive.dir.path(), "second");
    let second = mount(drive.fs.clone(), &options, drive.runtime.handle()).unwrap_err();
    assert!(matches!(second, FuseError::MountPointBusy { .. }), "{second}");
    drive.unmount(Unmount::IfIdle).unwrap();
    drive.wait().unwrap();
    drive.unmount(Unmount::IfIdle).unwrap();
}

#[test]
fn invalidated_entry_and_inode_are_asked_for_again() {
    let drive = Drive::new();
    let name = drive.path("later");
    assert!(!name.exists(), "and the kernel remembers that");
    let fs = drive.fs.clone();
    let invalidator = drive.mount().invalidator();
    fs::write(drive.path("now"), "x").unwrap();
    let renamed =
        fs.rename(Inode::ROOT, b"now", Inode::ROOT, b"later", crate::fs::RenameMode::Replace);
    drive.runtime.block_on(async {
        renamed.wait().await.unwrap();
        assert!(!name.exists());
        invalidator.entry(Inode::ROOT, b"later").await;
        invalidator.inode(Inode::ROOT).await;
        invalidator.settled().await;
    });
    assert_eq!(fs::read(&name).unwrap(), b"x");
}
