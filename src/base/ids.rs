//! Newtypes for every id, so that no two bare integers stand side by side.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Inode number; never used twice in a volume's life.
    Inode(u64)
}
id! {
    /// Position of a block in its file: byte offset divided by the block size.
    BlockIndex(u64)
}
id! {
    /// Data key epoch: which key of the keyring sealed an object.
    Epoch(u32)
}
id! {
    /// Count of read-write opens of a volume; a later writer has a larger one.
    WriterEpoch(u32)
}
id! {
    /// Number of a committed group; grows by one with each.
    CommitNumber(u64)
}
id! {
    /// Pack number: writer epoch (24 bits) above a counter (40 bits).
    PackNumber(u64)
}

impl Inode {
    /// The root directory of every volume (FUSE fixes this number).
    pub const ROOT: Self = Self(1);
}

impl PackNumber {
    const COUNTER_BITS: u32 = 40;

    /// The `counter`-th pack of a writer; `None` when either part is used up.
    pub fn new(writer: WriterEpoch, counter: u64) -> Option<Self> {
        (counter < 1 << Self::COUNTER_BITS && writer.0 < 1 << 24)
            .then(|| Self(u64::from(writer.0) << Self::COUNTER_BITS | counter))
    }

    /// The writer that made this pack.
    pub fn writer(self) -> WriterEpoch {
        WriterEpoch((self.0 >> Self::COUNTER_BITS) as u32)
    }

    /// Position among the packs of its writer.
    pub fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }
}

/// Identity of a volume: 16 random bytes, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(pub [u8; 16]);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for VolumeId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut id = [0; 16];
        if text.len() != 32 || !text.is_ascii() {
            return Err(());
        }
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| ())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ())?;
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_number_keeps_writer_and_counter_apart() {
        let pack = PackNumber::new(WriterEpoch(7), 42).unwrap();
        assert_eq!((pack.writer(), pack.counter()), (WriterEpoch(7), 42));
        assert!(PackNumber::new(WriterEpoch(1 << 24), 0).is_none());
        assert!(PackNumber::new(WriterEpoch(0), 1 << 40).is_none());
    }

    #[test]
    fn volume_id_reads_back_what_it_prints() {
        let id = VolumeId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<VolumeId>().is_err());
    }
}
