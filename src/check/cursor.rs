//! A walk over records in key order, some at a time.

use std::vec::IntoIter;

use crate::format::{Key, KeyKind};
use crate::meta::{MetaError, MetaRead, Record};

/// Records that one scan asks for: pages of block maps may have 64 KiB, the others are short.
const PAGES_AT_ONCE: usize = 128;
const RECORDS_AT_ONCE: usize = 2048;

/// The records of a range, in order.
pub(super) struct Cursor<'a> {
    meta: &'a dyn MetaRead,
    start: Vec<u8>,
    end: Vec<u8>,
    limit: usize,
    loaded: IntoIter<Record>,
    is_last: bool,
}

impl<'a> Cursor<'a> {
    /// All records of a kind.
    pub fn of(meta: &'a dyn MetaRead, kind: KeyKind) -> Self {
        let (start, end) = Key::range_of(kind);
        let limit = if kind == KeyKind::Page { PAGES_AT_ONCE } else { RECORDS_AT_ONCE };
        Self { limit, ..Self::over(meta, (start, end)) }
    }

    /// The records of `start..end`.
    pub fn over(meta: &'a dyn MetaRead, (start, end): (Vec<u8>, Vec<u8>)) -> Self {
        let loaded = Vec::new().into_iter();
        Self { meta, start, end, limit: RECORDS_AT_ONCE, loaded, is_last: false }
    }

    /// The next record; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Record>, MetaError> {
        loop {
            if let Some(record) = self.loaded.next() {
                return Ok(Some(record));
            }
            if self.is_last {
                return Ok(None);
            }
            let records = self.meta.scan(&self.start, &self.end, self.limit).await?;
            self.is_last = records.len() < self.limit;
            if let Some((key, _)) = records.last() {
                self.start = key.to_vec();
                self.start.push(0);
            }
            self.loaded = records.into_iter();
        }
    }
}
