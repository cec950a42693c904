//! Compression of single chunks, given up early where it does not pay.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

use super::chunk::CHUNK_LEN_MAX;
use crate::base::Inode;

/// How chunks are compressed before they are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// With zstd; a chunk that shrinks by less than a sixteenth stays as it is.
    Zstd {
        /// zstd's own level, 1 to 22.
        level: i32,
    },
}

impl Default for Compression {
    /// Level 1: higher ones save little more and pack slower than a fast network uploads.
    fn default() -> Self {
        Self::Zstd { level: 1 }
    }
}

/// Below this a frame's own bytes eat most of the gain.
const LEN_MIN: usize = 128;
/// After so many failures in a row in one file, most of its chunks are not tried.
const FAILURES_MAX: u32 = 4;
/// Of those, every so many-th is tried.
const RETRY_EVERY: u32 = 8;

/// Compresses the chunks of one pack with one context.
pub(super) struct Squeezer {
    compressor: Option<Compressor<'static>>,
    out: Vec<u8>,
    /// The file of the last chunk and its chunks since one shrank. Chunks of a file come in a row.
    streak: (Inode, u32),
}

impl Squeezer {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        let compressor = match compression {
            Compression::None => None,
            Compression::Zstd { level } => Some(Compressor::new(level)?),
        };
        Ok(Self { compressor, out: Vec::new(), streak: (Inode(0), 0) })
    }

    /// The compressed form of a chunk of `inode`, if it is enough shorter.
    pub(super) fn squeeze(&mut self, inode: Inode, plain: &[u8]) -> Option<&[u8]> {
        let compressor = self.compressor.as_mut()?;
        if plain.len() < LEN_MIN {
            return None;
        }
        if self.streak.0 != inode {
            self.streak = (inode, 0);
        }
        let failures = self.streak.1;
        if failures >= FAILURES_MAX && !failures.is_multiple_of(RETRY_EVERY) {
            self.streak.1 = failures.wrapping_add(1);
            return None;
        }
        // Its capacity bounds the output: zstd gives up where it would be longer.
        let limit = plain.len() - plain.len() / 16;
        self.out.clear();
        self.out.shrink_to(limit);
        self.out.reserve_exact(limit);
        match compressor.compress_to_buffer(plain, &mut self.out) {
            Ok(len) if len <= limit => {
                self.streak.1 = 0;
                Some(&self.out)
            }
            _ => {
                self.streak.1 = failures.wrapping_add(1);
                None
            }
        }
    }
}

thread_local! {
    /// A context is 150 KiB to set up, so each thread that opens chunks keeps one.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The content of a compressed chunk; `None` if it is not one, or longer than a chunk may be.
pub(crate) fn expand(compressed: &[u8]) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Decompressor::new().ok();
        }
        slot.as_mut()?.decompress(compressed, CHUNK_LEN_MAX).ok()
    })
}

/// A compressed chunk.
#[cfg(any(test, fuzzing))]
pub(crate) fn example_compressed() -> Vec<u8> {
    zstd::bulk::compress(&[7; 5000], 1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random_bytes;

    fn squeezer() -> Squeezer {
        Squeezer::new(Compression::default()).unwrap()
    }

    #[test]
    fn text_shrinks_and_expands_to_itself() {
        let plain = b"all work and no play ".repeat(3000);
        let mut squeezer = squeezer();
        let small = squeezer.squeeze(Inode(1), &plain).unwrap().to_vec();
        assert!(small.len() < plain.len() / 10);
        assert_eq!(expand(&small).unwrap(), plain);
    }

    #[test]
    fn random_bytes_stay_as_they_are_and_later_text_of_the_file_is_found() {
        let mut squeezer = squeezer();
        let noise = random_bytes::<65_536>();
        for _ in 0..20 {
            assert!(squeezer.squeeze(Inode(1), &noise).is_none());
        }
        let text = vec![b'a'; 65_536];
        let shrunk = (0..16).filter(|_| squeezer.squeeze(Inode(1), &text).is_some()).count();
        assert!(shrunk >= 8);
        assert!(squeezer.squeeze(Inode(2), &text).is_some());
    }

    #[test]
    fn compression_off_keeps_everything_as_it_is() {
        let mut squeezer = Squeezer::new(Compression::None).unwrap();
        assert!(squeezer.squeeze(Inode(1), &vec![0; 65_536]).is_none());
    }

    #[test]
    fn frames_that_expand_past_a_chunk_are_refused() {
        let bomb = zstd::bulk::compress(&vec![0; CHUNK_LEN_MAX + 1], 1).unwrap();
        assert!(bomb.len() < 1000 && expand(&bomb).is_none());
        let most = zstd::bulk::compress(&vec![0; CHUNK_LEN_MAX], 1).unwrap();
        assert_eq!(expand(&most).unwrap().len(), CHUNK_LEN_MAX);
        assert!(expand(b"not a frame").is_none() && expand(&most[..most.len() - 1]).is_none());
    }
}
