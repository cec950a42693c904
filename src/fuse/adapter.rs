//! From a request to its answer: on the FUSE thread when memory suffices, on the
//! runtime when the store must be waited for.
//!
//! ```text
//! kernel -> FUSE thread: copy arguments -> FileSystem -> Ready   -> reply on this thread
//!                                                     -> Pending -> task on the runtime -> reply there
//! ```
//!
//! FUSE threads never wait. What bounds the tasks is the kernel: it has at most
//! `FuseOptions::background` requests for read-ahead, write-back and asynchronous
//! I/O under way (of `REQUEST_BYTES_MAX` each), and every other request keeps the
//! process waiting that made it, so there are as many as there are such threads.
//! How long a task may take is bounded by the deadlines in `fs`.
//!
//! Invariant: every request is answered exactly once. A reply that is dropped, by
//! a panic or by a runtime that shuts down, answers EIO.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Errno, FopenFlags, InitFlags, KernelConfig};
use futures::FutureExt;
use tokio::runtime::Handle;

use super::convert::View;
use super::errno::errno;
use super::invalidate::Invalidator;
use super::options::{Caching, FuseOptions, REQUEST_BYTES_MAX};
use super::session::State;
use crate::base::Inode;
use crate::fs::{FileSystem, FsError, Outcome};

/// Speaks FUSE above and calls the file system below.
pub(super) struct Adapter {
    pub(super) fs: FileSystem,
    runtime: Handle,
    state: Arc<State>,
    pub(super) view: View,
    /// Whether the kernel collects writes.
    pub(super) writeback: bool,
    background: u16,
    keep_cache: bool,
    pub(super) invalidator: Invalidator,
    pub(super) writers: Arc<OpenWriters>,
    pub(super) listing: Arc<ListingSize>,
    pub(super) listing_plus: Arc<ListingSize>,
}

impl Adapter {
    pub(super) fn new(
        fs: FileSystem,
        options: &FuseOptions,
        runtime: Handle,
        state: Arc<State>,
        invalidator: Invalidator,
        writers: Arc<OpenWriters>,
    ) -> Self {
        Self {
            fs,
            runtime,
            state,
            view: View::new(options),
            background: options.background,
            writeback: options.caching == Caching::WriteBack && !options.read_only,
            keep_cache: options.caching != Caching::Follow,
            invalidator,
            writers,
            listing: Arc::default(),
            listing_plus: Arc::default(),
        }
    }

    /// Agrees with the kernel on what it may do by itself.
    pub(super) fn negotiate(&mut self, config: &mut KernelConfig) -> io::Result<()> {
        // Not asked for, on purpose: POSIX_LOCKS and FLOCK_LOCKS (the kernel
        // does locks itself: one machine writes); ATOMIC_O_TRUNC (O_TRUNC comes
        // as a setattr of the size); HANDLE_KILLPRIV (v2 serves); SETXATTR_EXT
        // (fuser 0.18 panics on it); EXPORT_SUPPORT, PASSTHROUGH, ALLOW_IDMAP.
        let mut wanted = vec![
            InitFlags::FUSE_ASYNC_READ,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            // Spares a look at `security.capability` before each write (three
            // times the small writes); fuser does not deliver the flags of
            // setattr and open, so `fs` clears the bits by the caller's uid.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        if !self.keep_cache {
            // A changed mtime drops the content that the kernel caches.
            wanted.push(InitFlags::FUSE_AUTO_INVAL_DATA);
        }
        if self.writeback {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel is too old for this FUSE capability");
                self.writeback &= flag != InitFlags::FUSE_WRITEBACK_CACHE;
            }
        }
        let refused = |limit| io::Error::other(format!("FUSE limit {limit} refused"));
        config.set_max_write(REQUEST_BYTES_MAX).map_err(refused)?;
        let refused = |limit| io::Error::other(format!("FUSE limit {limit} refused"));
        config.set_max_background(self.background).map_err(refused)?;
        config.set_congestion_threshold(self.background / 4 * 3).map_err(refused)?;
        Ok(())
    }

    /// Without KEEP_CACHE each open would drop the file's pages.
    pub(super) fn file_flags(&self) -> FopenFlags {
        if self.keep_cache { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
    }

    pub(super) fn directory_flags(&self) -> FopenFlags {
        if self.keep_cache {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
        } else {
            FopenFlags::empty()
        }
    }

    /// Calls the file system and answers with what it gives, now or later.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&FileSystem) -> Outcome<T>,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        if self.state.is_broken() {
            return reply(Err(Errno::EIO));
        }
        let at_once = AssertUnwindSafe(|| match call(&self.fs) {
            Outcome::Ready(result) => {
                reply(result.map_err(|error| refusal(operation, &error)));
                None
            }
            Outcome::Pending(future) => Some((future, reply)),
        });
        match catch_unwind(at_once) {
            Ok(None) => {}
            Ok(Some((future, reply))) => {
                let state = self.state.clone();
                let later = AssertUnwindSafe(async move {
                    reply(future.await.map_err(|error| refusal(operation, &error)));
                });
                self.runtime.spawn(async move {
                    if let Err(cause) = later.catch_unwind().await {
                        state.panicked(operation, &*cause);
                    }
                });
            }
            Err(cause) => self.panicked(operation, &*cause),
        }
    }

    /// As [`answer`](Self::answer), for what has no answer.
    pub(super) fn tell(&self, operation: &'static str, call: impl FnOnce(&FileSystem)) {
        if self.state.is_broken() {
            return;
        }
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| call(&self.fs))) {
            self.panicked(operation, &*cause);
        }
    }

    fn panicked(&self, operation: &'static str, cause: &(dyn Any + Send)) {
        self.state.panicked(operation, cause);
    }
}

/// The errno; EIO hides its cause from the caller, so the log tells it.
fn refusal(operation: &'static str, error: &FsError) -> Errno {
    if matches!(error, FsError::Io { .. }) {
        tracing::warn!(operation, %error, "answered with an I/O error");
    }
    errno(error)
}

/// How often each file is open for writing.
///
/// With its write-back cache the kernel may hold changes of such a file that the
/// file system has not seen; of all others it holds none, because closing (and
/// unmapping) writes back before the release is sent. One entry for each file
/// open for writing, so bounded by the open files of the machine.
#[derive(Debug, Default)]
pub(super) struct OpenWriters {
    counts: Mutex<HashMap<Inode, u32>>,
}

impl OpenWriters {
    pub(super) fn opened(&self, inode: Inode, flags: i32) {
        if writes(flags) {
            *self.counts().entry(inode).or_default() += 1;
        }
    }

    pub(super) fn released(&self, inode: Inode, flags: i32) {
        if !writes(flags) {
            return;
        }
        let mut counts = self.counts();
        if let Some(count) = counts.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&inode);
            }
        }
    }

    /// The inodes that are open for writing.
    pub(super) fn all(&self) -> Vec<Inode> {
        self.counts().keys().copied().collect()
    }

    pub(super) fn any(&self, inode: Inode) -> bool {
        self.counts().contains_key(&inode)
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<Inode, u32>> {
        // No code that can panic runs under this lock.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

/// How many entries of a directory to ask for at a time.
///
/// The size of the kernel's buffer is not told (4 KiB in older kernels, up to
/// 1 MiB in newer ones), so it is learned from what fitted: entries that do not
/// fit are loaded in vain.
#[derive(Debug)]
pub(super) struct ListingSize(AtomicUsize);

impl ListingSize {
    const START: usize = 64;
    const MIN: usize = 16;
    const MAX: usize = 1024;

    pub(super) fn limit(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// `asked` for so many, `got` these, of which the first `fitted` did.
    pub(super) fn learn(&self, asked: usize, got: usize, fitted: usize) {
        if fitted < got {
            self.0.store((fitted + 1).clamp(Self::MIN, Self::MAX), Ordering::Relaxed);
        } else if got >= asked {
            self.0.store((asked * 2).min(Self::MAX), Ordering::Relaxed);
        }
    }
}

impl Default for ListingSize {
    fn default() -> Self {
        Self(AtomicUsize::new(Self::START))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_counts_as_written_until_its_last_writer_is_released() {
        let writers = OpenWriters::default();
        let file = Inode(7);
        writers.opened(file, libc::O_RDONLY);
        assert!(!writers.any(file));
        writers.opened(file, libc::O_RDWR | libc::O_APPEND);
        writers.opened(file, libc::O_WRONLY);
        writers.released(file, libc::O_RDONLY);
        writers.released(file, libc::O_WRONLY);
        assert!(writers.any(file));
        writers.released(file, libc::O_RDWR | libc::O_APPEND);
        assert!(!writers.any(file) && writers.counts().is_empty());
    }

    #[test]
    fn listing_size_follows_the_kernels_buffer_within_its_bounds() {
        let size = ListingSize::default();
        size.learn(64, 64, 24);
        assert_eq!(size.limit(), 25);
        size.learn(25, 25, 25);
        assert_eq!(size.limit(), 50);
        size.learn(50, 3, 3);
        assert_eq!(size.limit(), 50, "the end of a directory says nothing");
        size.learn(1024, 1024, 1024);
        assert_eq!(size.limit(), ListingSize::MAX);
        size.learn(1024, 1024, 0);
        assert_eq!(size.limit(), ListingSize::MIN);
    }
}
