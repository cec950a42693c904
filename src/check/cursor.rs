//! A walk over records in key order, some at a time.

use std::vec::IntoIter;

use crate::format::{Key, KeyKind};
use crate::meta::{MetaError, MetaRead, Record};

/// Records that one scan asks for: pages of block maps and extended attributes may have 64 KiB, the
/// others are short.
const LARGE_AT_ONCE: usize = 128;
const RECORDS_AT_ONCE: usize = 2048;

/// The records of a range, in order.
pub(super) struct Cursor<'a> {
    meta: &'a dyn MetaRead,
    start: Vec<u8>,
    end: Vec<u8>,
    loaded: IntoIter<Record>,
}

impl<'a> Cursor<'a> {
    /// All records of a kind.
    pub fn of(meta: &'a dyn MetaRead, kind: KeyKind) -> Self {
        Self::over(meta, Key::range_of(kind))
    }

    /// The records of `start..end`.
    pub fn over(meta: &'a dyn MetaRead, (start, end): (Vec<u8>, Vec<u8>)) -> Self {
        let loaded = Vec::new().into_iter();
        Self { meta, start, end, loaded }
    }

    /// The next record; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Record>, MetaError> {
        loop {
            if let Some(record) = self.loaded.next() {
                return Ok(Some(record));
            }
            if self.start >= self.end {
                return Ok(None);
            }
            let (end, limit) = self.part();
            let records = self.meta.scan(&self.start, &end, limit).await?;
            self.start = match records.last() {
                Some((key, _)) if records.len() >= limit => [&key[..], &[0]].concat(),
                _ => end,
            };
            self.loaded = records.into_iter();
        }
    }

    /// The end of the next records of one size, and how many of them are asked for at once.
    fn part(&self) -> (Vec<u8>, usize) {
        let large = [KeyKind::Page, KeyKind::Xattr].map(Key::range_of);
        let (end, limit) = match large.into_iter().find(|(_, end)| self.start < *end) {
            Some((start, end)) if self.start >= start => (end, LARGE_AT_ONCE),
            Some((start, _)) => (start, RECORDS_AT_ONCE),
            None => return (self.end.clone(), RECORDS_AT_ONCE),
        };
        (end.min(self.end.clone()), limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Inode;
    use crate::meta::{Batch, MemoryVolume, MetaStore as _};

    #[tokio::test]
    async fn large_records_come_in_small_numbers_whatever_the_range() {
        let volume = MemoryVolume::new();
        let meta = volume.open();
        let mut batch = Batch::new();
        for letter in b'A'..=b'Z' {
            for number in 0..300_u64 {
                let key = [vec![letter], number.to_be_bytes().to_vec()].concat();
                batch.put(key, vec![1]);
            }
        }
        meta.apply(batch).await.unwrap();
        let part = |range| Cursor::over(&meta, range).part().1;
        assert_eq!(part(Key::range_of(KeyKind::Page)), LARGE_AT_ONCE);
        assert_eq!(part(Key::range_of_pages(Inode(5), 0, 9)), LARGE_AT_ONCE);
        assert_eq!(part(Key::range_of_xattrs(Inode(5))), LARGE_AT_ONCE);
        assert_eq!(part(Key::range_of(KeyKind::Entry)), RECORDS_AT_ONCE);
        let mut cursor = Cursor::over(&meta, (vec![0], vec![0xff; 2]));
        let mut records = Vec::new();
        while let Some((key, _)) = cursor.next().await.unwrap() {
            let is_large = key[0] == b'B' || key[0] == b'X';
            let most = if is_large { LARGE_AT_ONCE } else { RECORDS_AT_ONCE };
            assert!(cursor.loaded.len() < most, "{key:?}");
            records.push(key);
        }
        assert_eq!(records.len(), 26 * 300);
        assert!(records.is_sorted());
    }
}
