//! Pages for secrets: out of swap, out of core dumps, wiped when dropped.
//!
//! Each secret has pages of its own, mapped for it alone, because locking and
//! advice work on whole pages. A kernel that refuses the lock (`RLIMIT_MEMLOCK`)
//! does not stop the program; [`memory_is_locked`] tells it.
#![allow(unsafe_code, reason = "mmap, mlock and madvise have no safe interface in std")]

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use zeroize::Zeroize;

/// Set once any secret had to live in pages that the kernel may write to swap.
static LOCK_REFUSED: AtomicBool = AtomicBool::new(false);

/// True while every secret of this process is in locked memory, and one more could be.
///
/// `false` means that a secret may reach the swap area: raise `RLIMIT_MEMLOCK`
/// or encrypt the swap.
pub fn memory_is_locked() -> bool {
    drop(LockedPages::new(1));
    !LOCK_REFUSED.load(Ordering::Relaxed)
}

/// A zeroed, page-aligned buffer of its own pages.
pub(super) struct LockedPages {
    start: NonNull<u8>,
    /// Bytes mapped: whole pages, at least one.
    mapped: usize,
    /// Bytes in use.
    len: usize,
    locked: bool,
}

// SAFETY: the mapping belongs to this value alone, and is reached through `&self` for reading
// and `&mut self` for writing, like a `Box<[u8]>`.
unsafe impl Send for LockedPages {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for LockedPages {}

impl LockedPages {
    /// `len` zero bytes. Like every allocation, it aborts when memory is used up.
    pub(super) fn new(len: usize) -> Self {
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let mapped = len.max(1).next_multiple_of(page);
        // SAFETY: a fresh private anonymous mapping at an address the kernel picks touches no other memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let Some(start) = NonNull::new(start.cast::<u8>()).filter(|_| start != libc::MAP_FAILED)
        else {
            let layout =
                std::alloc::Layout::array::<u8>(mapped).unwrap_or(std::alloc::Layout::new::<u8>());
            std::alloc::handle_alloc_error(layout)
        };
        // SAFETY: start..start+mapped is the mapping made above.
        let locked = unsafe { libc::mlock(start.as_ptr().cast(), mapped) } == 0;
        if !locked {
            LOCK_REFUSED.store(true, Ordering::Relaxed);
        }
        // SAFETY: as above. A kernel without this advice still has core dumps switched off by the daemon.
        unsafe { libc::madvise(start.as_ptr().cast(), mapped, libc::MADV_DONTDUMP) };
        Self { start, mapped, len, locked }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: len <= mapped bytes are mapped, initialised (zeroed by the kernel), and borrowed with self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: the mapping is ours, and nothing borrows it any more.
        unsafe {
            if self.locked {
                libc::munlock(self.start.as_ptr().cast(), self.mapped);
            }
            libc::munmap(self.start.as_ptr().cast(), self.mapped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_start_zeroed_and_hold_what_is_written() {
        for len in [0, 1, 32, 4096, 10_000] {
            let mut pages = LockedPages::new(len);
            assert_eq!(pages.bytes().len(), len);
            assert!(pages.bytes().iter().all(|&byte| byte == 0));
            pages.bytes_mut().fill(7);
            assert!(pages.bytes().iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn pages_are_left_out_of_core_dumps() {
        let pages = LockedPages::new(32);
        let start = format!("{:x}-", pages.start.as_ptr() as usize);
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        // Neighbouring pages with the same flags may be merged, so the mapping is looked up by range.
        let address = pages.start.as_ptr() as usize;
        let flags = maps
            .split_inclusive('\n')
            .scan(false, |inside, line| {
                if let Some((from, to)) =
                    line.split(' ').next().and_then(|range| range.split_once('-'))
                    && let (Ok(from), Ok(to)) =
                        (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
                {
                    *inside = (from..to).contains(&address);
                }
                Some((*inside && line.starts_with("VmFlags")).then(|| line.to_owned()))
            })
            .flatten()
            .next()
            .unwrap_or_else(|| panic!("no flags of the mapping {start}"));
        assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{flags}");
        assert_eq!(flags.split_whitespace().any(|flag| flag == "lo"), pages.locked, "{flags}");
    }
}
