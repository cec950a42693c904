//! The block map: which bytes of a file lie where.
//!
//! ```text
//! file ── pages of 128 blocks ── block ── fragments, sorted, disjoint
//!                                           │at    │at
//!   block:  |  hole (zeros)  |  fragment 0  |  fragment 1  | hole |
//! ```
//!
//! A fragment is a run of bytes inside one block, taken from a chunk of a pack
//! (`skip` bytes into its plaintext) or held in the page itself. A fully
//! written block is one fragment; a small overwrite cuts it and puts its own
//! between, so that neither reading nor rewriting of the rest is needed.

use bytes::Bytes;

use super::{FormatError, Reader, Writer};
use crate::base::{BlockIndex, BlockSize, PackNumber};

/// Blocks that one page maps.
pub const PAGE_BLOCKS: u64 = 128;

const WHAT: &str = "block map page";
const VERSION: u8 = 1;

/// The page that maps `block`, and the place of the block in it.
pub fn page_of(block: BlockIndex) -> (u64, u8) {
    (block.0 / PAGE_BLOCKS, (block.0 % PAGE_BLOCKS) as u8)
}

/// Where the bytes of a fragment lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a chunk of a pack.
    Pack {
        /// The pack.
        pack: PackNumber,
        /// Index of the chunk in the pack; bound when it was sealed.
        chunk: u32,
        /// First byte of the sealed chunk in the object.
        offset: u32,
        /// Length of the sealed chunk in bytes, tag included.
        sealed_len: u32,
        /// Bytes of the chunk's content before the fragment's first.
        skip: u32,
        /// The content was compressed with zstd before sealing.
        compressed: bool,
    },
    /// In the page itself.
    Inline(Bytes),
}

/// A run of bytes inside one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// First byte, counted from the start of the block.
    pub at: u32,
    /// Length in bytes; at least 1.
    pub len: u32,
    /// Where the bytes lie.
    pub place: Place,
}

impl Fragment {
    /// One past the last byte, counted from the start of the block.
    pub fn end(&self) -> u32 {
        self.at.saturating_add(self.len)
    }

    /// The part of this fragment inside `from..to` (of the block); `None` if there is none.
    pub fn slice(&self, from: u32, to: u32) -> Option<Self> {
        let (start, end) = (self.at.max(from), self.end().min(to));
        if start >= end {
            return None;
        }
        let ahead = start - self.at;
        let place = match &self.place {
            Place::Pack { pack, chunk, offset, sealed_len, skip, compressed } => Place::Pack {
                pack: *pack,
                chunk: *chunk,
                offset: *offset,
                sealed_len: *sealed_len,
                // Beyond every chunk if it does not fit, so that reading it is an error.
                skip: skip.saturating_add(ahead),
                compressed: *compressed,
            },
            Place::Inline(bytes) => {
                Place::Inline(bytes.slice(ahead as usize..(end - self.at) as usize))
            }
        };
        Some(Self { at: start, len: end - start, place })
    }

    /// The pack it lies in and how many bytes of content it shows of it.
    pub fn pack_use(&self) -> Option<(PackNumber, u64)> {
        match self.place {
            Place::Pack { pack, .. } => Some((pack, u64::from(self.len))),
            Place::Inline(_) => None,
        }
    }
}

/// One page of a file's block map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Blocks that are not holes, by place in the page, in order; fragments sorted and disjoint.
    blocks: Vec<(u8, Vec<Fragment>)>,
}

impl Page {
    /// The fragments of the block at `slot`; empty for a hole.
    pub fn get(&self, slot: u8) -> &[Fragment] {
        match self.blocks.binary_search_by_key(&slot, |(slot, _)| *slot) {
            Ok(found) => &self.blocks[found].1,
            Err(_) => &[],
        }
    }

    /// Replaces the fragments of the block at `slot`; none make it a hole.
    pub fn set(&mut self, slot: u8, fragments: Vec<Fragment>) {
        debug_assert!(u64::from(slot) < PAGE_BLOCKS);
        match (self.blocks.binary_search_by_key(&slot, |(slot, _)| *slot), fragments.is_empty()) {
            (Ok(found), false) => self.blocks[found].1 = fragments,
            (Ok(found), true) => drop(self.blocks.remove(found)),
            (Err(place), false) => self.blocks.insert(place, (slot, fragments)),
            (Err(_), true) => {}
        }
    }

    /// Blocks that are not holes, in order.
    pub fn blocks(&self) -> impl Iterator<Item = (u8, &[Fragment])> {
        self.blocks.iter().map(|(slot, fragments)| (*slot, fragments.as_slice()))
    }

    /// Whether all blocks are holes.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Bytes held in the page itself.
    pub fn inline_bytes(&self) -> u64 {
        let fragments = self.blocks.iter().flat_map(|(_, fragments)| fragments);
        fragments.filter(|f| matches!(f.place, Place::Inline(_))).map(|f| u64::from(f.len)).sum()
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(16 + 12 * self.blocks.len());
        out.u8(VERSION).varint(self.blocks.len() as u64);
        let mut previous = Previous::default();
        for (slot, fragments) in &self.blocks {
            out.u8(*slot).varint(fragments.len() as u64);
            for fragment in fragments {
                previous.write(fragment, &mut out);
            }
        }
        out.finish()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, bytes);
        if reader.u8()? != VERSION {
            return Err(reader.invalid());
        }
        let count = reader.varint()?;
        if count > PAGE_BLOCKS {
            return Err(reader.invalid());
        }
        let mut blocks: Vec<(u8, Vec<Fragment>)> = Vec::with_capacity(count as usize);
        let mut previous = Previous::default();
        for _ in 0..count {
            let slot = reader.u8()?;
            let in_order = blocks.last().is_none_or(|(last, _)| *last < slot);
            if u64::from(slot) >= PAGE_BLOCKS || !in_order {
                return Err(reader.invalid());
            }
            let fragments = reader.varint()?;
            let mut list: Vec<Fragment> = Vec::new();
            for _ in 0..fragments {
                let fragment = previous.read(&mut reader, bytes)?;
                if list.last().is_some_and(|last| last.end() > fragment.at) {
                    return Err(reader.invalid());
                }
                list.push(fragment);
            }
            if list.is_empty() {
                return Err(reader.invalid());
            }
            blocks.push((slot, list));
        }
        reader.finish()?;
        Ok(Self { blocks })
    }
}

const INLINE: u8 = 1;
const COMPRESSED: u8 = 2;
const SKIPS: u8 = 4;
/// Same pack, next chunk, where the previous fragment's chunk ends.
const FOLLOWS: u8 = 8;

/// What the codec remembers from fragment to fragment: runs of a pack cost few bytes.
#[derive(Debug, Default)]
struct Previous {
    pack: u64,
    chunk: u32,
    end: u32,
}

impl Previous {
    fn write(&mut self, fragment: &Fragment, out: &mut Writer) {
        match &fragment.place {
            Place::Inline(bytes) => {
                debug_assert_eq!(bytes.len(), fragment.len as usize);
                out.u8(INLINE).varint(u64::from(fragment.at)).string(bytes);
            }
            Place::Pack { pack, chunk, offset, sealed_len, skip, compressed } => {
                let follows = self.pack == pack.0
                    && self.chunk.checked_add(1) == Some(*chunk)
                    && self.end == *offset;
                let mut flags = if *compressed { COMPRESSED } else { 0 };
                flags |= if *skip > 0 { SKIPS } else { 0 };
                flags |= if follows { FOLLOWS } else { 0 };
                out.u8(flags).varint(u64::from(fragment.at)).varint(u64::from(fragment.len));
                out.varint(u64::from(*sealed_len));
                if *skip > 0 {
                    out.varint(u64::from(*skip));
                }
                if !follows {
                    out.varint(pack.0).varint(u64::from(*chunk)).varint(u64::from(*offset));
                }
                *self = Self { pack: pack.0, chunk: *chunk, end: offset.wrapping_add(*sealed_len) };
            }
        }
    }

    fn read(&mut self, reader: &mut Reader<'_>, record: &Bytes) -> Result<Fragment, FormatError> {
        let flags = reader.u8()?;
        let at = reader.varint32()?;
        if flags == INLINE {
            let bytes = record.slice_ref(reader.string()?);
            let len = bytes.len() as u32;
            return checked(reader, Fragment { at, len, place: Place::Inline(bytes) });
        }
        if flags & !(COMPRESSED | SKIPS | FOLLOWS) != 0 {
            return Err(reader.invalid());
        }
        let len = reader.varint32()?;
        let sealed_len = reader.varint32()?;
        let skip = if flags & SKIPS != 0 { reader.varint32()? } else { 0 };
        let (pack, chunk, offset) = if flags & FOLLOWS != 0 {
            let chunk = self.chunk.checked_add(1).ok_or_else(|| reader.invalid())?;
            (self.pack, chunk, self.end)
        } else {
            (reader.varint()?, reader.varint32()?, reader.varint32()?)
        };
        let end = offset.checked_add(sealed_len).ok_or_else(|| reader.invalid())?;
        *self = Self { pack, chunk, end };
        let pack = PackNumber(pack);
        let compressed = flags & COMPRESSED != 0;
        let place = Place::Pack { pack, chunk, offset, sealed_len, skip, compressed };
        checked(reader, Fragment { at, len, place })
    }
}

fn checked(reader: &Reader<'_>, fragment: Fragment) -> Result<Fragment, FormatError> {
    let skip = match fragment.place {
        Place::Pack { skip, .. } => skip,
        Place::Inline(_) => 0,
    };
    // Neither a block nor the content of a chunk is longer than the largest block.
    let inside = |from: u32| u64::from(from) + u64::from(fragment.len) <= BlockSize::BYTES_MAX;
    if fragment.len > 0 && inside(fragment.at) && inside(skip) {
        Ok(fragment)
    } else {
        Err(reader.invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(at: u32, len: u32, chunk: u32, offset: u32) -> Fragment {
        let place = Place::Pack {
            pack: PackNumber(1 << 40),
            chunk,
            offset,
            sealed_len: len + 16,
            skip: 0,
            compressed: false,
        };
        Fragment { at, len, place }
    }

    fn sample() -> Page {
        let mut page = Page::default();
        page.set(3, vec![packed(0, 65_536, 0, 98)]);
        page.set(4, vec![packed(0, 65_536, 1, 98 + 65_552)]);
        let inline = Place::Inline(Bytes::from_static(b"hello"));
        let tail = packed(4_096, 8_192, 9, 5).slice(5_000, 6_000).unwrap();
        page.set(127, vec![Fragment { at: 7, len: 5, place: inline }, tail]);
        page
    }

    #[test]
    fn page_reads_back_what_was_written_and_runs_are_short() {
        let page = sample();
        let bytes = Bytes::from(page.encode());
        assert_eq!(Page::decode(&bytes), Ok(page));
        let mut run = Page::default();
        for slot in 0..128u8 {
            let chunk = u32::from(slot);
            run.set(slot, vec![packed(0, 65_536, chunk, 98 + chunk * 65_552)]);
        }
        assert!(run.encode().len() < 128 * 11);
    }

    #[test]
    fn cut_pages_are_errors_and_never_a_panic() {
        let bytes = Bytes::from(sample().encode());
        for len in 0..bytes.len() {
            assert!(Page::decode(&bytes.slice(..len)).is_err());
        }
        for at in 0..bytes.len() {
            let mut other = bytes.to_vec();
            other[at] ^= 0x55;
            let _ = Page::decode(&Bytes::from(other));
        }
    }

    #[test]
    fn fragments_longer_than_any_block_or_chunk_are_refused() {
        let decoded = |at, len, skip| {
            let mut fragment = packed(at, len, 0, 0);
            let Place::Pack { skip: place_skip, sealed_len, .. } = &mut fragment.place else {
                unreachable!("packed")
            };
            (*place_skip, *sealed_len) = (skip, 20);
            let mut page = Page::default();
            page.set(0, vec![fragment]);
            Page::decode(&page.encode().into()).is_ok()
        };
        let most = BlockSize::BYTES_MAX as u32;
        assert!(decoded(0, most, 0) && decoded(most - 1, 1, most - 1));
        assert!(!decoded(1, most, 0) && !decoded(0, most, 1) && !decoded(0, most + 1, 0));
        assert!(!decoded(u32::MAX, 1, 0) && !decoded(0, 1, u32::MAX));
    }

    #[test]
    fn slices_of_a_fragment_skip_what_lies_before() {
        let part = packed(100, 50, 0, 0).slice(120, 130).unwrap();
        assert_eq!((part.at, part.len), (120, 10));
        assert!(matches!(part.place, Place::Pack { skip: 20, .. }));
        assert_eq!(packed(100, 50, 0, 0).slice(150, 200), None);
    }

    #[test]
    fn setting_no_fragments_makes_a_hole() {
        let mut page = sample();
        for slot in [3, 4, 127] {
            page.set(slot, Vec::new());
        }
        assert!(page.is_empty() && page.get(3).is_empty());
    }
}
