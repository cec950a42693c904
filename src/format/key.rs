//! Keys of metadata records: one letter, then big-endian integers, so that they sort as meant.
//!
//! ```text
//! B inode page        block map page            I inode             attributes
//! D parent hash       directory entry           L inode page        page holds inline bytes
//! F commit pack       freed pack                O inode             unlinked but open
//! P pack              pack record               R pack inode block  second owner of a block
//! S                   volume counters           U pack              orphans may lie from here on
//! X inode name        extended attribute
//! ```

use std::borrow::Borrow;

use crate::base::{BlockIndex, CommitNumber, Inode, PackNumber};

/// The longest key: an `X` record with a name of 255 bytes.
const KEY_LEN_MAX: usize = 9 + 255;

/// The letter that a key begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// Block map page.
    Page = b'B',
    /// Directory entry.
    Entry = b'D',
    /// Freed pack.
    Freed = b'F',
    /// Inode attributes.
    Inode = b'I',
    /// A block map page that holds inline bytes.
    Inline = b'L',
    /// Unlinked but open inode.
    Orphan = b'O',
    /// Pack record.
    Pack = b'P',
    /// Back-reference: an owner of a block besides the one in the pack's directory.
    Reference = b'R',
    /// Volume counters.
    Counters = b'S',
    /// Pack numbers among which a writer may have left orphans.
    Unswept = b'U',
    /// Extended attribute.
    Xattr = b'X',
}

impl KeyKind {
    /// All of them, in the order of their keys.
    pub const ALL: [Self; 11] = [
        Self::Page,
        Self::Entry,
        Self::Freed,
        Self::Inode,
        Self::Inline,
        Self::Orphan,
        Self::Pack,
        Self::Reference,
        Self::Counters,
        Self::Unswept,
        Self::Xattr,
    ];
}

/// The key of one metadata record, encoded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl Key {
    fn build(kind: KeyKind, numbers: &[u64], tail: &[u8]) -> Self {
        debug_assert!(tail.len() < KEY_LEN_MAX);
        let mut key = Vec::with_capacity(1 + 8 * numbers.len() + tail.len());
        key.push(kind as u8);
        for number in numbers {
            key.extend_from_slice(&number.to_be_bytes());
        }
        key.extend_from_slice(tail);
        Self(key.into_boxed_slice())
    }

    /// The attributes of `inode`.
    pub fn inode(inode: Inode) -> Self {
        Self::build(KeyKind::Inode, &[inode.0], &[])
    }

    /// The entry of directory `parent` at `hash`.
    pub fn entry(parent: Inode, hash: u64) -> Self {
        Self::build(KeyKind::Entry, &[parent.0, hash], &[])
    }

    /// Block map page `page` of `inode`.
    pub fn page(inode: Inode, page: u64) -> Self {
        Self::build(KeyKind::Page, &[inode.0, page], &[])
    }

    /// Marker: page `page` of `inode` holds inline bytes.
    pub fn inline(inode: Inode, page: u64) -> Self {
        Self::build(KeyKind::Inline, &[inode.0, page], &[])
    }

    /// Extended attribute `name` of `inode`.
    pub fn xattr(inode: Inode, name: &[u8]) -> Self {
        Self::build(KeyKind::Xattr, &[inode.0], name)
    }

    /// `inode` is unlinked but was open.
    pub fn orphan(inode: Inode) -> Self {
        Self::build(KeyKind::Orphan, &[inode.0], &[])
    }

    /// The record of pack `pack`.
    pub fn pack(pack: PackNumber) -> Self {
        Self::build(KeyKind::Pack, &[pack.0], &[])
    }

    /// `inode`'s `block` shares a block of `pack` that was first written for another place.
    pub fn reference(pack: PackNumber, inode: Inode, block: BlockIndex) -> Self {
        Self::build(KeyKind::Reference, &[pack.0, inode.0, block.0], &[])
    }

    /// `pack` was freed by commit `commit`.
    pub fn freed(commit: CommitNumber, pack: PackNumber) -> Self {
        Self::build(KeyKind::Freed, &[commit.0, pack.0], &[])
    }

    /// Orphans may lie among the packs from `from` on.
    pub fn unswept(from: PackNumber) -> Self {
        Self::build(KeyKind::Unswept, &[from.0], &[])
    }

    /// The volume's counters.
    pub fn counters() -> Self {
        Self::build(KeyKind::Counters, &[], &[])
    }

    /// The `index`-th number of this key, if it is of `kind`.
    fn number_of(&self, kind: KeyKind, index: usize) -> Option<u64> {
        let is_kind = self.0.first() == Some(&(kind as u8));
        is_kind.then(|| Self::number(&self.0, index)).flatten()
    }

    /// The inode, if this is the key of an orphan.
    pub fn orphaned(&self) -> Option<Inode> {
        self.number_of(KeyKind::Orphan, 0).map(Inode)
    }

    /// The pack, if this is the key of a pack record.
    pub fn pack_number(&self) -> Option<PackNumber> {
        self.number_of(KeyKind::Pack, 0).map(PackNumber)
    }

    /// Inode and page, if this is the marker of a page with inline bytes.
    pub fn inline_page(&self) -> Option<(Inode, u64)> {
        let inode = self.number_of(KeyKind::Inline, 0)?;
        Some((Inode(inode), self.number_of(KeyKind::Inline, 1)?))
    }

    /// A key as it came from the engine.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The encoded key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Every key of `kind` lies in `start..end`.
    pub fn range_of(kind: KeyKind) -> (Vec<u8>, Vec<u8>) {
        (vec![kind as u8], vec![kind as u8 + 1])
    }

    /// Every key of `kind` under `inode` from the second number `from` on lies in `start..end`.
    pub fn range_under(kind: KeyKind, inode: Inode, from: u64) -> (Vec<u8>, Vec<u8>) {
        let start = Self::build(kind, &[inode.0, from], &[]).0.into_vec();
        (start, Self::end_of(kind, inode.0))
    }

    /// Every back-reference to `pack` lies in `start..end`.
    pub fn range_of_references(pack: PackNumber) -> (Vec<u8>, Vec<u8>) {
        let start = Self::build(KeyKind::Reference, &[pack.0], &[]).0.into_vec();
        (start, Self::end_of(KeyKind::Reference, pack.0))
    }

    /// Every extended attribute of `inode` lies in `start..end`.
    pub fn range_of_xattrs(inode: Inode) -> (Vec<u8>, Vec<u8>) {
        let start = Self::build(KeyKind::Xattr, &[inode.0], &[]).0.into_vec();
        (start, Self::end_of(KeyKind::Xattr, inode.0))
    }

    /// Block map pages `from..to` of `inode` lie in `start..end`.
    pub fn range_of_pages(inode: Inode, from: u64, to: u64) -> (Vec<u8>, Vec<u8>) {
        let start = Self::page(inode, from).0.into_vec();
        (start, Self::page(inode, to).0.into_vec())
    }

    /// Behind every key of `kind` whose first number is `number`.
    fn end_of(kind: KeyKind, number: u64) -> Vec<u8> {
        match number.checked_add(1) {
            Some(next) => Self::build(kind, &[next], &[]).0.into_vec(),
            None => vec![kind as u8 + 1],
        }
    }

    /// The `index`-th number after the letter of an encoded key.
    pub fn number(key: &[u8], index: usize) -> Option<u64> {
        let at = 1 + 8 * index;
        Some(u64::from_be_bytes(key.get(at..at + 8)?.try_into().ok()?))
    }

    /// The numbers after the letter of an encoded key that has just `N` of them and nothing else.
    pub fn numbers<const N: usize>(key: &[u8]) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        for (index, number) in numbers.iter_mut().enumerate() {
            *number = Self::number(key, index)?;
        }
        (key.len() == 1 + 8 * N).then_some(numbers)
    }

    /// The name in the encoded key of an extended attribute.
    pub fn xattr_name(key: &[u8]) -> Option<&[u8]> {
        key.get(9..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_kind_then_by_number() {
        assert!(Key::inode(Inode(255)) < Key::inode(Inode(256)));
        assert!(Key::page(Inode(1), 9) < Key::page(Inode(2), 0));
        let (start, end) = Key::range_under(KeyKind::Entry, Inode(7), 3);
        let inside = Key::entry(Inode(7), u64::MAX);
        assert!(start.as_slice() <= inside.as_bytes() && inside.as_bytes() < end.as_slice());
        assert!(Key::entry(Inode(8), 0).as_bytes() >= end.as_slice());
        assert!(Key::entry(Inode(7), 2).as_bytes() < start.as_slice());
    }

    #[test]
    fn numbers_and_names_come_back_out_of_a_key() {
        assert_eq!(Key::number(Key::entry(Inode(3), 77).as_bytes(), 1), Some(77));
        assert_eq!(
            Key::xattr_name(Key::xattr(Inode(3), b"user.a").as_bytes()),
            Some(&b"user.a"[..])
        );
        assert_eq!(Key::number(b"I", 0), None);
        let key = Key::page(Inode(3), 9);
        assert_eq!(Key::numbers(key.as_bytes()), Some([3, 9]));
        assert_eq!(Key::numbers::<1>(key.as_bytes()), None);
        assert!(KeyKind::ALL.is_sorted());
    }
}
