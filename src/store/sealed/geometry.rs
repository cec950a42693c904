//! Where plaintext bytes stand in a sealed object. Pure arithmetic.
//!
//! ```text
//! plain   |        16 KiB        |        16 KiB        |  rest  |
//! sealed  | header | 16 KiB | tag | 16 KiB | tag | rest | tag |
//! ```
//!
//! An empty object has one empty chunk, so that even its emptiness is proven.

use crate::crypto;

/// Plaintext bytes of every chunk but the last.
pub(super) const CHUNK: u64 = crypto::METADATA_CHUNK as u64;
/// Sealed bytes of every chunk but the last.
pub(super) const SEALED_CHUNK: u64 = CHUNK + TAG;
/// Bytes in front of the first chunk.
pub(super) const HEADER: u64 = crypto::HEADER_LEN as u64;
const TAG: u64 = crypto::TAG_LEN as u64;

/// How many chunks `plain` bytes take: at least one.
pub(super) fn chunks(plain: u64) -> u64 {
    plain.div_ceil(CHUNK).max(1)
}

/// Size of the sealed object for `plain` bytes.
pub(super) fn sealed_len(plain: u64) -> u64 {
    HEADER + plain + TAG * chunks(plain)
}

/// Size of the plaintext in a sealed object; `None` if no object has this size.
pub(super) fn plain_len(sealed: u64) -> Option<u64> {
    let body = sealed.checked_sub(HEADER)?;
    let plain = body.checked_sub(TAG * body.div_ceil(SEALED_CHUNK))?;
    (sealed_len(plain) == sealed).then_some(plain)
}

/// First sealed byte of a chunk, saturating: no object reaches that far.
pub(super) fn chunk_start(index: u64) -> u64 {
    index.saturating_mul(SEALED_CHUNK).saturating_add(HEADER)
}

/// A suffix of the sealed object that holds every chunk of the last `plain` bytes, and of a small
/// object the header too.
pub(super) fn sealed_suffix(plain: u64) -> u64 {
    plain.div_ceil(CHUNK).saturating_add(1).saturating_mul(SEALED_CHUNK).saturating_add(HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_map_there_and_back_and_no_other_size_is_accepted() {
        let mut valid = std::collections::BTreeMap::new();
        for plain in 0..3 * CHUNK + 5 {
            valid.insert(sealed_len(plain), plain);
        }
        for sealed in 0..sealed_len(3 * CHUNK + 4) {
            assert_eq!(plain_len(sealed), valid.get(&sealed).copied(), "{sealed}");
        }
        assert_eq!(sealed_len(0), 112);
        assert!(plain_len(u64::MAX).is_none_or(|plain| sealed_len(plain) == u64::MAX));
    }

    #[test]
    fn a_suffix_reaches_back_to_the_start_of_its_first_chunk() {
        for len in (0..4 * CHUNK).step_by(1001).chain([CHUNK, 2 * CHUNK, 3 * CHUNK]) {
            for suffix in [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK] {
                let first = len.saturating_sub(suffix) / CHUNK;
                let first_sealed = sealed_len(len).saturating_sub(sealed_suffix(suffix));
                assert!(first_sealed <= chunk_start(first), "{suffix} of {len}");
            }
        }
    }
}
