//! Memory that is used again and again.
//!
//! The allocator is told to give pieces of this size back to the system at once, so each new one
//! costs a mapping and a fault for every page, which is more than to copy a block does. What comes
//! and goes all the time is therefore kept, up to a bound.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Buffers of about one size that nobody uses now.
#[derive(Debug)]
pub struct Spare {
    /// Oldest first.
    buffers: Mutex<VecDeque<Vec<u8>>>,
    /// Capacities worth keeping, in bytes.
    len_min: usize,
    len_max: usize,
    count_max: usize,
}

impl Spare {
    /// Keeps `count_max` buffers at most, of `len_min` to `len_max` bytes each.
    pub const fn new(len_min: usize, len_max: usize, count_max: usize) -> Self {
        Self { buffers: Mutex::new(VecDeque::new()), len_min, len_max, count_max }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        // Nothing under this lock panics halfway through a change.
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.lock().len()
    }

    /// An empty buffer for `len` bytes; no more than an eighth larger, since who counts memory
    /// counts lengths.
    pub fn take(&self, len: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| (len..=len + len / 8).contains(&buffer.capacity());
        let kept = if len < self.len_min {
            None
        } else {
            let mut buffers = self.lock();
            buffers.iter().rposition(fits).and_then(|place| buffers.remove(place))
        };
        kept.unwrap_or_else(|| Vec::with_capacity(len))
    }

    /// The content of a buffer, which comes back when nobody has it any more.
    pub fn lend(&'static self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, spare: self })
    }

    /// Takes back a buffer that is not needed any more. The oldest goes for it: it may be of a size that nobody wants now.
    pub fn give(&self, mut buffer: Vec<u8>) {
        if !(self.len_min..=self.len_max).contains(&buffer.capacity()) {
            return;
        }
        buffer.clear();
        let mut buffers = self.lock();
        buffers.push_back(buffer);
        let gone = if buffers.len() > self.count_max { buffers.pop_front() } else { None };
        // Not freed under the lock.
        drop(buffers);
        drop(gone);
    }
}

struct Lent {
    buffer: Vec<u8>,
    spare: &'static Spare,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.spare.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lent_comes_back_with_its_last_reader() {
        static SPARE: Spare = Spare::new(100, 200, 2);
        let mut buffer = SPARE.take(150);
        buffer.extend_from_slice(b"content");
        let lent = SPARE.lend(buffer);
        let part = lent.slice(3..);
        drop(lent);
        assert_eq!((&part[..], SPARE.lock().len()), (&b"tent"[..], 0));
        drop(part);
        assert_eq!(SPARE.lock().len(), 1);
    }

    #[test]
    fn what_was_given_is_taken_again_empty_and_within_the_bounds() {
        let spare = Spare::new(100, 200, 2);
        for len in [150, 99, 201, 100, 200] {
            let mut buffer = Vec::with_capacity(len);
            buffer.push(7);
            spare.give(buffer);
        }
        let kept = || spare.lock().iter().map(Vec::capacity).collect::<Vec<_>>();
        assert_eq!(kept(), [100, 200], "the oldest has gone");
        assert_eq!(spare.take(10).capacity(), 10);
        let taken = spare.take(180);
        assert!(taken.is_empty() && taken.capacity() == 200);
    }

    #[test]
    fn who_finds_no_buffer_that_fits_leaves_the_others_to_those_they_fit() {
        let spare = Spare::new(100, 200, 3);
        for len in [120, 200, 100] {
            spare.give(Vec::with_capacity(len));
        }
        assert_eq!(spare.take(101).capacity(), 101, "one is too small, the others too large");
        assert_eq!(spare.take(170).capacity(), 170, "all are too small or too large");
        assert_eq!(spare.lock().len(), 3);
        assert_eq!((spare.take(110).capacity(), spare.take(190).capacity()), (120, 200));
        assert_eq!(spare.lock().len(), 1);
    }
}
