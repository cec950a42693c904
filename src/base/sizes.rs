//! Units and the bounds that POSIX and the format set.

/// 1,024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1,024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1,024 MiB.
pub const GIB: u64 = 1 << 30;

/// Longest name of a directory entry in bytes (`NAME_MAX`).
pub const NAME_LEN_MAX: usize = 255;

/// Largest size of a file in bytes: 8 EiB less one, the kernel's own bound.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// Block size of a volume unless chosen at `init`.
pub const BLOCK_SIZE_DEFAULT: BlockSize = BlockSize { shift: 16 };

/// Bytes in one block of a volume: a power of two from 4 KiB to 1 MiB, fixed at `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize {
    shift: u8,
}

impl BlockSize {
    /// The largest block in bytes.
    pub const BYTES_MAX: u64 = MIB;

    /// `bytes` must be a power of two from 4 KiB to 1 MiB.
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes.is_power_of_two() && (4 * KIB..=Self::BYTES_MAX).contains(&bytes))
            .then(|| Self { shift: bytes.trailing_zeros() as u8 })
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// The block that holds byte `offset`, and the place of that byte in it.
    pub fn split(self, offset: u64) -> (super::BlockIndex, u32) {
        (super::BlockIndex(offset >> self.shift), (offset & (self.bytes() - 1)) as u32)
    }

    /// The first byte of a block.
    pub fn start(self, block: super::BlockIndex) -> u64 {
        block.0 << self.shift
    }

    /// How many blocks `len` bytes from the start of a file touch.
    pub fn count(self, len: u64) -> u64 {
        len.div_ceil(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockIndex;

    #[test]
    fn offsets_split_into_block_and_place() {
        let size = BlockSize::new(64 * KIB).unwrap();
        assert_eq!(size.split(0), (BlockIndex(0), 0));
        assert_eq!(size.split(65_537), (BlockIndex(1), 1));
        assert_eq!(size.count(65_537), 2);
        assert_eq!(BlockSize::new(3 * KIB), None);
        assert_eq!(BlockSize::new(2 * MIB), None);
    }
}
